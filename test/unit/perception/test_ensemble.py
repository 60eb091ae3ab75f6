"""Proposals merged over several views of an image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.networks import CPU, save_random_weights, tiny_mask_rcnn
from support.recordings import disc_picture

from gbopt_ros.config import ProposalConfig
from gbopt_ros.config.proposal import ENSEMBLES
from gbopt_ros.masks import decode
from gbopt_ros.perception.ensemble import (
    SCALES,
    EnsembleProposals,
    _at_scale,
    load_proposals,
    merge_views,
)
from gbopt_ros.perception.proposals import MaskRcnnProposals

SIZE = (8, 12)


def boxes(*corners: tuple[int, int, int, int]) -> np.ndarray:
    """(n, 8, 12) bool masks of rectangles (top, left, bottom, right)."""
    masks = np.zeros((len(corners), *SIZE), bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_every_choice_has_its_scales() -> None:
    assert SCALES.keys() == set(ENSEMBLES)


def test_agreement_counts_more_than_one_high_score() -> None:
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


def test_an_outline_is_where_the_weight_is() -> None:
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


def test_one_view_alone_comes_back_without_duplicates() -> None:
    masks = boxes((0, 0, 4, 4), (4, 4, 8, 8), (0, 0, 4, 5))
    merged = merge_views([(masks, scores(0.9, 0.8, 0.7))], SIZE, 10)
    np.testing.assert_allclose(merged.scores, [0.9, 0.8])
    np.testing.assert_array_equal([decode(rle) for rle in merged.rles], masks[:2])


def test_masks_of_one_view_are_never_joined() -> None:
    masks = boxes((0, 0, 4, 6), (0, 0, 4, 10))  # IoU 0.6: almost duplicates, one is dropped
    merged = merge_views([(masks, scores(0.9, 0.8))], SIZE, 10)
    np.testing.assert_allclose(merged.scores, [0.9])


def test_no_candidates_and_a_limit() -> None:
    nothing = (np.zeros((0, *SIZE), bool), scores())
    assert len(merge_views([nothing, nothing], SIZE, 5)) == 0
    many = (boxes((0, 0, 2, 2), (2, 2, 4, 4), (4, 4, 6, 6)), scores(0.3, 0.2, 0.1))
    assert len(merge_views([many, nothing], SIZE, 2)) == 2


def test_a_scaled_network_shares_its_weights() -> None:
    network = tiny_mask_rcnn()
    scaled = _at_scale(network, 1.5)
    assert scaled.transform.min_size == (96,)
    assert network.transform.min_size == (64,)
    assert scaled.backbone is network.backbone


def test_a_mirrored_image_gives_mirrored_proposals() -> None:
    config = ProposalConfig(ensemble="mirror", max_proposals=5)
    ensemble = EnsembleProposals(tiny_mask_rcnn(), "v", config, CPU)
    image = disc_picture(0)[:64, :64]
    (plain,) = ensemble.propose([image])
    (mirrored,) = ensemble.propose([np.ascontiguousarray(image[:, ::-1])])
    assert len(plain) > 0
    np.testing.assert_allclose(plain.scores, mirrored.scores, atol=1e-5)
    for a, b in zip(plain.rles, mirrored.rles, strict=True):
        assert (decode(a) != decode(b)[:, ::-1]).mean() < 0.01


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_from_file(tmp_path: Path, ensemble: str) -> None:
    path = save_random_weights(tmp_path)["proposals"]
    config = ProposalConfig(ensemble=ensemble, max_proposals=3)
    network = load_proposals(path, config, CPU)
    assert isinstance(network, MaskRcnnProposals) == (ensemble == "none")
    assert network.version == "random"
    images = [disc_picture(0), disc_picture(1)]
    both = network.propose(images)
    assert all(len(p) <= 3 for p in both)
    (first,) = load_proposals(path, replace(config), CPU).propose(images[:1])
    assert first.rles == both[0].rles
