"""Motion beside the background network: what is compared, and what it adds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.fakes import Growing, make_clip, numbered
from support.scenes import doubtful, print_and_thing

from gbopt_ros.config import MotionConfig
from gbopt_ros.perception import motion
from gbopt_ros.perception.flow import DisFlow, high_detail_flow
from gbopt_ros.perception.motion import (
    add_evidence,
    clip_with_motion,
    frame_with_motion,
    has_partner,
    motion_between,
    partners,
)
from gbopt_ros.perception.plane_residual import motion_evidence
from gbopt_ros.structures import Frame, Image

NONE = MotionConfig(weight=0.0)


@pytest.mark.parametrize("scale", [1, 4])
def test_clip_with_motion_tells_a_print_from_a_thing(scale: int) -> None:
    frames = print_and_thing(11, scale)
    moved = clip_with_motion(
        frames, [doubtful(scale)] * 11, high_detail_flow(DisFlow()), MotionConfig(weight=1.0)
    )
    assert [m.shape for m in moved] == [doubtful(scale).shape] * 11
    assert moved[5].dtype == np.float32
    found = moved[5][scale // 2 :: scale, scale // 2 :: scale]  # the thing is where it is drawn
    inner = slice(64, 86), slice(96, 124)
    assert np.median(found[24:46, 24:56]) > 0.75
    assert np.median(found[inner]) < 0.3


def test_motion_without_weight_computes_nothing() -> None:
    flow, backgrounds = Growing(), [np.full((48, 64), 0.3, np.float32)] * 12
    frames = make_clip(numbered(12)).frames
    assert clip_with_motion(frames, backgrounds, flow, NONE) == backgrounds
    assert frame_with_motion(frames, 0, backgrounds[0], flow, NONE) is backgrounds[0]
    assert flow.pairs == []


def test_clip_with_motion_multiplies_log_odds_by_the_weight() -> None:
    frames, background = make_clip(numbered(12)).frames, np.full((48, 64), 0.9, np.float32)
    evidence = motion_between(frames, {3: background}, Growing(), 0.5)[3]
    assert evidence.min() < -1 < 1 < evidence.max()

    def log_odds(weight: float) -> NDArray[np.float64]:
        config = MotionConfig(weight=weight)
        p = clip_with_motion(frames, [background] * 12, Growing(), config)[3].astype(np.float64)
        return np.log(p / (1 - p))

    start = np.log(0.9 / 0.1)
    np.testing.assert_allclose(log_odds(1.0), start - evidence, atol=1e-4)
    np.testing.assert_allclose(log_odds(0.5), start - 0.5 * evidence, atol=1e-4)


def test_clip_with_motion_compares_a_pair_of_frames_once() -> None:
    flow = Growing()
    frames = make_clip(numbered(20)).frames
    clip_with_motion(frames, [np.ones((48, 64), np.float32)] * 20, flow, MotionConfig(weight=1.0))
    assert len(flow.pairs) == len(set(flow.pairs))
    pairs = {(a, b) for a, b in flow.pairs if a < b}
    assert {(b, a) for a, b in flow.pairs if a > b} == pairs
    # Half a second apart, and each frame in one pair.
    assert pairs == {(a, a + 5) for a in (*range(5), *range(10, 15))}


def test_clip_with_motion_keeps_the_background_without_a_partner() -> None:
    backgrounds = [np.full((48, 64), 0.3, np.float32)] * 3
    frames = make_clip(numbered(3)).frames
    moved = clip_with_motion(frames, backgrounds, Growing(), MotionConfig(weight=1.0))
    assert all(a is b for a, b in zip(moved, backgrounds, strict=True))


def test_motion_between_compares_a_long_clip_in_blocks() -> None:
    """With what each of its frames alone gives, no pair twice, and few in memory at once."""
    frames, flow = make_clip(numbered(60)).frames, Batches()
    backgrounds = [np.full((48, 64), 0.9, np.float32)] * 60
    found = motion_between(frames, dict(enumerate(backgrounds)), flow, 0.5)
    assert list(found) == list(range(60))
    assert len(flow.pairs) == len(set(flow.pairs))
    assert max(flow.batches) <= 2 * 16 < sum(flow.batches)
    for t in (0, 15, 16, 20, 37, 59):
        (alone,) = motion_between(frames, {t: backgrounds[t]}, Growing(), 0.5).values()
        np.testing.assert_array_equal(found[t], alone)


def test_motion_between_gives_the_evidence_of_the_plane_residual() -> None:
    """A quarter of the image moves 5 pixels more than the rest, half a second away."""
    frames = make_clip(numbered(12)).frames
    found = motion_between(frames, {1: np.ones((48, 64), np.float32)}, Growing(), 0.5)[1]
    expected = motion_evidence(np.array([[1000 * 5 / 48]]))[0, 0]
    assert found[24, 20] == pytest.approx(expected, abs=0.01)
    assert found[24, 20] > 0 > found[24, 50]


def test_partners_are_closest_to_the_baseline_and_each_others_where_they_can_be() -> None:
    frames = make_clip(numbered(12)).frames  # 10 frames a second
    first = {0: 5, 1: 6, 2: 7, 3: 8, 4: 9}
    of_frame = {**first, **{b: a for a, b in first.items()}, 10: 5, 11: 6}
    assert partners(frames, 0.5) == of_frame
    assert partners(frames[:4], 0.5) == {0: 3, 3: 0}  # 0.3 seconds are more than half of it
    assert partners(frames[:3], 0.5) == {}


@given(
    gaps=st.lists(st.sampled_from([1, 2, 3, 10, 40]), max_size=15),
    baseline=st.sampled_from([1, 4, 5, 6, 20, 500]),
)
def test_partners_equal_a_search_of_all_frames(gaps: list[int], baseline: int) -> None:
    """Times in units of 0.1 seconds; equal distances from the baseline are frequent."""
    stamps = np.cumsum([17_000_000_000, *gaps]) * 10**8
    frames = [Frame(np.zeros((1, 1, 3), np.uint8), int(s), i) for i, s in enumerate(stamps)]
    expected: dict[int, int] = {}
    for t in range(len(frames)):
        ways = np.abs(stamps - stamps[t]) / 1e9
        order = sorted(
            np.flatnonzero(ways >= baseline / 20).tolist(),
            key=lambda i: (abs(ways[i] - baseline / 10), i in expected, i < t, i),
        )
        if order and t not in expected:
            expected[t] = order[0]
            expected.setdefault(order[0], t)
    assert partners(frames, baseline / 10) == expected


def test_frame_with_motion_compares_with_a_frame_that_has_come() -> None:
    frames, flow = make_clip(numbered(12)).frames, Growing()
    background = np.full((48, 64), 0.9, np.float32)
    for t, other in ((6, 1), (0, 5)):
        found = frame_with_motion(frames[:7], t, background, flow, MotionConfig(weight=1.0))
        assert set(flow.pairs) == {(t, other), (other, t)}
        assert found[24, 16:32].min() < 0.9 < found[24, 50]
        flow.pairs.clear()


@given(count=st.integers(1, 12), baseline_s=st.floats(0.05, 1.5))
def test_has_partner_says_whether_there_is_one(count: int, baseline_s: float) -> None:
    frames = make_clip(numbered(12)).frames[:count]
    found = {t for t in range(count) if has_partner(frames, t, baseline_s)}
    assert found == partners(frames, baseline_s).keys()


def test_clip_with_motion_takes_flows_in_half_precision() -> None:
    class Half(Growing):
        def flow(self, first: Sequence[Image], second: Sequence[Image]) -> NDArray[np.float32]:
            return super().flow(first, second).astype(np.float16)  # whole pixels

    frames = make_clip([np.full((200, 260, 3), number, np.uint8) for number in range(6)]).frames
    backgrounds = [np.full((200, 260), 0.9, np.float32)] * 6
    halves, singles = (
        clip_with_motion(frames, backgrounds, network, MotionConfig())
        for network in (Half(), Growing())
    )
    assert (singles[0] != backgrounds[0]).any()
    np.testing.assert_array_equal(halves, singles)


def test_clip_with_motion_refuses_backgrounds_that_do_not_fit() -> None:
    frames, background = make_clip(numbered(12)).frames, np.ones((48, 64), np.float32)
    with pytest.raises(ValueError, match="expected 12 backgrounds, one a frame, got 13"):
        clip_with_motion(frames, [background] * 13, Growing(), MotionConfig())


class Batches(Growing):
    """Notes how many pairs come at once."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def flow(self, first: Sequence[Image], second: Sequence[Image]) -> NDArray[np.float32]:
        self.batches.append(len(first))
        return super().flow(first, second)


