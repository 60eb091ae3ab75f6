"""Training targets of the two networks, made of an example; all tensors are on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gbopt_ros.learning.data.augmentation import Example


def detection_target(example: Example) -> dict[str, Tensor]:
    """torchvision's detection target: boxes xyxy (M, 4), labels (M,), masks (M, H, W) uint8.

    Labels are 1 on objects and -1 on ignore regions, which `with_ignore_regions` understands.
    """
    boxes = np.zeros((len(example.masks), 4), np.float32)
    for box, mask in zip(boxes, example.masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return {
        "boxes": torch.from_numpy(boxes),
        "labels": torch.from_numpy(np.where(example.is_object, 1, -1)),
        "masks": torch.from_numpy(example.masks.view(np.uint8)),
    }


def semantic_target(example: Example) -> dict[str, Tensor]:
    """The background network's targets, (H, W) float32 each.

    Returns:
        `foreground`: 1 on objects, 0 elsewhere. `known`: 0 on ignore regions without an object,
        1 elsewhere.
    """
    foreground = example.masks[example.is_object].any(axis=0)
    ignored = example.masks[~example.is_object].any(axis=0)
    return {
        "foreground": torch.from_numpy(foreground.astype(np.float32)),
        "known": torch.from_numpy((foreground | ~ignored).astype(np.float32)),
    }
