"""The confidence of a mask from its margin and its network score, and from its track."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import LearningConfig
from gbopt_ros.selection.confidence import (
    TrackConfidence,
    confidence,
    confidence_features,
    with_track_confidence,
)
from gbopt_ros.structures import Calibration, Frame, FrameEnergy, FrameSelection, Selection
from gbopt_ros.tracks import TrackLinker

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


def test_confidence_of_a_score_that_rounding_took_beyond_its_range_is_in_it() -> None:
    scores = np.array([1.0009, -0.0009], np.float32)  # `Proposals` takes them
    np.testing.assert_array_equal(confidence(np.zeros(2), scores, None), [1.0, 0.0])


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


# ---------------------------------------------------------------------------------------- by track


def frame_with(number: int, confidences: dict[int, float]) -> FrameSelection:
    """A frame with squares that stand still, by the column where they are."""
    masks = np.zeros((len(confidences), 30, 90), bool)
    for mask, column in zip(masks, confidences, strict=True):
        mask[5:25, column : column + 20] = True
    rles = mask_ops.encode_all(masks)
    return FrameSelection(
        frame=Frame(np.zeros((30, 90, 3), np.uint8), stamp_ns=10**8 * number, index=number),
        indices=tuple(range(len(rles))),
        rles=rles,
        boxes=mask_ops.boxes_xyxy(rles),
        scores=np.full(len(rles), 0.5, np.float32),
        margins=np.zeros(len(rles)),
        confidences=np.array(list(confidences.values()), np.float32),
        energy=FrameEnergy(0.0, 0.0, 0.0),
    )


def by_track(*frames: dict[int, float], cuts: Collection[int] = ()) -> list[list[float]]:
    selection = Selection(
        clip_id=0,
        frames=tuple(
            replace(frame_with(t, frame), after_cut=t in cuts) for t, frame in enumerate(frames)
        ),
        energy=0.0,
        lower_bound=0.0,
        optimal=True,
        flow_runs=0,
        model_version="",
    )
    found = with_track_confidence(selection, TrackLinker())
    assert all(frame.confidences.dtype == np.float32 for frame in found.frames)
    return [frame.confidences.tolist() for frame in found.frames]


def test_masks_of_a_track_share_their_mean_and_absence_counts() -> None:
    # The first object is in all frames, the second in two of four, in another order.
    found = by_track({0: 0.2, 60: 0.9}, {0: 0.4}, {60: 0.7, 0: 0.8}, {0: 0.6})
    always, rarely = 2.0 / 4, 1.6 / (2 + 0.1 * 2)
    expected = [[always, rarely], [always], [rarely, always], [always]]
    for values, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, right, rtol=1e-6)


def test_track_confidence_of_a_stream_knows_the_frames_that_came() -> None:
    tracks = TrackConfidence(TrackLinker())
    frames = [{0: 0.2}, {}, {0: 0.4}]
    found = [
        tracks.apply(frame, tracks.add(frame)).confidences.tolist()
        for frame in (frame_with(t, confidences) for t, confidences in enumerate(frames))
    ]
    np.testing.assert_allclose(found[0], [0.2])
    assert found[1] == []
    np.testing.assert_allclose(found[2], [0.6 / (2 + 0.1)], rtol=1e-6)


def test_an_object_that_leaves_the_view_stays_likely() -> None:
    """A camera that pans sees each object in a part of the clip: 5 of 30 frames here."""
    found = by_track(*({0: 0.9} if t < 5 else {} for t in range(30)))
    np.testing.assert_allclose(found[0], [4.5 / (5 + 0.1 * 25)], rtol=1e-6)
    assert found[0][0] > LearningConfig().min_confidence


def test_no_track_goes_over_a_cut() -> None:
    """Another object is in the same place then, and frames of other scenes are no absence."""
    found = by_track({0: 0.2}, {0: 0.4}, {0: 0.9}, {60: 0.8}, cuts=(2,))
    expected = [0.3, 0.3, 0.9 / 1.1, 0.8 / 1.1]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-6)
    photographs = by_track({0: 0.2}, {0: 0.4, 30: 0.5}, {0: 0.9}, cuts=(1, 2))
    np.testing.assert_allclose(np.concatenate(photographs), [0.2, 0.4, 0.5, 0.9], rtol=1e-6)


def test_a_clip_of_one_frame_keeps_its_confidences() -> None:
    assert by_track({0: 0.25, 60: 0.75}) == [[0.25, 0.75]]


@given(st.lists(st.dictionaries(st.sampled_from((0, 30, 60)), st.floats(0, 1)), max_size=5))
def test_track_confidence_is_a_probability(frames: list[dict[int, float]]) -> None:
    for values in by_track(*frames):
        assert all(0 <= value <= 1 for value in values)
