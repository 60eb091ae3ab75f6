"""A small labelled image for the tests of learning."""

from __future__ import annotations

import numpy as np

from gbopt_ros.masks import encode_all
from gbopt_ros.structures import LabelledImage


def labelled(value: int = 0, columns: int = 3) -> LabelledImage:
    mask = np.zeros((1, 4, 6), bool)
    mask[0, 1:3, :columns] = True
    return LabelledImage(np.full((4, 6, 3), value, np.uint8), encode_all(mask))
