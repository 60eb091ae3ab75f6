"""How far two outputs lie apart, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.conformance import (
    EXACT,
    HALF,
    Tolerance,
    compare_backgrounds,
    compare_flows,
    compare_proposals,
)
from gbopt_ros.masks import boxes_xyxy, encode_all
from gbopt_ros.structures import Proposals

WITHIN = Tolerance(score=0.05, iou=0.6, background=0.1, flow=0.5)


def proposals(widths: list[int], scores: list[float]) -> Proposals:
    """In 4 rows of 8 pixels, one row a mask, of so many pixels from the left."""
    masks = np.zeros((len(widths), 4, 8), bool)
    for row, width in enumerate(widths):
        masks[row, row, :width] = True
    rles = encode_all(masks)
    return Proposals((4, 8), rles, np.array(scores, np.float32), boxes_xyxy(rles))


def test_compare_proposals_matches_masks_one_to_one_and_compares_their_scores() -> None:
    """IoU 1, 1, 6 / 8 and 2 / 8; scores count of pairs that are the same mask, the first two."""
    found = proposals([8, 8, 6, 2], [0.9, 0.5, 0.45, 0.4])
    expected = proposals([8, 8, 8, 8], [0.875, 0.48, 0.2, 0.1])
    difference = compare_proposals([found], [expected], WITHIN)
    assert difference.values == pytest.approx(
        {"masks": 4, "mean IoU": 3 / 4, "same masks": 1 / 2, "largest score difference": 0.025}
    )
    assert difference.passed
    assert not compare_proposals([found], [expected], HALF).passed


def test_compare_proposals_counts_a_mask_without_a_partner_as_zero() -> None:
    one, two = proposals([8], [0.9]), proposals([8, 8], [0.9, 0.8])
    for found, expected in ((one, two), (two, one)):
        assert compare_proposals([found], [expected], WITHIN).values["mean IoU"] == 0.5
    assert not compare_proposals([one], [two], WITHIN).passed
    assert compare_proposals([proposals([], [])], [two], WITHIN).values["mean IoU"] == 0


def test_compare_proposals_of_images_without_a_mask_passes() -> None:
    assert compare_proposals([proposals([], [])], [proposals([], [])], EXACT).passed


def test_compare_backgrounds_has_the_mean_and_the_largest_difference() -> None:
    sure, other = np.zeros((2, 2), np.float32), np.array([[0, 0], [0, 0.2]], np.float32)
    difference = compare_backgrounds([sure, sure], [other, sure], WITHIN)
    assert difference.values == pytest.approx({"mean difference": 0.025, "largest difference": 0.2})
    assert difference.passed
    assert not compare_backgrounds([sure], [other], EXACT).passed


def test_compare_flows_has_the_length_of_the_difference() -> None:
    still = np.zeros((1, 2, 2, 2), np.float32)
    moved = still.copy()
    moved[0, 0, 0] = (3, 4)
    difference = compare_flows(moved, still, WITHIN)
    assert difference.values["median end-point difference"] == 0
    assert difference.values["mean end-point difference"] == 1.25
    assert difference.passed
    assert not compare_flows(moved + 1, still, WITHIN).passed


@pytest.mark.parametrize("compare", [compare_backgrounds, compare_flows])
def test_values_that_are_not_finite_never_pass(compare) -> None:
    good = np.zeros((1, 2, 2, 2), np.float32)
    assert not compare(np.full_like(good, np.nan), good, WITHIN).passed
