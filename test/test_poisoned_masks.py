"""Masks that do not belong to their images are refused before anything is learnt from them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gbopt_ros.config import Config, load_config
from gbopt_ros.learning.gate import check_masks
from gbopt_ros.perception.proposals import load_mask_rcnn
from gbopt_ros.pipeline import load_proposal_network, proposal_weights
from gbopt_ros.resources import find_resource
from gbopt_ros.rounds import proposed_share
from gbopt_ros.sources.coco import load_coco_dir
from gbopt_ros.structures import LabelledImage

IMAGES = 6


@dataclass(frozen=True)
class Pool:
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
    """Stills with the better half of their proposals."""
    dataset = load_coco_dir(find_resource("demo/unseen-test"))
    images = [dataset.load_image(entry) for entry in dataset.images[:IMAGES]]
    proposals = load_proposal_network(config).propose(images)
    return [
        LabelledImage(image, found.rles[: len(found) // 2], ())
        for image, found in zip(images, proposals, strict=True)
    ]


def test_intact_masks_are_proposals_of_the_parent(
    config: Config, chosen: list[LabelledImage]
) -> None:
    parent, _ = load_mask_rcnn(proposal_weights(config))
    agreement, _ = proposed_share(parent, Pool(chosen), config)
    assert agreement == 1.0
    assert check_masks(agreement, config.learning).passed


def test_masks_shuffled_between_images_are_refused(
    config: Config, chosen: list[LabelledImage]
) -> None:
    parent, _ = load_mask_rcnn(proposal_weights(config))
    shuffled = [
        LabelledImage(image.image, other.rles, ())
        for image, other in zip(chosen, [*chosen[1:], chosen[0]], strict=True)
    ]
    agreement, _ = proposed_share(parent, Pool(shuffled), config)
    assert agreement < 0.3
    decision = check_masks(agreement, config.learning, ["monday", "tuesday"])
    assert not decision.passed
    assert "they are of monday, tuesday" in decision.reason
    assert "masks do not belong to their images" in decision.reason


def test_a_bad_round_among_good_ones_is_found(config: Config, chosen: list[LabelledImage]) -> None:
    parent, _ = load_mask_rcnn(proposal_weights(config))
    shuffled = [
        LabelledImage(image.image, other.rles, ())
        for image, other in zip(chosen, [*chosen[1:], chosen[0]], strict=True)
    ]
    agreement, part = proposed_share(parent, Pool([*chosen, *chosen, *shuffled, *chosen]), config)
    assert set(part) & set(range(2 * IMAGES, 3 * IMAGES))
    assert not check_masks(agreement, config.learning).passed
