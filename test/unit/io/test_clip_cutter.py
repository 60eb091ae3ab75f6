"""Cutting a stream into clips."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbopt_ros.io.clip_cutter import ClipCutter, cut_clips
from gbopt_ros.structures import Clip, Frame, GboptError

SMALL = np.zeros((2, 3, 3), np.uint8)
LARGE = np.zeros((4, 3, 3), np.uint8)


def frames_at(*milliseconds: int, large: tuple[int, ...] = ()) -> list[Frame]:
    return [
        Frame(LARGE if i in large else SMALL, ms * 1_000_000, i)
        for i, ms in enumerate(milliseconds)
    ]


def indices(clips: list[Clip]) -> list[list[int]]:
    assert [clip.clip_id for clip in clips] == list(range(len(clips)))
    return [[frame.index for frame in clip.frames] for clip in clips]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (frames_at(), []),
        (frames_at(0), [[0]]),
        (frames_at(0, 10, 20), [[0, 1, 2]]),
        (frames_at(0, 10, 20, 30), [[0, 1, 2], [3]]),
        (frames_at(0, 1000, 2001), [[0, 1], [2]]),  # a gap of max_gap_s is no cut, one more is
        (frames_at(0, 10, 20, large=(1,)), [[0], [1], [2]]),
        (frames_at(100, 110, 90, 100), [[0, 1], [2, 3]]),
        (frames_at(0, 0, 10, 10, 10, 20), [[0, 2, 5]]),
        (frames_at(0, 0, 10, large=(1,)), [[0, 2]]),
    ],
)
def test_cut_clips_cuts_at_gaps_sizes_and_earlier_stamps(
    frames: list[Frame], expected: list[list[int]]
) -> None:
    assert indices(list(cut_clips(frames, 3, max_gap_s=1.0))) == expected


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (frames_at(0, 10, 20), [[0, 1, 2]]),  # a tail of shared frames only is no clip
        (frames_at(0, 10, 20, 30), [[0, 1, 2], [1, 2, 3]]),
        (frames_at(0, 10, 20, 30, 40), [[0, 1, 2], [1, 2, 3], [2, 3, 4]]),
        (frames_at(0, 10, 20, 2000, 2010), [[0, 1, 2], [3, 4]]),  # nothing is shared over a cut
        (frames_at(0, 10, 20, 30, 40, large=(4,)), [[0, 1, 2], [1, 2, 3], [4]]),
    ],
)
def test_cut_clips_with_overlap(frames: list[Frame], expected: list[list[int]]) -> None:
    assert indices(list(cut_clips(frames, 3, max_gap_s=1.0, overlap=2))) == expected


def test_cut_clips_keeps_shared_frames_in_a_short_tail() -> None:
    frames = frames_at(*range(0, 70, 10))
    got = indices(list(cut_clips(frames, 4, max_gap_s=1.0, overlap=1)))
    assert got == [[0, 1, 2, 3], [3, 4, 5, 6]]
    got = indices(list(cut_clips(frames[:6], 4, max_gap_s=1.0, overlap=1)))
    assert got == [[0, 1, 2, 3], [3, 4, 5]]


def test_clip_cutter_drops_and_counts_repeated_stamps() -> None:
    cutter = ClipCutter(5, max_gap_s=1.0)
    for frame in frames_at(0, 0, 10, 10, 10):
        assert cutter.push(frame) == []
    assert cutter.dropped == 3
    assert len(cutter.flush()[0]) == 2


def test_clip_cutter_gives_a_clip_with_its_last_frame() -> None:
    cutter = ClipCutter(2, max_gap_s=1.0)
    first, second, late = frames_at(0, 10, 5000)
    assert cutter.push(first) == []
    assert [clip.frames for clip in cutter.push(second)] == [(first, second)]
    assert cutter.push(late) == []
    assert [clip.clip_id for clip in cutter.flush()] == [1]
    assert cutter.flush() == []


def test_cut_clips_of_length_one() -> None:
    assert indices(list(cut_clips(frames_at(0, 9000, 9001), 1, max_gap_s=1.0))) == [[0], [1], [2]]


def test_cut_clips_gives_the_partial_clip_before_an_error_of_the_source() -> None:
    def broken() -> Iterator[Frame]:
        yield from frames_at(0, 10)
        raise GboptError("cut off")

    clips = cut_clips(broken(), 3, max_gap_s=1.0)
    assert len(next(clips)) == 2
    with pytest.raises(GboptError, match="cut off"):
        next(clips)


@pytest.mark.parametrize(
    ("length", "max_gap_s", "overlap", "named"),
    [
        (0, 1.0, 0, "length"),
        (3, 0.0, 0, "max_gap_s"),
        (3, float("nan"), 0, "max_gap_s"),
        (3, 1.0, 3, "overlap"),
        (3, 1.0, -1, "overlap"),
    ],
)
def test_clip_cutter_refuses_arguments_out_of_range(
    length: int, max_gap_s: float, overlap: int, named: str
) -> None:
    with pytest.raises(GboptError, match=named):
        ClipCutter(length, max_gap_s=max_gap_s, overlap=overlap)


@given(
    steps=st.lists(st.sampled_from([-500, 0, 33, 33, 33, 33, 900, 1100]), max_size=60),
    large=st.sets(st.integers(0, 60), max_size=4),
    length=st.integers(1, 7),
    data=st.data(),
)
def test_clip_cutter_puts_every_frame_into_an_unbroken_clip(
    steps: list[int], large: set[int], length: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, length - 1))
    stamps = 10_000_000 + np.cumsum([0, *steps])
    frames = frames_at(*map(int, stamps), large=tuple(large))
    cutter = ClipCutter(length, max_gap_s=1.0, overlap=overlap)
    clips = [clip for frame in frames for clip in cutter.push(frame)] + cutter.flush()

    kept = [frames[0]]
    for frame in frames[1:]:
        if frame.stamp_ns != kept[-1].stamp_ns:
            kept.append(frame)
    assert cutter.dropped == len(frames) - len(kept)
    seen = [frame.index for clip in clips for frame in clip.frames]
    assert sorted(set(seen)) == [frame.index for frame in kept]
    assert len(set(seen)) == len(seen) or overlap > 0
    for clip in clips:
        assert len(clip) <= length
        gaps = np.diff([frame.stamp_ns for frame in clip.frames])
        assert np.all((gaps > 0) & (gaps <= 1e9))
    for before, after in pairwise(clips):
        shared = {f.index for f in before.frames} & {f.index for f in after.frames}
        assert len(shared) in (0, overlap)
        assert len(after) > len(shared)


@pytest.mark.parametrize(("overlap", "sizes"), [(0, [4, 4, 2]), (3, [4] * 7), (5, [6] * 5)])
def test_clips_of_large_frames_end_early(
    overlap: int, sizes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    frames = [Frame(image, i * 10**8, i) for i in range(10)]
    # 8 images of 50 pixels are 4 frames of 100; a clip has one frame more than the overlap.
    clips = list(cut_clips(frames, 9, max_gap_s=1.0, overlap=overlap, max_pixels=50))
    assert [len(clip) for clip in clips] == sizes
    assert caplog.text.count("so that they fit in memory") == 1
    indices = [frame.index for clip in clips for frame in clip.frames]
    assert sorted(set(indices)) == list(range(10))