class Sizes(Growing):
    """Notes how large the images are."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def flow(self, first: Sequence[Image], second: Sequence[Image]) -> NDArray[np.float32]:
        self.seen |= {image.shape for image in (*first, *second)}
        return super().flow(first, second)


def test_clip_with_motion_compares_large_images_at_a_smaller_size() -> None:
    flow, size = Sizes(), (480, 640)
    frames = make_clip([np.full((*size, 3), n, np.uint8) for n in range(12)]).frames
    moved = clip_with_motion(
        frames, [np.full(size, 0.9, np.float32)] * 12, flow, MotionConfig(weight=1.0)
    )
    assert flow.seen == {(240, 320, 3)}
    assert {m.shape for m in moved} == {size}


@pytest.mark.parametrize(
    ("size", "coarse_size", "expected"),
    [
        ((240, 360), (160, 240), [4, -2]),
        ((240, 427), (160, 285), [6 * 285 / 427, -2]),  # 284.67 columns are rounded
        ((427, 240), (285, 160), [4, -3 * 285 / 427]),
        ((48, 64), (48, 64), [6, -3]),
    ],
)
def test_flow_at_the_size_of_the_evidence_is_in_its_pixels(
    size: tuple[int, int], coarse_size: tuple[int, int], expected: list[float]
) -> None:
    coarse = motion._coarser(np.broadcast_to(np.float32([6, -3]), (*size, 2)))
    np.testing.assert_allclose(coarse, np.broadcast_to(expected, (*coarse_size, 2)), rtol=1e-6)


def test_add_evidence_limits_the_certainty_of_the_network() -> None:
    background = np.array([[0.0, 0.5, 1.0, 1.0]], np.float32)
    found = add_evidence(background, np.array([[1e-6, 1e-6, 1e-6, 0.0]]))
    np.testing.assert_allclose(found, [[1e-3, 0.5, 1 - 1e-3, 1.0]], rtol=1e-4)
    lower = add_evidence(background, np.full((1, 4), 2.0))
    assert np.all(lower[0, 1:] < background[0, 1:])
