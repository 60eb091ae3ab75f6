"""Batches: shares of the datasets, order of their images, workers and processes."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.networks import CPU

from gbopt_ros.config import AugmentConfig
from gbopt_ros.learning.data.augmentation import Example
from gbopt_ros.learning.data.loader import Batch, Batches, draw_example, load_batches, to_device
from gbopt_ros.masks import encode_all
from gbopt_ros.structures import GboptError, LabelledImage

PLAIN = AugmentConfig(
    scale_min=1.0, scale_max=1.0, copy_paste=0.0, flip=0.0, colour=0.0, blur=0.0, noise=0.0
)
REPLACING = AugmentConfig(
    scale_min=1.0, scale_max=1.0, copy_paste=1.0, flip=0.0, colour=0.0, blur=0.0, noise=0.0,
    min_pixels=1,
)  # fmt: skip
PASTING = AugmentConfig(
    scale_min=1.0, scale_max=1.0, copy_paste=1.0, flip=0.0, colour=0.0, blur=0.0, noise=0.0
)


class Numbered:
    """Image i has the value `first` + i everywhere, and one instance of 10 x 10 pixels."""

    def __init__(self, count: int, first: int = 0, size: tuple[int, int] = (16, 16)) -> None:
        self.count, self.first, self.size = count, first, size
        self.drawn: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> LabelledImage:
        self.drawn.append(index)
        mask = np.zeros((1, *self.size), bool)
        mask[0, 2:12, 2:12] = True
        image = np.full((*self.size, 3), self.first + index, np.uint8)
        return LabelledImage(image, encode_all(mask))


class Broken(Numbered):
    def __getitem__(self, index: int) -> LabelledImage:
        raise GboptError(f"{index}.jpg: missing")


def masks_of(example: Example) -> dict[str, torch.Tensor]:
    return {"masks": torch.from_numpy(example.masks)}


def batches(
    *datasets: tuple[Numbered, int], augmentation: AugmentConfig = PLAIN, seed: int = 3,
    **options: int,
) -> Batches:  # fmt: skip
    return Batches(datasets or [(Numbered(7), 4)], augmentation, seed, masks_of, **options)


def values(batch: Batch) -> list[int]:
    return [int(image[0, 0, 0]) for image, _ in batch.samples]


def test_batches_take_a_share_from_each_dataset() -> None:
    drawn = batches((Numbered(5, 10), 3), (Numbered(4, 100), 1))
    for step in range(20):
        assert [value >= 100 for value in values(drawn[step])] == [False, False, False, True]


@pytest.mark.parametrize("others", [0, 1])
def test_batches_draw_every_image_once_an_epoch(others: int) -> None:
    drawn = batches(*[(Numbered(5, 100), 2)] * others, (Numbered(7, 10), 4))
    row = [value for step in range(7) for value in values(drawn[step])[2 * others :]]
    epochs = [row[start : start + 7] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(10, 17)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_batches_augment_an_image_differently_in_every_epoch() -> None:
    drawn = batches((Numbered(1, 100), 1), augmentation=replace(PLAIN, colour=1.0))
    assert len({values(drawn[step])[0] for step in range(8)}) > 4


def test_batches_of_two_datasets_have_different_orders() -> None:
    drawn = batches((Numbered(30), 30), (Numbered(30), 30))
    assert values(drawn[0])[:30] != values(drawn[0])[30:]


def test_batches_are_the_same_whenever_they_are_drawn() -> None:
    datasets = (Numbered(7), 4), (Numbered(3, 50), 2)
    forwards, again = (batches(*datasets, augmentation=AugmentConfig()) for _ in range(2))
    rows = [forwards[step] for step in range(5)]
    for step in (4, 0, 3):
        batch = again[step]
        assert batch.seed == rows[step].seed
        for (image, targets), (other, others) in zip(
            batch.samples, rows[step].samples, strict=True
        ):
            assert torch.equal(image, other)
            assert torch.equal(targets["masks"], others["masks"])
    assert len({row.seed for row in rows}) == 5
    assert values(batches(*datasets, seed=4)[0]) != values(batches(*datasets)[0])


def test_batches_are_shared_by_processes() -> None:
    datasets = (Numbered(7), 4), (Numbered(5, 50), 2)
    alone = batches(*datasets)
    shares = [batches(*datasets, processes=2, rank=rank) for rank in (0, 1)]
    for step in range(6):
        first, second = (values(share[step]) for share in shares)
        assert first[:2] + second[:2] + first[2:] + second[2:] == values(alone[step])
        assert shares[0][step].seed != shares[1][step].seed


def test_batches_do_not_read_a_dataset_without_share() -> None:
    unused = Numbered(0)
    assert len(batches((unused, 0), (Numbered(3), 2))[0].samples) == 2
    assert unused.drawn == []


def test_batches_refuse_an_empty_dataset() -> None:
    with pytest.raises(ValueError, match="one is empty"):
        batches((Numbered(3), 1), (Numbered(0), 2))


def test_batches_copy_paste_within_a_dataset() -> None:
    drawn = batches((Numbered(4, 10), 2), (Numbered(4, 200), 2), augmentation=PASTING)
    seen = set()
    for step in range(10):
        for (image, targets), low in zip(drawn[step].samples, (10, 10, 200, 200), strict=True):
            # Mixing along the edge of what was pasted may round one grey level down.
            assert low - 1 <= image.min() and image.max() < low + 4
            seen.add(bool(image.max() > image.min() + 1))
            assert targets["masks"].sum(dim=0).max() == 1
    assert seen == {True, False}  # something was pasted; at times an image on itself


def test_draw_example_pastes_from_images_of_other_sizes() -> None:
    class Mixed(Numbered):
        """A small image of the value 50, and a large one of 150."""

        def __getitem__(self, index: int) -> LabelledImage:
            self.size, self.first = ((16, 16), 50) if index == 0 else ((40, 48), 149)
            return super().__getitem__(index)

    for index, size, own in ((0, (16, 16), 50), (1, (40, 48), 150)):
        pasted = 0
        for seed in range(6):
            rng = np.random.default_rng(seed)
            example = draw_example(Mixed(2), index, rng, REPLACING)
            assert example.image.shape[:2] == example.masks.shape[1:] == size
            shown = np.abs(example.image[..., 0].astype(int) - own) > 50  # the other's by half
            assert np.array_equal(shown, example.masks[-1] & shown.any())
            pasted += bool(shown.any())
        assert 0 < pasted < 6  # at times an image is pasted on itself


@pytest.mark.parametrize("workers", [0, 2])
def test_load_batches_in_order_from_any_step(workers: int) -> None:
    drawn = batches()
    loaded = list(load_batches(drawn, 2, 6, CPU, workers))
    assert [batch.seed for batch in loaded] == [drawn[step].seed for step in range(2, 6)]
    assert [values(batch) for batch in loaded] == [values(drawn[step]) for step in range(2, 6)]


@pytest.mark.parametrize("workers", [0, 1])
def test_load_batches_reports_a_bad_image_in_one_line(workers: int) -> None:
    with pytest.raises(GboptError) as caught:
        list(load_batches(batches((Broken(3), 1)), 0, 4, CPU, workers))
    assert str(caught.value) in [f"{index}.jpg: missing" for index in range(3)]
    gc.collect()  # torch raises a worker's exception in a cycle of references to its queue


def test_to_device_scales_to_one() -> None:
    sample = batches((Numbered(1, 51), 1))[0].samples[0]
    assert sample[0].dtype == torch.uint8
    image, targets = to_device(sample, CPU)
    assert image.dtype == torch.float32
    assert image.shape == (3, 16, 16)
    np.testing.assert_allclose(image, 0.2, rtol=1e-6)
    assert targets["masks"].sum() == 100
