"""Tracktor: boxes that follow objects, camera motion, and tracks that are found again."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from support.fakes import make_proposals
from support.moving_squares import GREEN, RED, SIZE, SquaresNetwork, inputs_of, picture, place
from support.textures import moved

from experiments.methods import tractor
from experiments.methods.features import pyramid_of
from experiments.methods.tractor import Tracker, Tractor
from gbopt_ros.masks import decode_all

NETWORK = SquaresNetwork()
NONE = make_proposals(np.zeros((0, *SIZE), bool))


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def test_tracks_go_on_without_detections() -> None:
    """Both squares are detected in the first frame alone, roughly."""
    reds = [place(4, 4 + 3 * t) for t in range(5)]
    greens = [place(30, 40 - 3 * t) for t in range(5)]
    images = [picture({RED: r, GREEN: g}) for r, g in zip(reds, greens, strict=True)]
    found = [make_proposals(np.array([reds[0], greens[0]]), (0.7, 0.6)), *[NONE] * 4]
    tracked = Tractor().masks(inputs_of(images, found))
    assert tracked[0].scores == pytest.approx([0.7, 0.6])
    for t in range(5):
        masks = decode_all(tracked[t].rles, SIZE)
        assert len(masks) == 2
        for truth in (reds[t], greens[t]):
            assert max(iou(mask, truth) for mask in masks) > 0.75, t
    assert tracked[1].scores == pytest.approx([1 / (1 + np.exp(-2))] * 2)  # as scored again


def test_a_track_ends_where_its_object_does_and_weak_detections_begin_none() -> None:
    red, green = place(4, 4), place(30, 40)
    images = [picture({RED: red, GREEN: green}), picture({GREEN: green})]
    found = [make_proposals(np.array([red, green]), (0.7, 0.1)), NONE]
    tracked = Tractor().masks(inputs_of(images, found))
    assert [len(p) for p in tracked] == [1, 0]


@pytest.mark.parametrize(("gap", "tracks"), [(10, 1), (11, 2)])
def test_a_lost_track_is_found_again_for_ten_frames(gap: int, tracks: int) -> None:
    red = make_proposals(place(4, 4)[None], (0.7,))
    seen, hidden = (pyramid_of(NETWORK, picture(shown)) for shown in ({RED: place(4, 4)}, {}))
    tracker = Tracker(NETWORK)
    tracker.step(seen, red)
    (first,) = tracker.active
    for _ in range(gap):
        tracker.step(hidden, NONE)
    assert tracker.active == []
    tracker.step(seen, red)
    assert (tracker.active == [first]) == (tracks == 1)
    assert tracker.lost == []


def test_recognise_takes_what_looks_alike_at_the_same_place() -> None:
    box = np.array([10, 10, 20, 20], np.float32)
    track = tractor.Track(box, 0.5)
    track.looks.extend([np.array([1.0, 0.0], np.float32), np.array([0.8, 0.6], np.float32)])

    def recognised(shift: float, look: list[float]) -> bool:
        looks = np.array([look], np.float32)
        return tractor.recognise([track], box[None] + shift, looks) == {0: track}

    mean = [0.9, 0.3]
    assert recognised(0, mean) and recognised(4, mean)  # an IoU of 36 / 164
    assert not recognised(5, mean)  # of 25 / 175
    assert recognised(0, [1.0, 0.0])  # a cosine of 0.949
    assert not recognised(0, [0.0, 1.0])


def test_uncovered_leaves_out_what_tracks_or_better_detections_cover() -> None:
    masks = np.array([place(0, 0), place(0, 6), place(0, 7), place(30, 30), place(30, 48)])
    found = make_proposals(masks, (0.9, 0.8, 0.7, 0.6, 0.05))
    tracked = np.array([[28, 30, 40, 42]], np.float32)
    boxes, scores = tractor.uncovered(found, tracked)
    # Overlaps with the first: 6 of 18 and 5 of 19 columns; the fifth is too weak.
    assert scores == pytest.approx([0.9, 0.7])
    np.testing.assert_array_equal(boxes[1], [7, 0, 19, 12])


def test_camera_motion_moves_boxes_along() -> None:
    first, second = moved(60, 80, dx=4, dy=-2)
    motion = tractor.camera_motion(first, second)
    np.testing.assert_allclose(motion, [[1, 0, 4], [0, 1, -2]], atol=0.1)
    tracker = Tracker(NETWORK)
    tracker.active = [tractor.Track(np.array([10, 10, 20, 30], np.float32), 0.5)]
    tracker.move(motion)
    np.testing.assert_allclose(tracker.active[0].box, [14, 8, 24, 28], atol=1)


def test_camera_motion_without_texture_is_none() -> None:
    flat = np.full((48, 64, 3), 90, np.uint8)
    np.testing.assert_array_equal(tractor.camera_motion(flat, flat), np.eye(2, 3))


def test_one_of_two_tracks_of_an_object_ends() -> None:
    tracker = Tracker(NETWORK)
    red = place(4, 4)
    boxes = np.array([[4, 4, 16, 16], [6, 4, 18, 16]], np.float32)
    tracker.active = [tractor.Track(box, 0.5) for box in boxes]
    for track in tracker.active:
        track.looks.append(np.ones(6, np.float32))
    found = tracker.step(pyramid_of(NETWORK, picture({RED: red})), NONE)
    assert len(found) == len(tracker.active) == len(tracker.lost) == 1
