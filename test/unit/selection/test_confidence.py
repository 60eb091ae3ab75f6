"""The confidence of a mask from its margin and its network score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbopt_ros.selection.confidence import confidence, confidence_features
from gbopt_ros.structures import Calibration

FITTED = Calibration(bias=-1.0, margin=0.5, score=2.0)


def test_confidence_by_hand() -> None:
    margins, scores = np.array([0.0, (np.e - 1) * 1e-4, 0.0]), np.array([0.5, 0.5, 1.0])
    # A score of 1 is clipped to 0.999; the margin of the second mask makes a feature of 1.
    logits = np.array([-1.0, -0.5, -1.0 + 2 * np.log(999)])
    found = confidence(margins, scores, FITTED)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)))


def test_confidence_without_calibration_is_the_score() -> None:
    scores = np.array([0.0, 0.25, 1.0], np.float32)
    np.testing.assert_array_equal(confidence(np.array([3.0, 0.0, 1.0]), scores, None), scores)


@pytest.mark.parametrize("calibration", [None, FITTED])
def test_confidence_of_no_mask(calibration: Calibration | None) -> None:
    assert confidence(np.zeros(0), np.zeros(0, np.float32), calibration).shape == (0,)


@given(st.floats(0, 1e6), st.floats(0, 1))
def test_confidence_grows_with_margin_and_score(margin: float, score: float) -> None:
    margins = np.array([margin, 2 * margin + 1e-3, margin])
    scores = np.array([score, score, min(1.0, score + 0.1)], np.float32)
    found = confidence(margins, scores, FITTED)
    assert np.all((found >= 0) & (found <= 1))
    assert found[0] <= found[1] and found[0] <= found[2]


def test_confidence_features_are_finite_at_the_limits() -> None:
    features = confidence_features(np.array([0.0, 1e9]), np.array([0.0, 1.0], np.float32))
    assert features.shape == (2, 2)
    assert np.isfinite(features).all()
