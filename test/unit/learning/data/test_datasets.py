"""Datasets: which images and masks they hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gbopt_ros.io.datasets.coco import CocoDataset, CocoImage
from gbopt_ros.learning.data.datasets import (
    CocoInstances,
    SelectedDataset,
    SelectedImage,
    confidence_cutoff,
)
from gbopt_ros.masks import encode_all
from gbopt_ros.structures import GboptError


def selected(*confidences: tuple[float, ...]) -> SelectedDataset:
    """One frame for each tuple, in recordings a and b in turn; mask i covers row i."""
    rles = encode_all(np.eye(4, dtype=bool)[:, :, None] & np.ones(4, bool))
    return SelectedDataset(
        SelectedImage(Path(f"{n}.png"), rles[: len(values)], values, recording="ab"[n % 2])
        for n, values in enumerate(confidences)
    )


def test_coco_instances_leaves_out_images_without_instances(tmp_path: Path) -> None:
    rles = encode_all(np.ones((1, 4, 4), bool))
    images = tuple(CocoImage(i, f"{i}.png", 4, 4) for i in (1, 2, 3))
    dataset = CocoInstances(CocoDataset(images, {1: rles, 2: (), 3: rles}, tmp_path))
    assert len(dataset) == 2
    with pytest.raises(GboptError, match=r"3\.png.*No such file"):
        dataset[1]


def test_coco_instances_refuses_a_dataset_without_instances(tmp_path: Path) -> None:
    images = (CocoImage(1, "1.png", 4, 4),)
    with pytest.raises(GboptError, match="no image has an instance"):
        CocoInstances(CocoDataset(images, {1: ()}, tmp_path))


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], 0.5), ([()], 0.5), ([(0.1, 0.3)], 0.2), ([(0.1,), (0.9, 0.8)], 0.5), ([(0.2,)], 0.2)],
)
def test_confidence_cutoff_keeps_at_least_half(
    values: list[tuple[float, ...]], expected: float
) -> None:
    assert confidence_cutoff(values, 0.5) == pytest.approx(expected)


def test_filter_by_confidence_drops_masks_and_empty_frames() -> None:
    dataset = selected((0.9, 0.1, 0.6), (0.2,), (0.8,))
    kept = dataset.filter_by_confidence(0.6)
    assert [entry.confidences for entry in kept.entries] == [(0.9, 0.6), (0.8,)]
    first = dataset.entries[0].rles
    assert kept.entries[0].rles == (first[0], first[2])
    assert (kept.instance_count, dataset.instance_count) == (3, 5)


def test_subsample_takes_evenly_spaced_frames() -> None:
    dataset = selected(*[(0.1 * n,) for n in range(7)])
    assert [entry.path.stem for entry in dataset.subsample(3).entries] == ["0", "2", "4"]
    assert len(dataset.subsample(7)) == len(dataset.subsample(8)) == 7
    assert len(SelectedDataset([]).subsample(3)) == 0


def test_with_confidences_and_recordings() -> None:
    dataset = selected((0.9,), (0.2, 0.3), (0.8,))
    changed = dataset.with_confidences([[0.1], [0.4, 0.5], [0.6]])
    assert [entry.confidences for entry in changed.entries] == [(0.1,), (0.4, 0.5), (0.6,)]
    assert [entry.rles for entry in changed.entries] == [entry.rles for entry in dataset.entries]
    assert dataset.recordings([0, 2]) == ["a"]
    assert dataset.recordings([2, 1]) == ["a", "b"]


def test_verified_masks_keep_their_confidence_and_stay_in_every_choice() -> None:
    entries = list(selected(*[(0.1, 0.2)] * 6).entries)
    entries[3] = replace(entries[3], confidences=(0.1, 1.0), verified=(False, True))
    dataset = SelectedDataset(entries).with_confidences([[0.6, 0.0]] * 6)
    assert [entry.confidences for entry in dataset.entries] == [
        (0.6, 0.0), (0.6, 0.0), (0.6, 0.0), (0.6, 1.0), (0.6, 0.0), (0.6, 0.0)
    ]  # fmt: skip
    assert [entry.path.stem for entry in dataset.subsample(1).entries] == ["3"]
    assert [entry.path.stem for entry in dataset.subsample(3).entries] == ["0", "2", "3"]
    (kept,) = dataset.subsample(1).filter_by_confidence(0.9).entries
    assert (kept.rles, kept.verified) == (entries[3].rles[1:], (True,))
    assert [len(entry.rles) for entry in dataset.unverified().entries] == [2, 2, 2, 1, 2, 2]


def test_frames_with_rejected_masks_alone_are_learnt_and_not_checked_by_the_gate() -> None:
    entries = list(selected((0.9,), (0.8,), ()).entries)
    entries[2] = replace(entries[2], rejected=entries[0].rles)
    dataset = SelectedDataset(entries)
    assert [e.path.stem for e in dataset.filter_by_confidence(0.7).entries] == ["0", "1", "2"]
    assert [e.path.stem for e in dataset.filter_by_confidence(0.8).subsample(1).entries] == ["2"]
    assert [e.path.stem for e in dataset.unverified().entries] == ["0", "1"]
