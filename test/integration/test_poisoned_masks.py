"""The gate refuses masks that do not belong to their images, before any training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from gbopt_ros.config import Config, load_config
from gbopt_ros.io.datasets.coco import load_coco_dir
from gbopt_ros.io.resources import find_resource
from gbopt_ros.learning.store.gate import check_masks
from gbopt_ros.learning.store.gate_checks import agreement_of_parts, checked_parts
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.perception.load import load_proposal_network, proposal_weights
from gbopt_ros.structures import LabelledImage

IMAGES = 6
EVERY = np.arange(IMAGES)


@dataclass(frozen=True)
class Stills:
    images: list[LabelledImage]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> LabelledImage:
        return self.images[index]


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(None, ["device=cpu"])


@pytest.fixture(scope="module")
def chosen(config: Config) -> list[LabelledImage]:
    """Stills with the half of their proposals with the highest scores."""
    dataset = load_coco_dir(find_resource("demo/unseen-test"))
    images = [dataset.load_image(entry) for entry in dataset.images[:IMAGES]]
    proposals = load_proposal_network(config).propose(images)
    return [
        LabelledImage(image, found.rles[: len(found) // 2], ())
        for image, found in zip(images, proposals, strict=True)
    ]


def test_agreement_of_parts_of_intact_masks(config: Config, chosen: list[LabelledImage]) -> None:
    parent, _ = load_mask_rcnn(proposal_weights(config))
    agreement, _ = agreement_of_parts(parent, Stills(chosen), [EVERY], config)
    assert agreement == 1.0
    assert check_masks(agreement, config.learning).passed


def test_check_masks_refuses_masks_shuffled_between_images(
    config: Config, chosen: list[LabelledImage]
) -> None:
    parent, _ = load_mask_rcnn(proposal_weights(config))
    shuffled = [
        LabelledImage(image.image, other.rles, ())
        for image, other in zip(chosen, [*chosen[1:], chosen[0]], strict=True)
    ]
    agreement, _ = agreement_of_parts(parent, Stills(shuffled), [EVERY], config)
    assert agreement < 0.3
    decision = check_masks(agreement, config.learning, ["monday", "tuesday"])
    assert not decision.passed
    assert "they are of monday, tuesday" in decision.reason
    assert "masks do not belong to their images" in decision.reason


@pytest.mark.parametrize("bad", [0, 29])
def test_agreement_of_parts_finds_a_bad_recording_among_many(
    config: Config, chosen: list[LabelledImage], bad: int
) -> None:
    parent, _ = load_mask_rcnn(proposal_weights(config))
    shuffled = [
        LabelledImage(image.image, other.rles, ())
        for image, other in zip(chosen, [*chosen[1:], chosen[0]], strict=True)
    ]
    names = [f"day-{number:02d}" for number in range(30) for _ in range(IMAGES)]
    images = [*chosen * bad, *shuffled, *chosen * (29 - bad)]
    parts = checked_parts(names)
    assert [len(part) for part in parts] == [IMAGES] * 30
    # One of the good ones, to save time: the parent proposes all of their masks again.
    checked = [part for number, part in enumerate(parts) if number in (bad, 15)]
    agreement, part = agreement_of_parts(parent, Stills(images), checked, config)
    assert {names[index] for index in part} == {f"day-{bad:02d}"}
    assert not check_masks(agreement, config.learning).passed


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ((240,), [30] * 8),
        ((24,), [6] * 4),
        ((7,), [7]),
        ((1,), [1]),
        ((6, 6, 60), [6, 6, 10, 10, 10, 10, 10, 10]),
        ((2, 2, 2, 2), [8]),
        ((3,) * 5, [6, 9]),
        ((30, 2), [6, 6, 6, 6, 8]),
        ((2, 30), [8, 6, 6, 6, 6]),
    ],
)
def test_checked_parts_are_of_one_recording_where_it_is_long(
    frames: tuple[int, ...], expected: list[int]
) -> None:
    parts = checked_parts([f"{i}" for i, count in enumerate(frames) for _ in range(count)])
    assert [len(part) for part in parts] == expected
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(sum(frames)))


def test_agreement_of_parts_is_stopped_by_on_frame(
    config: Config, chosen: list[LabelledImage]
) -> None:
    parent, _ = load_mask_rcnn(proposal_weights(config))
    seen: list[None] = []
    agreement_of_parts(parent, Stills(chosen), [EVERY], config, lambda: seen.append(None))
    assert len(seen) == 6
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        agreement_of_parts(parent, Stills(chosen), [EVERY[:1]] * 200, config, interrupted)


def interrupted() -> None:
    raise KeyboardInterrupt
