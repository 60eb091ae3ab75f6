"""Batches: shares of the pools, order of their images, and the targets of the networks."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from support.networks import CPU

from gbopt_ros.config import AugmentConfig
from gbopt_ros.io.datasets.coco import CocoDataset, CocoImage
from gbopt_ros.learning.data.augmentation import Example
from gbopt_ros.learning.data.batches import (
    detection_target,
    example_batches,
    foreground_target,
    image_tensor,
)
from gbopt_ros.learning.data.datasets import CocoInstances
from gbopt_ros.masks import encode_all
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.structures import GboptError, LabelledImage

PLAIN = AugmentConfig(
    scale_min=1.0, scale_max=1.0, copy_paste=0.0, flip=0.0, colour=0.0, blur=0.0, noise=0.0
)
PASTING = AugmentConfig(
    scale_min=1.0, scale_max=1.0, copy_paste=1.0, flip=0.0, colour=0.0, blur=0.0, noise=0.0
)


class Numbered:
    """Image i is all of the value `first` + i, with one instance."""

    def __init__(self, count: int, first: int, size: tuple[int, int] = (16, 16)) -> None:
        self.count, self.first, self.size = count, first, size
        self.drawn: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> LabelledImage:
        self.drawn.append(index)
        mask = np.zeros(self.size, bool)
        mask[2:12, 2:12] = True
        value = self.first + index
        return LabelledImage(np.full((*self.size, 3), value, np.uint8), encode_all(mask[None]))


def values(batch: list[Example]) -> list[int]:
    return [int(example.image[0, 0, 0]) for example in batch]


def test_each_pool_has_its_share() -> None:
    first, second = Numbered(5, 10), Numbered(4, 100)
    for batch in islice(example_batches([(first, 3), (second, 1)], PLAIN, 0), 20):
        assert [value >= 100 for value in values(batch)] == [False, False, False, True]


def test_epochs_without_replacement() -> None:
    pool = Numbered(7, 10)
    stream = example_batches([(pool, 3)], PLAIN, 0)
    drawn = [value for batch in islice(stream, 14) for value in values(batch)]
    epochs = [drawn[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(10, 17)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1  # in a new order each


def test_a_pool_without_share_is_not_touched() -> None:
    unused = Numbered(0, 0)
    batch = next(example_batches([(unused, 0), (Numbered(3, 1), 2)], PLAIN, 0))
    assert len(batch) == 2
    assert unused.drawn == []


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        next(example_batches([(Numbered(0, 0), 2)], PLAIN, 0))


def test_the_seed_decides_order_and_augmentation() -> None:
    def images(seed: int) -> np.ndarray:
        stream = example_batches([(Numbered(6, 50), 4)], AugmentConfig(), seed)
        return np.stack([example.image for batch in islice(stream, 3) for example in batch])

    np.testing.assert_array_equal(images(1), images(1))
    assert not np.array_equal(images(1), images(2))


def test_copy_paste_stays_within_a_pool() -> None:
    pools = [(Numbered(4, 10), 2), (Numbered(4, 200), 2)]
    seen = set()
    for batch in islice(example_batches(pools, PASTING, 0), 10):
        for example, low in zip(batch, (10, 10, 200, 200), strict=True):
            # Mixing along the edge of what was pasted may round one grey level down.
            assert low - 1 <= example.image.min() and example.image.max() < low + 4
            seen.add(np.ptp(example.image) > 1)
            np.testing.assert_array_equal(example.masks.sum(axis=0).max(), 1)
    assert seen == {True, False}  # something was pasted; at times an image on itself


def test_images_of_other_sizes_are_not_pasted() -> None:
    class Mixed(Numbered):
        def __getitem__(self, index: int) -> LabelledImage:
            self.size = (16, 16) if index == 0 else (20, 24)
            return super().__getitem__(index)

    for batch in islice(example_batches([(Mixed(2, 0), 2)], PASTING, 0), 5):
        for example in batch:
            assert len(np.unique(example.image)) == 1
            assert example.image.shape[:2] == (
                (16, 16) if example.image[0, 0, 0] == 0 else (20, 24)
            )


# --------------------------------------------------------------------------------------- targets


def example() -> Example:
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:3, 2:7] = True
    masks[1, 5, 0] = True
    masks[1, 3, 1] = True
    image = np.zeros((6, 8, 3), np.uint8)
    image[1, 2] = (255, 51, 0)
    return Example(image, masks, np.ones(len(masks), bool))


def test_detection_target_by_hand() -> None:
    target = detection_target(example(), CPU)
    assert target["boxes"].tolist() == [[2, 1, 7, 3], [0, 3, 2, 6]]  # right and bottom exclusive
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [1, 1]
    assert target["labels"].dtype == torch.int64
    assert target["masks"].dtype == torch.uint8
    np.testing.assert_array_equal(target["masks"].numpy(), example().masks)


def test_ignored_regions_are_neither_object_nor_background() -> None:
    whole = example()
    unknown = Example(whole.image, whole.masks, np.array([True, False]))
    assert detection_target(unknown, CPU)["labels"].tolist() == [1, -1]
    np.testing.assert_array_equal(foreground_target(unknown, CPU).numpy(), whole.masks[0])


def test_roi_heads_never_sample_an_ignored_region() -> None:
    heads = build_mask_rcnn("slim18-fpn").roi_heads
    boxes = torch.tensor([[0, 0, 20, 20], [30, 30, 60, 60], [70, 0, 90, 20]]).float()
    labels = torch.tensor([1, -1])
    _, assigned = heads.assign_targets_to_proposals([boxes], [boxes[:2]], [labels])
    assert assigned[0].tolist() == [1, -1, 0]
    assert heads.subsample(assigned)[0].tolist() == [0, 2]


def test_detection_target_of_no_instance() -> None:
    target = detection_target(
        Example(example().image, np.zeros((0, 6, 8), bool), np.zeros(0, bool)), CPU
    )
    assert {name: tuple(value.shape) for name, value in target.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, 6, 8),
    }


def test_foreground_target_by_hand() -> None:
    target = foreground_target(example(), CPU)
    assert target.dtype == torch.float32
    np.testing.assert_array_equal(target.numpy(), example().masks.any(axis=0))
    empty = foreground_target(
        Example(example().image, np.zeros((0, 6, 8), bool), np.zeros(0, bool)), CPU
    )
    assert empty.shape == (6, 8)
    assert empty.sum() == 0


def test_image_tensor_by_hand() -> None:
    tensor = image_tensor(example(), CPU)
    assert tensor.shape == (3, 6, 8)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor[:, 1, 2], [1.0, 0.2, 0.0])
    assert tensor.sum() == pytest.approx(1.2)


# ----------------------------------------------------------------------------------------- pools


def test_coco_pool_leaves_out_images_without_instances(tmp_path) -> None:
    rles = encode_all(np.ones((1, 4, 4), bool))
    images = tuple(CocoImage(i, f"{i}.png", 4, 4) for i in (1, 2, 3))
    pool = CocoInstances(CocoDataset(images, {1: rles, 2: (), 3: rles}, tmp_path))
    assert len(pool) == 2
    with pytest.raises(GboptError, match=r"3\.png.*No such file"):
        pool[1]


def test_coco_pool_of_nothing(tmp_path) -> None:
    images = (CocoImage(1, "1.png", 4, 4),)
    with pytest.raises(GboptError, match="no image has an instance"):
        CocoInstances(CocoDataset(images, {1: ()}, tmp_path))
