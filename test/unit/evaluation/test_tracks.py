"""Tracks: masks linked by overlap, over gaps, best first."""

from __future__ import annotations

import numpy as np
import pytest

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import TrackConfig
from gbopt_ros.evaluation.tracks import Track, TrackLinker, label_array
from gbopt_ros.structures import Rle

SIZE = (40, 60)


def box(y: int, x: int, height: int = 10, width: int = 10) -> Rle:
    mask = np.zeros(SIZE, bool)
    mask[y : y + height, x : x + width] = True
    return mask_ops.encode(mask)


def linked(*frames: list[Rle], scores: float = 0.5, **settings: object) -> list[dict[int, Rle]]:
    linker = TrackLinker(TrackConfig(**settings))  # type: ignore[arg-type]
    for rles in frames:
        linker.add(rles, [scores] * len(rles))
    return [track.rles for track in linker.tracks()]


def test_track_linker_does_not_depend_on_the_order_of_masks() -> None:
    a, b = box(0, 0), box(20, 30)
    tracks = linked([a, b], [b, a], [a, b])
    assert tracks == [{0: a, 1: a, 2: a}, {0: b, 1: b, 2: b}]


def test_track_linker_finds_the_best_assignment() -> None:
    """Closest first would give `wide` the track of `left`, the only one that overlaps it."""
    a, b = box(0, 0), box(0, 10)
    left, wide = box(0, 0, width=4), box(0, 2, width=15)
    # IoU of `wide` with a is 8/17, with b 7/18; of `left` with a 4/10.
    tracks = linked([a, b], [wide, left])
    assert tracks == [{0: a, 1: left}, {0: b, 1: wide}]


def test_track_linker_starts_a_track_below_min_iou() -> None:
    a, far = box(0, 0), box(0, 6)  # IoU 4 / 16
    assert linked([a], [far], min_iou=0.26) == [{0: a}, {1: far}]
    assert linked([a], [far], min_iou=0.25) == [{0: a, 1: far}]


@pytest.mark.parametrize(("gap", "tracks"), [(2, 1), (3, 2)])
def test_track_linker_bridges_gaps_up_to_max_gap(gap: int, tracks: int) -> None:
    a = box(3, 3)
    found = linked([a], *([[]] * gap), [a], max_gap=2)
    assert len(found) == tracks
    assert {frame for track in found for frame in track} == {0, gap + 1}


def test_track_linker_keeps_the_best_tracks() -> None:
    linker = TrackLinker(TrackConfig(max_tracks=2))
    long, strong, weak = box(0, 0), box(0, 20), box(0, 40)
    linker.add([weak, strong, long], [0.1, 0.9, 0.4])
    linker.add([long], [0.4])
    linker.add([long], [0.4])
    best, second = linker.tracks()
    assert (set(best.rles), set(second.rles)) == ({0, 1, 2}, {0})
    assert best.score == pytest.approx(1.2)
    assert second.rles == {0: strong}


def test_track_linker_gives_ties_to_the_older_track() -> None:
    a, b, c = box(0, 0), box(0, 20), box(0, 40)
    assert linked([a], [b, c], max_tracks=2) == [{0: a}, {1: b}]


def test_track_linker_of_frames_without_masks() -> None:
    assert linked([], [], []) == []


def test_label_array() -> None:
    tracks = [Track({0: box(0, 0), 2: box(0, 0)}), Track({0: box(0, 5)})]
    labels = label_array(tracks, 3, SIZE)
    assert labels.shape == (3, *SIZE)
    assert labels.dtype == np.uint8
    assert np.bincount(labels[0].ravel()).tolist() == [2400 - 150, 100, 50]  # the first on top
    assert not labels[1].any()
    np.testing.assert_array_equal(labels[2] == 1, mask_ops.decode(box(0, 0)))
