"""Every equation by hand on a few pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.oracles import cross_entropy

from gbopt_ros.masks import encode_all
from gbopt_ros.selection.objective import (
    background_evidence,
    background_loss,
    empty_background_loss,
    flow_loss,
    inside_flow_loss,
    outside_flow_loss,
    regularization_losses,
    score_prior,
)

EPSILON = 1e-3


def test_background_loss_by_hand() -> None:
    background = np.array([[0.9, 0.2], [0.5, 0.8]])
    foreground = np.array([[False, True], [False, False]])
    expected = -(np.log(0.9) + np.log(0.8) + np.log(0.5) + np.log(0.8))
    assert background_loss(foreground, background, EPSILON) == pytest.approx(expected / 4)


def test_background_loss_clips_certain_background() -> None:
    background = np.array([[0.0, 1.0]])
    foreground = np.array([[False, True]])
    expected = -np.log(EPSILON)
    assert background_loss(foreground, background, EPSILON) == pytest.approx(expected)


@given(st.integers(0, 10**6))
def test_background_evidence_adds_to_the_empty_background_loss(seed: int) -> None:
    rng = np.random.default_rng(seed)
    background, foreground = rng.random((5, 7)), rng.random((5, 7)) < 0.4
    evidence = background_evidence(background, EPSILON)
    total = empty_background_loss(background, EPSILON) + evidence[foreground].sum()
    assert total / 35 == pytest.approx(cross_entropy(foreground, background, EPSILON), abs=1e-6)


def test_probabilities_that_miss_the_bounds_by_rounding_count_as_certain() -> None:
    beyond, bounds = np.array([1 + 1e-6, -1e-6]), np.array([1.0, 0.0])
    evidence = background_evidence(beyond, EPSILON)
    np.testing.assert_array_equal(evidence, background_evidence(bounds, EPSILON))
    np.testing.assert_allclose(evidence, np.array([1, -1]) * np.log((1 - EPSILON) / EPSILON))
    lost = empty_background_loss(beyond, EPSILON)
    assert lost == empty_background_loss(bounds, EPSILON)
    assert lost == pytest.approx(-np.log(EPSILON) - np.log1p(-EPSILON))


def test_background_evidence_sums_are_exact_in_any_order() -> None:
    rng = np.random.default_rng(0)
    evidence = background_evidence(rng.random((64, 64)), EPSILON).ravel()
    sums = {float(np.cumsum(rng.permutation(evidence))[-1]) for _ in range(10)}
    assert len(sums) == 1


def test_flow_loss_by_hand() -> None:
    # Four pixels; the first is selected. Outside it the flow is (1, 0), (1, 0), (4, 3).
    flow = np.array([[[5.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [4.0, 3.0]]])
    foreground = np.array([[True, False], [False, False]])
    synthetic = np.zeros((2, 2, 2))
    synthetic[0, 0] = (4.0, 3.0)
    inside = abs(5 - 4) + abs(1 - 3)
    outside = 2 * (1 + 1) + (2 + 2)  # the mean outside is (2, 1)
    assert inside_flow_loss(foreground, flow, synthetic) == pytest.approx(inside / 4)
    assert outside_flow_loss(foreground, flow) == pytest.approx(outside / 4)
    assert flow_loss(foreground, flow, synthetic) == pytest.approx((inside + outside) / 4)


def test_outside_flow_loss_of_everything_selected_is_zero() -> None:
    assert outside_flow_loss(np.ones((2, 2), bool), np.ones((2, 2, 2))) == 0


def test_regularization_losses_by_hand() -> None:
    empty, left, whole = "....", "##..", "####"
    masks = [np.array([[c == "#" for c in row]]) for row in (empty, left, whole)]
    unions = encode_all(np.stack(masks))
    expected = [[0, 0, 0], [0, -1, -0.5], [0, -0.5, -1]]
    np.testing.assert_array_equal(regularization_losses(unions, unions), expected)
    assert regularization_losses(unions[:2], unions).shape == (2, 3)


def test_score_prior_by_hand() -> None:
    """On an image of 4x5 pixels, in nats summed over them."""
    prior = score_prior(np.array([0.5, 0.9, 0.1]), (4, 5), 0.5, 2.0)
    np.testing.assert_allclose(prior, [0, -2 * 20 * 0.4, 2 * 20 * 0.4])
    assert score_prior(np.array([0.3]), (4, 5), 0.5, 0.0)[0] == 0
