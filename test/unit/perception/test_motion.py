"""What moves against its surroundings, beside the background network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.fakes import Growing, make_clip, make_proposals, numbered

from gbopt_ros.config import Config, MotionConfig, OutlineConfig
from gbopt_ros.models.raft import RaftFlow
from gbopt_ros.perception.flow import DisFlow, high_detail_flow
from gbopt_ros.perception.motion import (
    add_evidence,
    clip_with_motion,
    last_with_motion,
    motion_between,
    recent,
)
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.selection import select_clip
from gbopt_ros.structures import Clip, Frame, Image, Proposals

SIZE = (120, 160)
PRINT, THING = (slice(20, 50), slice(20, 60)), (slice(60, 90), slice(90, 130))
UNSURE = 0.5
NONE = MotionConfig(weight=0.0)


def print_and_thing(count: int, scale: int = 1) -> list[Frame]:
    """A table with a print moves 1 pixel a frame to the left, a thing on it 1 to the right."""
    rng = np.random.default_rng(3)
    texture = cv2.GaussianBlur(rng.uniform(0, 255, (300, 400, 3)), (0, 0), 3)
    texture = np.clip(6 * (texture - 127) + 127, 0, 255).astype(np.uint8)
    frames = []
    for t in range(count):
        image = texture[100 : 100 + SIZE[0], 100 + t : 100 + t + SIZE[1]].copy()
        rows, columns = THING
        left = columns.start + t - count // 2
        image[rows, left : left + 40] = texture[:30, :40]
        height, width = SIZE
        image = cv2.resize(image, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)
        frames.append(Frame(np.ascontiguousarray(image), 10**8 * (t + 1), t))
    return frames


def doubtful(scale: int = 1) -> NDArray[np.float32]:
    """Background everywhere, but that the network cannot tell what print and thing are."""
    background = np.full(SIZE, 0.95, np.float32)
    background[PRINT] = background[THING] = UNSURE
    return cv2.resize(background, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)


@pytest.mark.parametrize("scale", [1, 4])
def test_a_print_is_told_from_a_thing(scale: int) -> None:
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


def test_without_weight_nothing_is_computed() -> None:
    flow, backgrounds = Growing(), [np.full((48, 64), 0.3, np.float32)] * 12
    frames = make_clip(numbered(12)).frames
    assert clip_with_motion(frames, backgrounds, flow, NONE) == backgrounds
    assert last_with_motion(frames, backgrounds[0], flow, NONE) is backgrounds[0]
    assert flow.pairs == []


def test_the_weight_multiplies_log_odds() -> None:
    frames, background = make_clip(numbered(12)).frames, np.full((48, 64), 0.4, np.float32)
    evidence = motion_between(frames, {3: background}, Growing(), 0.5)[3]

    def log_odds(weight: float) -> NDArray[np.float64]:
        config = MotionConfig(weight=weight)
        p = clip_with_motion(frames, [background] * 12, Growing(), config)[3].astype(np.float64)
        return np.log(p / (1 - p))

    start = np.log(0.4 / 0.6)
    np.testing.assert_allclose(log_odds(1.0), start - evidence, atol=1e-4)
    np.testing.assert_allclose(log_odds(0.5), start - 0.5 * evidence, atol=1e-4)


def test_a_pair_of_frames_is_compared_once() -> None:
    flow = Growing()
    frames = make_clip(numbered(20)).frames
    clip_with_motion(frames, [np.ones((48, 64), np.float32)] * 20, flow, MotionConfig(weight=1.0))
    assert len(flow.pairs) == len(set(flow.pairs))
    pairs = {(a, b) for a, b in flow.pairs if a < b}
    assert {(b, a) for a, b in flow.pairs if a > b} == pairs
    half_a_second = {(a, a + 5) for a in range(15)}
    assert pairs == half_a_second | {(0, 3), (0, 4), (15, 19), (16, 19)}  # where nothing is nearer


def test_where_no_frame_is_far_enough_the_network_alone_counts() -> None:
    backgrounds = [np.full((48, 64), 0.3, np.float32)] * 3
    frames = make_clip(numbered(3)).frames
    moved = clip_with_motion(frames, backgrounds, Growing(), MotionConfig(weight=1.0))
    assert all(a is b for a, b in zip(moved, backgrounds, strict=True))


def test_a_long_clip_is_compared_in_blocks() -> None:
    """With what each of its frames alone gives, no pair twice, and few in memory at once."""
    frames, flow = make_clip(numbered(60)).frames, Batches()
    backgrounds = [np.full((48, 64), 0.9, np.float32)] * 60
    found = motion_between(frames, dict(enumerate(backgrounds)), flow, 0.5)
    assert list(found) == list(range(60))
    assert len(flow.pairs) == len(set(flow.pairs))
    assert max(flow.batches) <= 4 * 16 < sum(flow.batches)
    for t in (0, 15, 16, 20, 37, 59):
        (alone,) = motion_between(frames, {t: backgrounds[t]}, Growing(), 0.5).values()
        np.testing.assert_array_equal(found[t], alone)


def test_clips_and_backgrounds_must_fit() -> None:
    frames, background = make_clip(numbered(12)).frames, np.ones((48, 64), np.float32)
    with pytest.raises(ValueError, match="a background a frame, got 13, 12"):
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


def test_large_images_are_compared_at_a_smaller_size() -> None:
    flow, size = Sizes(), (480, 640)
    frames = make_clip([np.full((*size, 3), n, np.uint8) for n in range(12)]).frames
    moved = clip_with_motion(
        frames, [np.full(size, 0.9, np.float32)] * 12, flow, MotionConfig(weight=1.0)
    )
    assert flow.seen == {(240, 320, 3)}
    assert {m.shape for m in moved} == {size}


def test_certainty_of_the_network_is_limited_where_there_is_evidence() -> None:
    background = np.array([[0.0, 0.5, 1.0, 1.0]], np.float32)
    found = add_evidence(background, np.array([[1e-6, 1e-6, 1e-6, 0.0]]))
    np.testing.assert_allclose(found, [[1e-3, 0.5, 1 - 1e-3, 1.0]], rtol=1e-4)
    lower = add_evidence(background, np.full((1, 4), 2.0))
    assert np.all(lower[0, 1:] < background[0, 1:])


# ------------------------------------------------------------------------------------------ streams


@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=30),
    st.floats(0.05, 2.0),
)
def test_recent_frames_are_enough_for_the_next(gaps_ms: list[int], baseline_s: float) -> None:
    """A stream that forgets compares every frame with the one that it is compared with in full."""
    background, config = np.full((8, 8), 0.5, np.float32), MotionConfig(baseline_s=baseline_s)
    held: list[Frame] = []
    frames: list[Frame] = []
    for number, stamp in enumerate(np.cumsum(gaps_ms)):
        frame = Frame(np.full((8, 8, 3), number, np.uint8), int(stamp) * 10**6, number)
        frames.append(frame)
        held = [*recent(held, config.baseline_s), frame]
        full, forgetful = Growing(), Growing()
        last_with_motion(frames, background, full, config)
        last_with_motion(held, background, forgetful, config)
        assert forgetful.pairs == full.pairs
        assert all(a <= number and b <= number for a, b in full.pairs)
        kept = recent(held, config.baseline_s)
        assert all(frame.stamp_ns - f.stamp_ns < baseline_s * 1e9 for f in kept[1:])


class Doubtful:
    """Networks that propose print and thing, and cannot tell what they are."""

    version = "fake"

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        masks = np.zeros((2, *SIZE), bool)
        masks[0][PRINT] = masks[1][THING] = True
        return [make_proposals(masks, [0.9, 0.8]) for _ in images]

    def background(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        unsure = doubtful()
        unsure[unsure == UNSURE] = 0.45  # rather an object
        return [unsure.copy() for _ in images]


def doubtful_pipeline(weight: float) -> Pipeline:
    config = Config()
    config = replace(
        config,
        clip=replace(config.clip, length=11),
        motion=MotionConfig(weight=weight),
        outline=OutlineConfig(method="network"),
        selection=replace(config.selection, lambda_flow=0.0),
    )
    networks = Doubtful()
    return Pipeline(
        config,
        proposal_network=networks,
        background_network=networks,
        flow_network=DisFlow(),
    )


def test_the_print_is_not_selected() -> None:
    frames = print_and_thing(11)
    (without,) = doubtful_pipeline(0.0).run(frames)
    (selection,) = doubtful_pipeline(1.0).run(frames)
    assert without.frames[5].indices == (0, 1)
    assert selection.frames[5].indices == (1,)


def test_a_stream_looks_back() -> None:
    frames = print_and_thing(11)
    selected = list(doubtful_pipeline(1.0).stream(frames, lag=2))
    assert selected[0].indices == (0, 1)  # nothing to compare with yet
    assert [frame.indices for frame in selected[6:]] == [(1,)] * 5


def test_a_live_stream_looks_back_as_one_offline() -> None:
    pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")
    pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
    from gbopt_ros.nodes.clip_stream import ClipStream

    from gbopt_ros.nodes.assembly import ClipCues

    frames = print_and_thing(11)
    pipeline = doubtful_pipeline(1.0)
    clip = Clip(0, tuple(frames))
    cues = pipeline.perceive(clip)
    whole = ClipCues(
        None, True, clip, [None] * 11, cues.proposals, cues.backgrounds, list(cues.flows), [""] * 11
    )
    live = ClipStream(DisFlow(), 2).advance(whole, pipeline.config)
    offline = list(pipeline.stream(frames, lag=2))
    assert [f.indices for f in live] == [f.indices for f in offline]
    assert [f.energy for f in live] == [f.energy for f in offline]
    without = doubtful_pipeline(0.0)
    blind = ClipStream(DisFlow(), 2).advance(whole, without.config)
    assert [f.indices for f in blind] != [f.indices for f in live]


def test_select_clip_takes_what_motion_says() -> None:
    frames = print_and_thing(11)
    pipeline, clip = doubtful_pipeline(1.0), Clip(0, tuple(frames))
    cues = pipeline.perceive(clip)
    moved = clip_with_motion(
        frames, cues.backgrounds, high_detail_flow(DisFlow()), pipeline.config.motion
    )
    expected = select_clip(
        clip, cues.proposals, moved, list(cues.flows), DisFlow(), pipeline.config.selection
    )
    assert pipeline.select(clip, cues).energy == expected.energy


def test_raft_is_its_own_finer_flow() -> None:
    class Other(RaftFlow):
        def __init__(self) -> None:
            pass

    other = Other()
    assert high_detail_flow(other) is other
    assert isinstance(high_detail_flow(DisFlow()), DisFlow)
