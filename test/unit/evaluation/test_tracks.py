"""Tracks: masks linked by overlap, along the flow, over gaps, best first."""

from __future__ import annotations

import numpy as np
import pytest

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import TrackConfig
from gbopt_ros.evaluation.tracks import Track, TrackLinker, label_array, warp
from gbopt_ros.structures import Rle

SIZE = (40, 60)


def box(y: int, x: int, height: int = 10, width: int = 10) -> Rle:
    mask = np.zeros(SIZE, bool)
    mask[y : y + height, x : x + width] = True
    return mask_ops.encode(mask)


def linked(
    *frames: list[Rle], scores: float = 0.5, flow: np.ndarray | None = None, **settings: object
) -> list[dict[int, Rle]]:
    linker = TrackLinker(TrackConfig(**settings))  # type: ignore[arg-type]
    for t, rles in enumerate(frames):
        linker.add(rles, [scores] * len(rles), flow if t else None)
    return [track.rles for track in linker.tracks()]


def everywhere(x: float, y: float) -> np.ndarray:
    return np.broadcast_to(np.array([x, y], np.float32), (*SIZE, 2)).copy()


def test_masks_keep_their_track_whatever_their_order() -> None:
    a, b = box(0, 0), box(20, 30)
    tracks = linked([a, b], [b, a], [a, b])
    assert tracks == [{0: a, 1: a, 2: a}, {0: b, 1: b, 2: b}]


def test_assignment_is_the_best_on_the_whole() -> None:
    """Closest first would give `wide` the track of `left`, the only one that overlaps it."""
    a, b = box(0, 0), box(0, 10)
    left, wide = box(0, 0, width=4), box(0, 2, width=15)
    # IoU of `wide` with a is 8/17, with b 7/18; of `left` with a 4/10.
    tracks = linked([a, b], [wide, left])
    assert tracks == [{0: a, 1: left}, {0: b, 1: wide}]


def test_too_little_overlap_begins_a_track() -> None:
    a, far = box(0, 0), box(0, 6)  # IoU 4 / 16
    assert linked([a], [far], min_iou=0.26) == [{0: a}, {1: far}]
    assert linked([a], [far], min_iou=0.25) == [{0: a, 1: far}]


def test_flow_carries_masks_along() -> None:
    first, second = box(5, 5), box(5, 25)
    assert len(linked([first], [second])) == 2
    (track,) = linked([first], [second], flow=everywhere(-20, 0))  # back to where it came from
    assert track == {0: first, 1: second}


@pytest.mark.parametrize(("gap", "tracks"), [(2, 1), (3, 2)])
def test_gaps_of_a_few_frames(gap: int, tracks: int) -> None:
    a = box(3, 3)
    found = linked([a], *([[]] * gap), [a], max_gap=2)
    assert len(found) == tracks
    assert {frame for track in found for frame in track} == {0, gap + 1}


def test_the_mask_moves_on_during_a_gap() -> None:
    flow = everywhere(-8, 0)
    assert len(linked([box(5, 0)], [], [], [box(5, 24)], flow=flow)) == 1
    assert len(linked([box(5, 0)], [], [], [box(5, 0)], flow=flow)) == 2


def test_the_best_tracks_are_kept() -> None:
    linker = TrackLinker(TrackConfig(max_tracks=2))
    long, strong, weak = box(0, 0), box(0, 20), box(0, 40)
    linker.add([weak, strong, long], [0.1, 0.9, 0.4])
    linker.add([long], [0.4])
    linker.add([long], [0.4])
    best, second = linker.tracks()
    assert (set(best.rles), set(second.rles)) == ({0, 1, 2}, {0})
    assert best.score == pytest.approx(1.2)
    assert second.rles == {0: strong}


def test_ties_go_to_the_older_track() -> None:
    a, b, c = box(0, 0), box(0, 20), box(0, 40)
    assert linked([a], [b, c], max_tracks=2) == [{0: a}, {1: b}]


def test_frames_without_masks() -> None:
    assert linked([], [], []) == []


@pytest.mark.parametrize(("x", "y"), [(3, 0), (0, -2), (-4, 5), (0.4, 0.4)])
def test_warp_moves_by_whole_pixels(x: float, y: float) -> None:
    """A mask that moves by (x, y): the flow from the next frame back is (-x, -y)."""
    moved = warp(box(12, 14), everywhere(-x, -y))
    assert moved == box(12 + round(y), 14 + round(x))


def test_warp_leaves_the_image() -> None:
    assert warp(box(0, 0), everywhere(4, 0)) == box(0, 0, 10, 6)
    assert mask_ops.areas([warp(box(0, 0), everywhere(50, 0))])[0] == 0


def test_label_array() -> None:
    tracks = [Track({0: box(0, 0), 2: box(0, 0)}), Track({0: box(0, 5)})]
    labels = label_array(tracks, 3, SIZE)
    assert labels.shape == (3, *SIZE)
    assert labels.dtype == np.uint8
    assert np.bincount(labels[0].ravel()).tolist() == [2400 - 150, 100, 50]  # the first on top
    assert not labels[1].any()
    np.testing.assert_array_equal(labels[2] == 1, mask_ops.decode(box(0, 0)))
