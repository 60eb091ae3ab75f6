"""A small store whose masks a person can look at."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.learning.store.store import Store
from gbopt_ros.masks import encode_all

SIZE = (60, 80)
CONFIDENCES = ((0.9, 0.3), (0.8, 0.1), (0.7, 0.6))


def masks(number: int) -> np.ndarray:
    """(2, 60, 80) bool: two discs, which move from frame to frame."""
    rows, columns = np.indices(SIZE)
    places = ((20, 20 + 4 * number), (40, 56 - 4 * number))
    return np.stack([np.hypot(rows - y, columns - x) < 9 for y, x in places])


def make_store(folder: Path) -> Store:
    """Three frames, of the clips 0, 0 and 1, with two masks each, of `CONFIDENCES`."""
    frames = []
    for number, confidences in enumerate(CONFIDENCES):
        found = masks(number)
        pixels = np.full((*SIZE, 3), 60, np.uint8)
        pixels[found[0]], pixels[found[1]] = (40, 80, 220), (200, 160, 40)
        pixels += np.random.default_rng(number).integers(0, 30, pixels.shape, np.uint8)
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), pixels)
        frames.append(
            SelectedFrame("desk", number // 2, number, number, path, SIZE, encode_all(found),
                          (0.9, 0.4), confidences, "v0001", (1, 2))
        )  # fmt: skip
    store = Store(folder / "store")
    with store.training_set() as training_set:
        training_set.add(frames)
    return store
