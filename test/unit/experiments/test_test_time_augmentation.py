"""Test-time augmentation: proposals merged over several views of an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.detectron2_networks import needs_detectron2, tiny_detectron2
from support.networks import CPU, save_random_weights, tiny_mask_rcnn
from support.recordings import disc_picture

from experiments.test_time_augmentation import EnsembleProposals, _at_scale, merge_views
from gbopt_ros.config import Config, ProposalConfig
from gbopt_ros.masks import decode
from gbopt_ros.models.mask_rcnn import build_mask_rcnn

SIZE = (8, 12)


def boxes(*corners: tuple[int, int, int, int]) -> np.ndarray:
    """(n, 8, 12) bool masks of rectangles (top, left, bottom, right)."""
    masks = np.zeros((len(corners), *SIZE), bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_merge_views_prefers_agreement_to_one_high_score() -> None:
    agreed, alone = (0, 0, 4, 4), (4, 6, 8, 12)
    merged = merge_views(
        [
            (boxes(alone, agreed), scores(0.9, 0.6)),
            (boxes(agreed), scores(0.8)),
        ],
        SIZE,
        10,
    )
    np.testing.assert_allclose(merged.scores, [0.7, 0.45])
    np.testing.assert_array_equal(decode(merged.rles[0]), boxes(agreed)[0])
    np.testing.assert_array_equal(decode(merged.rles[1]), boxes(alone)[0])
    np.testing.assert_array_equal(merged.boxes, [[0, 0, 4, 4], [6, 4, 12, 8]])


def test_merge_views_draws_the_outline_by_weight() -> None:
    wide, narrow = boxes((0, 0, 4, 6)), boxes((0, 0, 4, 4))
    merged = merge_views(
        [(wide, scores(0.9)), (narrow, scores(0.3)), (narrow, scores(0.3))], SIZE, 5
    )
    np.testing.assert_array_equal(decode(merged.rles[0]), wide[0])
    merged = merge_views(
        [(wide, scores(0.5)), (narrow, scores(0.3)), (narrow, scores(0.3))], SIZE, 5
    )
    np.testing.assert_array_equal(decode(merged.rles[0]), narrow[0])
    assert len(merged) == 1


def test_merge_views_of_one_view_drops_duplicates() -> None:
    masks = boxes((0, 0, 4, 4), (4, 4, 8, 8), (0, 0, 4, 5))
    merged = merge_views([(masks, scores(0.9, 0.8, 0.7))], SIZE, 10)
    np.testing.assert_allclose(merged.scores, [0.9, 0.8])
    np.testing.assert_array_equal([decode(rle) for rle in merged.rles], masks[:2])


def test_merge_views_never_joins_masks_of_one_view() -> None:
    masks = boxes((0, 0, 4, 6), (0, 0, 4, 10))  # IoU 0.6: almost duplicates, one is dropped
    merged = merge_views([(masks, scores(0.9, 0.8))], SIZE, 10)
    np.testing.assert_allclose(merged.scores, [0.9])


def test_merge_views_keeps_at_most_max_proposals() -> None:
    nothing = (np.zeros((0, *SIZE), bool), scores())
    assert len(merge_views([nothing, nothing], SIZE, 5)) == 0
    many = (boxes((0, 0, 2, 2), (2, 2, 4, 4), (4, 4, 6, 6)), scores(0.3, 0.2, 0.1))
    assert len(merge_views([many, nothing], SIZE, 2)) == 2


def test_at_scale_shares_the_weights() -> None:
    network = tiny_mask_rcnn()
    scaled = _at_scale(network, 1.5)
    assert scaled.transform.min_size == (96,)
    assert network.transform.min_size == (64,)
    assert scaled.backbone is network.backbone


@pytest.mark.parametrize(
    ("size", "short_side", "sides"),
    [
        ((240, 320), 0, [192, 240, 300]),  # the network keeps the size of the image
        ((120, 160), 0, [192, 240, 300]),
        ((480, 640), 0, [256, 320, 400]),
        ((480, 640), 400, [320, 400, 500]),
    ],
)
def test_ensemble_sees_an_image_at_all_scales(
    size: tuple[int, int], short_side: int, sides: list[int]
) -> None:
    config = ProposalConfig(short_side=short_side)
    ensemble = EnsembleProposals(build_mask_rcnn("lite0-fpn"), "v", config, CPU)
    image = torch.zeros(3, *size)
    seen = [each._network.transform([image])[0].image_sizes[0] for each in ensemble._networks]
    assert list(map(min, seen)) == sides


@pytest.mark.parametrize(
    "make", [tiny_mask_rcnn, pytest.param(tiny_detectron2, marks=needs_detectron2)]
)
@pytest.mark.parametrize("scales", [(1.0,), (0.8, 1.0, 1.25)])
def test_ensemble_of_a_mirrored_image_gives_mirrored_proposals(make, scales) -> None:
    config = ProposalConfig(max_proposals=5)
    ensemble = EnsembleProposals(make(), "v", config, CPU, scales)
    image = disc_picture(0)[:64, :64]
    (plain,) = ensemble.propose([image])
    (mirrored,) = ensemble.propose([np.ascontiguousarray(image[:, ::-1])])
    assert 0 < len(plain) <= 5
    np.testing.assert_allclose(plain.scores, mirrored.scores, atol=1e-5)
    for a, b in zip(plain.rles, mirrored.rles, strict=True):
        assert (decode(a) != decode(b)[:, ::-1]).mean() < 0.01


def test_ensemble_threshold_is_for_merged_scores() -> None:
    def scores_above(threshold: float) -> np.ndarray:
        config = ProposalConfig(max_proposals=5, score_threshold=threshold)
        ensemble = EnsembleProposals(tiny_mask_rcnn(), "v", config, CPU)
        (found,) = ensemble.propose([disc_picture(0)[:64, :64]])
        return found.scores

    every = scores_above(0.0)
    middle = float(every[1:3].mean())
    np.testing.assert_array_equal(scores_above(middle), every[every > middle])


def test_ensemble_from_config(small_networks: None, tmp_path: Path) -> None:
    path = save_random_weights(tmp_path)["proposals"]
    proposal = ProposalConfig(weights=str(path), max_proposals=3)
    network = EnsembleProposals.from_config(Config(proposal=proposal, device="cpu"))
    assert network.version == "random"
    (found,) = network.propose([disc_picture(0)])
    assert 0 < len(found) <= 3
