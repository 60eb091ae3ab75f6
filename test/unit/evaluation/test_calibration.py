"""Fitting confidences, and measuring how far they hold."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from support.fakes import make_proposals

from gbopt_ros.evaluation.calibration import (
    LabelledMasks,
    calibration_quality,
    fit_calibration,
    label_masks,
    roc_auc,
)
from gbopt_ros.masks import encode_all
from gbopt_ros.selection.confidence import confidence, confidence_features
from gbopt_ros.structures import Calibration, Frame, FrameEnergy, FrameSelection, GboptError


def drawn(truth: Calibration, count: int, seed: int = 0) -> LabelledMasks:
    """Masks that are right with the probability that a calibration gives them."""
    rng = np.random.default_rng(seed)
    margins = rng.exponential(2e-3, count) * (rng.random(count) < 0.8)
    scores = rng.beta(1, 1, count).astype(np.float32)
    correct = rng.random(count) < confidence(margins, scores, truth)
    return LabelledMasks(margins, scores, correct)


@pytest.mark.parametrize("truth", [(-2.439, 0.133, 0.979), (0.5, 0.8, 1.5), (-1.0, 0.0, 0.3)])
def test_fit_calibration_recovers_the_coefficients(truth: tuple[float, float, float]) -> None:
    masks = drawn(Calibration(*truth), 40_000)
    found = fit_calibration(masks)
    np.testing.assert_allclose([found.bias, found.margin, found.score], truth, atol=0.06)
    quality = calibration_quality(confidence(masks.margins, masks.scores, found), masks.correct)
    assert quality.ece < 0.01 < calibration_quality(masks.scores, masks.correct).ece


@pytest.mark.parametrize("seed", range(5))
def test_fit_calibration_agrees_with_newtons_method(seed: int) -> None:
    masks = drawn(Calibration(-2.4, 0.5, 0.98), 400, seed)
    design = np.column_stack([np.ones(400), confidence_features(masks.margins, masks.scores)])
    weights = np.zeros(3)
    for _ in range(20):
        p = 1 / (1 + np.exp(-design @ weights))
        hessian = design.T @ (design * (p * (1 - p))[:, None])
        weights += np.linalg.solve(hessian, design.T @ (masks.correct - p))
    found = fit_calibration(masks)
    np.testing.assert_allclose([found.bias, found.margin, found.score], weights, atol=2e-3)


def test_fit_calibration_never_lets_a_larger_margin_make_a_mask_less_probable() -> None:
    masks = drawn(Calibration(1.0, -0.5, 0.8), 5000)
    found = fit_calibration(masks)
    assert found.margin == 0.0
    values = confidence(np.linspace(0, 1, 50), np.full(50, 0.7, np.float32), found)
    assert np.all(np.diff(values) >= 0)
    # The two other coefficients are those of a regression on the score alone.
    alone = fit_calibration(LabelledMasks(np.zeros(5000), masks.scores, masks.correct))
    assert (found.bias, found.score) == pytest.approx((alone.bias, alone.score), abs=2e-3)


def test_fit_calibration_stays_finite_where_scores_tell_right_from_wrong() -> None:
    scores = np.linspace(0.01, 0.99, 200, dtype=np.float32)
    found = fit_calibration(LabelledMasks(np.zeros(200), scores, scores > 0.5))
    assert 1 < found.score < 1000


@pytest.mark.parametrize("right", [0, 50])
def test_fit_calibration_needs_right_and_wrong_masks(right: int) -> None:
    masks = LabelledMasks(np.zeros(50), np.full(50, 0.5, np.float32), np.arange(50) < right)
    with pytest.raises(GboptError, match=f"got {right} right and {50 - right} wrong"):
        fit_calibration(masks)


def test_fit_calibration_warns_of_few_masks(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fit_calibration(
            LabelledMasks(np.zeros(40), np.full(40, 0.5, np.float32), np.arange(40) < 3)
        )
    assert "3 right and 37 wrong" in caplog.text


def test_calibration_quality_of_four_masks() -> None:
    probabilities = np.array([0.05, 0.85, 0.98, 1.0])
    quality = calibration_quality(probabilities, np.array([False, True, False, True]))
    assert quality.masks == 4
    assert quality.correct == 0.5
    # Three of ten bins: 0.05 against 0 of one mask, 0.85 against one of one, 0.99 against 1 of 2.
    assert quality.diagram == ((0.05, 0.0, 1), (0.85, 1.0, 1), (pytest.approx(0.99), 0.5, 2))
    assert quality.ece == pytest.approx((0.05 + 0.15 + 0.98) / 4)
    assert quality.brier == pytest.approx((0.05**2 + 0.15**2 + 0.98**2) / 4)
    assert quality.auc == 0.75


def test_calibration_quality_of_nothing() -> None:
    with pytest.raises(GboptError, match="without masks"):
        calibration_quality(np.zeros(0), np.zeros(0, bool))


@pytest.mark.parametrize(
    ("values", "correct", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([1, 2, 3, 4], [1, 1, 0, 0], 0.0),
        ([1, 1, 1, 1], [1, 0, 1, 0], 0.5),
        ([1, 2, 2, 3], [0, 0, 1, 1], 0.875),
        ([1, 2], [1, 1], np.nan),
    ],
)
def test_roc_auc(values: list[float], correct: list[int], expected: float) -> None:
    found = roc_auc(np.array(values, float), np.array(correct, bool))
    assert found == pytest.approx(expected, nan_ok=True)


def frame_selection(index: int, masks: np.ndarray) -> FrameSelection:
    proposals = make_proposals(masks)
    return FrameSelection(
        frame=Frame(np.zeros((*masks.shape[1:], 3), np.uint8), index, index),
        indices=tuple(range(len(masks))),
        rles=proposals.rles,
        boxes=proposals.boxes,
        scores=proposals.scores,
        margins=0.1 * np.arange(len(masks)),
        confidences=proposals.scores,
        energy=FrameEnergy(0, 0, 0),
    )


def test_label_masks_compares_with_the_frame_of_the_same_index() -> None:
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :2], masks[1, 2:, :2], masks[2, 3] = True, True, True
    instance = np.zeros((1, 4, 4), bool)
    instance[0, :2] = True
    instance[0, 2, :2] = True  # IoU 8/10 with mask 0, 2/12 with mask 1
    frames = [frame_selection(3, masks), frame_selection(4, masks), frame_selection(9, masks)]
    found = label_masks(frames, {3: encode_all(instance), 4: ()})  # nobody labelled frame 9
    assert found.correct.tolist() == [True, False, False, False, False, False]
    np.testing.assert_allclose(found.margins, [0, 0.1, 0.2] * 2)
    np.testing.assert_allclose(found.scores, [0.9, 0.5, 0.1] * 2)
    fewer = label_masks(frames, {3: encode_all(masks[1:2])})
    assert fewer.correct.tolist() == [False, True, False]
    assert len(LabelledMasks.joined([found, fewer])) == 9


def test_label_masks_leaves_out_what_is_half_inside_of_a_crowd() -> None:
    masks = np.zeros((4, 4, 8), bool)
    masks[0, 0, :4] = True  # an instance, inside of the crowd as well
    masks[1, 1, 2:6] = True  # half of it in the crowd
    masks[2, 2, 3:6] = True  # a third of it
    masks[3, 3, 6:] = True
    crowd = np.zeros((1, 4, 8), bool)
    crowd[0, :, :4] = True
    frames, instances = [frame_selection(5, masks)], {5: encode_all(masks[:1])}
    found = label_masks(frames, instances, {5: encode_all(crowd)})
    assert found.correct.tolist() == [True, False, False]
    np.testing.assert_allclose(found.margins, [0, 0.2, 0.3])
    assert label_masks(frames, instances).correct.tolist() == [True, False, False, False]
    with pytest.raises(GboptError, match=r"frame 5.*got \[1, 4\]"):
        label_masks(frames, instances, {5: encode_all(crowd[:, :1, :4])})


def test_label_masks_of_no_mask() -> None:
    assert len(label_masks([], {})) == 0
    assert len(label_masks([frame_selection(0, np.zeros((0, 4, 4), bool))], {0: ()})) == 0


def test_label_masks_refuses_labels_of_another_size() -> None:
    frames = [frame_selection(0, np.ones((1, 4, 4), bool))]
    with pytest.raises(GboptError, match=r"frame 0.*\[4, 4\], got \[5, 4\]"):
        label_masks(frames, {0: encode_all(np.ones((1, 5, 4), bool))})
