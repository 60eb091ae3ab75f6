"""Batches of augmented examples, as the networks take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from gbopt_ros.config import AugmentConfig
from gbopt_ros.learning.data.augmentation import Example, augment, copy_paste, to_example
from gbopt_ros.learning.data.datasets import InstanceDataset


def example_batches(
    pools: Sequence[tuple[InstanceDataset, int]], augmentation: AugmentConfig, seed: int
) -> Iterator[list[Example]]:
    """Endless batches that take a fixed number of examples from each pool.

    Each pool is walked in random order without replacement, epoch after epoch. Copy-paste mixes
    examples within a pool only, so that labels of different trust are not mixed.

    Args:
        pools: (pool, examples of each batch); pools that give 0 examples are not touched.
        augmentation: strengths.
        seed: decides order and augmentation.
    """
    rng = np.random.default_rng(seed)
    orders = [_endless_order(len(pool), rng) for pool, count in pools if count]
    used = [(pool, count) for pool, count in pools if count]
    while True:
        batch = []
        for (pool, count), order in zip(used, orders, strict=True):
            for _ in range(count):
                batch.append(draw_example(pool, next(order), rng, augmentation))
        yield batch


def draw_example(
    pool: InstanceDataset, index: int, rng: np.random.Generator, augmentation: AugmentConfig
) -> Example:
    """An image of the pool, augmented, at times with instances of another pasted into it."""
    example = augment(to_example(pool[index]), rng, augmentation)
    if rng.random() < augmentation.copy_paste:
        donor = augment(to_example(pool[int(rng.integers(len(pool)))]), rng, augmentation)
        if donor.image.shape == example.image.shape:
            example = copy_paste(example, donor, rng, augmentation.min_pixels)
    return example


def _endless_order(n: int, rng: np.random.Generator) -> Iterator[int]:
    if n == 0:
        raise ValueError("example_batches: a pool is empty")
    while True:
        yield from (int(i) for i in rng.permutation(n))


def image_tensor(example: Example, device: torch.device) -> Tensor:
    """(3, H, W) float32 in [0, 1], RGB."""
    tensor = torch.from_numpy(np.ascontiguousarray(example.image.transpose(2, 0, 1)))
    return tensor.to(device, non_blocking=True).float().div_(255.0)


def detection_target(example: Example, device: torch.device) -> dict[str, Tensor]:
    """torchvision's detection target: boxes xyxy (M, 4), labels (M,), masks (M, H, W) uint8.

    Labels are 1 on objects and -1 on ignored regions, which `with_ignore_regions` understands.
    """
    m = len(example.masks)
    boxes = np.zeros((m, 4), np.float32)
    for box, mask in zip(boxes, example.masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return {
        "boxes": torch.from_numpy(boxes).to(device),
        "labels": torch.from_numpy(np.where(example.is_object, 1, -1)).to(device),
        "masks": torch.from_numpy(example.masks.view(np.uint8)).to(device),
    }


def foreground_target(example: Example, device: torch.device) -> Tensor:
    """(H, W) float32: 1 on every instance, 0 elsewhere."""
    instances = example.masks[example.is_object]
    return torch.from_numpy(instances.any(axis=0).astype(np.float32)).to(device)


def known_pixels(example: Example, device: torch.device) -> Tensor:
    """(H, W) float32: 0 on ignored regions where no instance is, 1 elsewhere."""
    instances = example.masks[example.is_object].any(axis=0)
    ignored = example.masks[~example.is_object].any(axis=0)
    return torch.from_numpy((instances | ~ignored).astype(np.float32)).to(device)
