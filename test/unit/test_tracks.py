"""Ids over time: masks of one object keep their id, and no two objects share one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbopt_ros import masks as mask_ops
from gbopt_ros.structures import Rle
from gbopt_ros.tracks import TrackLinker

SIZE = (40, 60)
SECOND = 1_000_000_000
PERIOD = SECOND // 10


def box(y: int, x: int, height: int = 10, width: int = 10, size: tuple[int, int] = SIZE) -> Rle:
    mask = np.zeros(size, bool)
    mask[max(0, y) : y + height, max(0, x) : x + width] = True
    return mask_ops.encode(mask)


def linked(*frames: Sequence[Rle], linker: TrackLinker | None = None) -> list[list[int]]:
    """The ids of the masks of frames that follow each other at 10 Hz."""
    linker = linker or TrackLinker()
    return [linker.link(rles, number * PERIOD) for number, rles in enumerate(frames)]


def test_link_counts_ids_from_one_and_from_left_to_right() -> None:
    assert linked([box(0, 30), box(20, 0)]) == [[2, 1]]


def test_link_follows_masks_and_not_their_order() -> None:
    a, b, new = box(0, 0), box(20, 30), box(0, 45)
    assert linked([a, b], [b, a], [], [new, b, a]) == [[1, 2], [2, 1], [], [3, 2, 1]]


def test_link_gives_no_id_to_a_second_object() -> None:
    """An object that leaves takes its id with it."""
    assert linked([box(0, 0)], [box(30, 50)], [box(30, 50)]) == [[1], [2], [2]]


def test_link_finds_the_best_assignment() -> None:
    """Closest first would give `wide` the track of `left`, the only one that overlaps it."""
    a, b = box(0, 0), box(0, 10)
    left, wide = box(0, 0, width=4), box(0, 2, width=15)
    # IoU of `wide` with a is 8/17, with b 7/18; of `left` with a 4/10.
    assert linked([a, b], [wide, left]) == [[1, 2], [2, 1]]


@pytest.mark.parametrize(("frames_without", "last_id"), [(0, 1), (1, 1), (4, 1), (5, 2), (20, 2)])
def test_link_bridges_occlusions_up_to_max_gap_s(frames_without: int, last_id: int) -> None:
    a, other = box(3, 3), box(25, 40)
    hidden: list[list[Rle]] = [[other]] * frames_without
    *_, ids = linked([a, other], *hidden, [a, other], linker=TrackLinker(max_gap_s=0.5))
    assert ids == ([1, 2] if last_id == 1 else [3, 2])


def test_link_counts_the_gap_in_seconds() -> None:
    """A stream that pauses, as between two scenes, ends its tracks without a frame in between."""
    linker = TrackLinker(max_gap_s=1.0)
    ids = [linker.link([box(3, 3)], stamp) for stamp in (0, SECOND, 2 * SECOND + 1)]
    assert ids == [[1], [1], [2]]


def test_link_keeps_ids_of_objects_that_cross() -> None:
    """In the middle they touch; at rest, each would overlap the last mask of the other more."""
    xs = range(0, 48, 6)
    frames = [[box(10, x, 8), box(18, 48 - x, 8)] for x in xs]
    assert linked(*frames) == [[1, 2]] * len(frames)
    same_row = [[box(10, x)] + [box(10, 44 - x)] * (not 16 < x < 28) for x in range(0, 45, 4)]
    ids = linked(*same_row)
    assert {i[0] for i in ids} == {1}
    assert {i[1] for i in ids if len(i) > 1} == {2}


def test_link_moves_the_last_mask_through_an_occlusion() -> None:
    """After 4 frames without it, a mask at 7 pixels a frame is 3 times its width away."""
    xs = [0, 7, 14, None, None, None, 42]
    frames = [[] if x is None else [box(10, x)] for x in xs]
    assert [ids for ids in linked(*frames) if ids] == [[1]] * 4


def test_link_expects_a_mask_where_its_mean_motion_takes_it() -> None:
    """After moves of 3 and 6 pixels a frame, it is expected to move by 4.5."""
    frames = [[box(10, x, 4, 4)] for x in (0, 3, 9)]
    hidden = [[]] * 7
    for x, expected in ((9 + 8 * 4.5, 1), (9 + 8 * 3, 2), (9 + 8 * 6, 2)):
        *_, ids = linked(*frames, *hidden, [box(10, int(x), 4, 4)])
        assert ids == [expected]


def test_link_finds_an_object_that_stopped_while_it_was_hidden() -> None:
    """Its motion would have taken it 30 pixels further."""
    frames = [[box(10, x)] for x in (0, 6, 12)]
    hidden: list[list[Rle]] = [[]] * 4
    assert linked(*frames, *hidden, [box(10, 12)])[-1] == [1]


def test_link_follows_a_small_mask_that_does_not_overlap_its_last() -> None:
    a, away, large = box(10, 10, 6, 6), box(10, 18, 6, 6), box(7, 16, 12, 12)
    assert linked([a], [away]) == [[1], [1]]
    assert linked([a], [large]) == [[1], [2]]  # another object, by its area
    assert linked([a], [box(10, 30, 6, 6)]) == [[1], [2]]  # too far


def test_link_starts_a_track_below_min_iou() -> None:
    a, part = box(0, 0), box(0, 0, 10, 4)  # IoU 0.4; areas too different for boxes
    assert linked([a], [part], linker=TrackLinker(0.4)) == [[1], [1]]
    assert linked([a], [part], linker=TrackLinker(0.41)) == [[1], [2]]


@pytest.mark.parametrize("stamp", [0, -PERIOD])
def test_link_starts_anew_when_the_stream_jumps_back(stamp: int) -> None:
    linker = TrackLinker()
    assert linker.link([box(0, 0)], 0) == [1]
    assert linker.link([box(0, 0)], stamp) == [2]
    assert linker.link([box(0, 0)], stamp + PERIOD) == [2]


def test_link_starts_anew_after_a_cut() -> None:
    linker = TrackLinker()
    cuts = [False, False, True, False]
    ids = [linker.link([box(0, 0)], i * PERIOD, after_cut=cut) for i, cut in enumerate(cuts)]
    assert ids == [[1], [1], [2], [2]]


def test_link_starts_anew_with_images_of_another_size() -> None:
    assert linked([box(0, 0)], [], [box(0, 0, size=(80, 120))], [box(0, 0)]) == [[1], [], [2], [3]]


def test_link_takes_masks_without_pixels_and_masks_that_leave_the_image() -> None:
    empty = box(0, 0, 0, 0)
    assert linked([empty, empty], [empty]) == [[1, 2], [3]]
    leaving = [[box(10, x, width=min(10, 60 - x))] for x in (30, 38, 46, 54)]
    assert linked(*leaving) == [[1]] * 4


masks = st.builds(
    box, st.integers(0, 34), st.integers(0, 54), st.integers(1, 12), st.integers(1, 12)
)
recordings = st.lists(
    st.lists(masks, max_size=6, unique_by=lambda rle: rle["counts"]), min_size=1, max_size=6
)


@given(recordings, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_link_is_one_to_one_and_does_not_depend_on_the_order(
    frames: list[list[Rle]], random: np.random.RandomState
) -> None:
    ids = linked(*frames)
    known: set[int] = set()
    for of_frame in ids:
        assert len(set(of_frame)) == len(of_frame)
        known |= set(of_frame)
    assert known == set(range(1, len(known) + 1))
    orders = [random.sample(range(len(rles)), len(rles)) for rles in frames]
    shuffled = linked(*([f[i] for i in o] for f, o in zip(frames, orders, strict=True)))
    assert shuffled == [[i[k] for k in o] for i, o in zip(ids, orders, strict=True)]
