"""Training targets of the two networks, made of an example; all tensors are on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gbopt_ros.learning.data.augmentation import Example


def detection_target(example: Example) -> dict[str, Tensor]:
    """torchvision's detection target: boxes xyxy (M, 4), labels (M,), masks (M, H, W) uint8.

    Labels are 1 on objects, 0 on regions that a person rejected and -1 on ignore regions, and
    `complete` () bool says whether all objects have a mask. `with_ignore_regions` understands them.
    """
    boxes = np.zeros((len(example.masks), 4), np.float32)
    for box, mask in zip(boxes, example.masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    labels = np.where(example.is_object, 1, -1)
    if example.is_rejected is not None:
        labels[example.is_rejected] = 0
    return {
        "boxes": torch.from_numpy(boxes),
        "labels": torch.from_numpy(labels),
        "masks": torch.from_numpy(example.masks.view(np.uint8)),
        "complete": torch.tensor(example.complete),
    }


def semantic_target(example: Example) -> dict[str, Tensor]:
    """The background network's targets, (H, W) float32 each.

    Returns:
        `foreground`: 1 on objects; elsewhere the teacher's probability, 0 without a teacher.
        `known`: 1; without a teacher 0 on ignore regions and, where not every object has a mask,
        on all but the objects and what a person rejected.
    """
    objects = np.any(example.masks[example.is_object], axis=0)
    known = np.ones(objects.shape, np.bool_)
    foreground = objects.astype(np.float32)
    if example.foreground is not None:
        foreground = np.maximum(foreground, example.foreground / np.float32(255))
    elif example.complete:
        known[np.any(example.masks[~example.is_object], axis=0) & ~objects] = False
    else:
        known[~objects] = False
        if example.is_rejected is not None:
            known |= np.any(example.masks[example.is_rejected], axis=0)
    return {
        "foreground": torch.from_numpy(foreground),
        "known": torch.from_numpy(known.astype(np.float32)),
    }
