"""The tracks of a recording, best first."""

from __future__ import annotations

import numpy as np
import pytest

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import TrackConfig
from gbopt_ros.evaluation.tracks import ScoredMasks, Track, label_array, link_tracks
from gbopt_ros.structures import Rle

SIZE = (40, 60)


def box(y: int, x: int, height: int = 10, width: int = 10) -> Rle:
    mask = np.zeros(SIZE, bool)
    mask[y : y + height, x : x + width] = True
    return mask_ops.encode(mask)


def linked(*frames: dict[str, float], **settings: object) -> list[Track]:
    """Tracks of frames at 10 Hz; a frame gives the scores of the boxes that it shows."""
    config = TrackConfig(**settings)  # type: ignore[arg-type]
    masks = (
        ScoredMasks(number * 100_000_000, [BOXES[name] for name in frame], list(frame.values()))
        for number, frame in enumerate(frames)
    )
    return list(link_tracks(masks, config))


BOXES = {"a": box(0, 0), "b": box(0, 20), "c": box(0, 40)}


def test_link_tracks_does_not_depend_on_the_order_of_masks() -> None:
    a, b = BOXES["a"], BOXES["b"]
    first, second = linked({"a": 0.5, "b": 0.4}, {"b": 0.4, "a": 0.5})
    assert (first.rles, second.rles) == ({0: a, 1: a}, {0: b, 1: b})


def test_link_tracks_keeps_the_best_tracks() -> None:
    frames = {"c": 0.1, "b": 0.9, "a": 0.4}, {"a": 0.4}, {"a": 0.4}
    best, second = linked(*frames, max_tracks=2)
    assert (set(best.rles), set(second.rles)) == ({0, 1, 2}, {0})
    assert best.score == pytest.approx(1.2)
    assert second.rles == {0: BOXES["b"]}


def test_link_tracks_gives_ties_to_the_older_track() -> None:
    found = linked({"c": 0.5}, {"a": 0.5, "b": 0.5}, max_tracks=2)
    assert [track.rles for track in found] == [{0: BOXES["c"]}, {1: BOXES["a"]}]


def test_link_tracks_has_the_settings_of_the_linker() -> None:
    assert len(linked({"a": 0.5}, {}, {}, {"a": 0.5}, max_gap_s=0.3)) == 1
    assert len(linked({"a": 0.5}, {}, {}, {"a": 0.5}, max_gap_s=0.2)) == 2


def test_link_tracks_of_frames_without_masks() -> None:
    assert linked({}, {}, {}) == []


def test_label_array() -> None:
    tracks = [Track({0: box(0, 0), 2: box(0, 0)}), Track({0: box(0, 5)})]
    labels = label_array(tracks, 3, SIZE)
    assert labels.shape == (3, *SIZE)
    assert labels.dtype == np.uint8
    assert np.bincount(labels[0].ravel()).tolist() == [2400 - 150, 100, 50]  # the first on top
    assert not labels[1].any()
    np.testing.assert_array_equal(labels[2] == 1, mask_ops.decode(box(0, 0)))
