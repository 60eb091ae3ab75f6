"""Motion, selection and outlines in one call: whole clips, and clips that grow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.scenes import (
    DoubtfulNetworks,
    SmallSquares,
    cues_of,
    print_and_thing,
    square_frames,
)

from gbopt_ros.config import Config, MotionConfig, OutlineConfig, SelectionConfig
from gbopt_ros.perception.flow import DisFlow, high_detail_flow
from gbopt_ros.perception.motion import clip_with_motion
from gbopt_ros.selection import (
    ClipSelector,
    StreamSelector,
    make_selector,
    select_clip,
    with_outlines,
)
from gbopt_ros.selection.confidence import TrackConfidence, confidence, with_track_confidence
from gbopt_ros.structures import Calibration, Clip, Cues, FrameSelection, GboptError
from gbopt_ros.tracks import TrackLinker

FRAMES = 9
FITTED = Calibration(bias=-0.5, margin=0.3, score=1.2)


def configured(lag: int = -1, motion: float = 1.0, outline: str = "guided") -> Config:
    return Config(
        selection=SelectionConfig(lag=lag, k=4, neutral_score=0.1),  # scores of squares are low
        motion=MotionConfig(weight=motion, baseline_s=0.3),
        outline=OutlineConfig(method=outline),
    )


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip(3, tuple(square_frames(FRAMES)))


@pytest.fixture(scope="module")
def cues(clip: Clip) -> Cues:
    return cues_of(clip, SmallSquares())


def partial(clip: Clip, cues: Cues, count: int) -> tuple[Clip, Cues]:
    """The first frames of a clip, and what the networks said of them."""
    return replace(clip, frames=clip.frames[:count]), Cues(
        cues.proposals[:count], cues.backgrounds[:count], cues.flows[: count - 1]
    )


def calibrated(cues: Cues, calibration: Calibration | None) -> Cues:
    proposals = [replace(found, calibration=calibration) for found in cues.proposals]
    return replace(cues, proposals=proposals)


def content(frames: list[FrameSelection]) -> list[tuple[Any, ...]]:
    return [
        (f.frame.index, f.indices, f.rles, f.energy, f.margins.tolist(), f.confidences.tolist())
        for f in frames
    ]


def grow(selector: StreamSelector, clip: Clip, cues: Cues, counts: list[int]) -> list[int]:
    """Advance by partial clips of so many frames; how many frames each call decided."""
    return [
        len(selector.advance(*partial(clip, cues, count), is_whole=count == len(clip)))
        for count in counts
    ]


# ------------------------------------------------------------------------------------ ClipSelector


def test_clip_selector_equals_its_steps_by_hand(clip: Clip, cues: Cues) -> None:
    config, flow, cues = configured(), DisFlow(), calibrated(cues, FITTED)
    moved = clip_with_motion(clip.frames, cues.backgrounds, high_detail_flow(flow), config.motion)
    assert any((a != b).any() for a, b in zip(moved, cues.backgrounds, strict=True))
    proposed = select_clip(clip, cues.proposals, moved, cues.flows, flow, config.selection, "v7")
    outlined = with_outlines(proposed, config.outline)
    expected = with_track_confidence(outlined, config.tracks.linker())
    assert content(outlined.frames) != content(expected.frames)  # confidences are by track
    found = ClipSelector(flow, config).select(clip, cues, "v7")
    assert content(found.frames) == content(expected.frames)
    assert content(found.frames) != content(proposed.frames)  # outlines are drawn anew
    for name in ("clip_id", "energy", "lower_bound", "optimal", "flow_runs", "model_version"):
        assert getattr(found, name) == getattr(expected, name), name


def test_clip_selector_advance_decides_a_clip_when_it_is_whole(clip: Clip, cues: Cues) -> None:
    selector = ClipSelector(DisFlow(), configured())
    assert selector.advance(*partial(clip, cues, 5), is_whole=False) == []
    decided = selector.advance(clip, cues, is_whole=True)
    expected = selector.select(clip, cues, "v7")
    finished = selector.finish("v7")
    assert content(decided) == content(finished.frames) == content(expected.frames)
    assert (finished.energy, finished.model_version) == (expected.energy, "v7")


def test_clip_selector_uses_a_new_config_for_the_next_clip(clip: Clip, cues: Cues) -> None:
    selector = ClipSelector(DisFlow(), configured())
    selector.select(clip, cues)
    selector.config = configured(outline="network")
    expected = ClipSelector(DisFlow(), selector.config).select(clip, cues)
    assert content(selector.select(clip, cues).frames) == content(expected.frames)


def test_selectors_measure_their_steps(clip: Clip, cues: Cues) -> None:
    steps: list[str] = []

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        yield
        steps.append(step)

    for lag in (-1, 2):
        make_selector(DisFlow(), configured(lag), timed).select(clip, cues)
        assert set(steps) == {"motion", "selection", "outlines", "tracks"}
        steps.clear()


# ---------------------------------------------------------------------------------- StreamSelector


@pytest.mark.parametrize("lag", [0, 2, 20])
@pytest.mark.parametrize("counts", [list(range(1, FRAMES + 1)), [1, 4, 5, FRAMES], [7, FRAMES]])
def test_stream_selector_gives_the_masks_of_the_whole_clip_frame_by_frame(
    clip: Clip, cues: Cues, lag: int, counts: list[int]
) -> None:
    whole = StreamSelector(DisFlow(), configured(lag)).select(clip, cues, "v7")
    selector = StreamSelector(DisFlow(), configured(lag))
    decided: list[FrameSelection] = []
    for count in counts:
        decided += selector.advance(*partial(clip, cues, count), is_whole=count == FRAMES)
        assert len(decided) >= count - lag  # no frame waits longer
    finished = selector.finish("v7")
    assert content(decided) == content(finished.frames) == content(whole.frames)
    assert replace(finished, frames=()) == replace(whole, frames=())
    assert [frame.frame.index for frame in decided] == list(range(FRAMES))


def test_stream_selector_with_a_long_lag_and_no_motion_equals_the_clip_selector(
    clip: Clip, cues: Cues
) -> None:
    stream = StreamSelector(DisFlow(), configured(FRAMES, motion=0.0)).select(clip, cues)
    whole = ClipSelector(DisFlow(), configured(motion=0.0)).select(clip, cues)
    assert [(f.indices, f.rles) for f in stream.frames] == [
        (f.indices, f.rles) for f in whole.frames
    ]
    assert stream.energy == pytest.approx(whole.energy, abs=1e-9)


def test_stream_selector_finishes_a_whole_clip_without_a_new_frame(clip: Clip, cues: Cues) -> None:
    """The end of a clip may come after its last frame."""
    selector = StreamSelector(DisFlow(), configured(lag=20))
    selector.advance(clip, cues, is_whole=False)
    selector.advance(clip, cues, is_whole=True)
    expected = StreamSelector(DisFlow(), configured(lag=20)).select(clip, cues)
    assert content(selector.finish().frames) == content(expected.frames)


def test_stream_selector_starts_afresh_with_another_clip(clip: Clip, cues: Cues) -> None:
    """Another number, or other frames under the same number; what went before is forgotten."""
    expected = StreamSelector(DisFlow(), configured(lag=2)).select(clip, cues)
    numbered = replace(clip, clip_id=8)
    later = tuple(replace(f, stamp_ns=f.stamp_ns + 10**9) for f in clip.frames)
    for other in (numbered, replace(clip, frames=later)):
        selector = StreamSelector(DisFlow(), configured(lag=2))
        grow(selector, clip, cues, [3, 6])
        selection = selector.select(other, cues)
        assert selection.clip_id == other.clip_id
        assert [f.frame for f in selection.frames] == list(other.frames)
        assert [f.rles for f in selection.frames] == [f.rles for f in expected.frames]
        assert (selection.energy, selection.flow_runs) == (expected.energy, expected.flow_runs)


def test_stream_selector_starts_afresh_after_finish(clip: Clip, cues: Cues) -> None:
    selector = StreamSelector(DisFlow(), configured(lag=2))
    first, again = selector.select(clip, cues), selector.select(clip, cues)
    assert content(first.frames) == content(again.frames)


def test_stream_selector_takes_a_clip_afresh_after_a_broken_advance(clip: Clip, cues: Cues) -> None:
    selector = StreamSelector(DisFlow(), configured(lag=1))
    grow(selector, clip, cues, [4])
    shown, broken = partial(clip, cues, 6)
    broken.backgrounds[5] = np.zeros((3, 3), np.float32)
    with pytest.raises(ValueError, match="background"):
        selector.advance(shown, broken, is_whole=False)
    again = selector.advance(*partial(clip, cues, 6), is_whole=False)
    assert [frame.frame.index for frame in again[:1]] == [0]
    selector.advance(clip, cues, is_whole=True)
    expected = StreamSelector(DisFlow(), configured(lag=1)).select(clip, cues)
    assert content(selector.finish().frames) == content(expected.frames)


def test_stream_selector_uses_a_new_config_for_the_next_clip(clip: Clip, cues: Cues) -> None:
    selector = StreamSelector(DisFlow(), configured(lag=2))
    grow(selector, clip, cues, [5])
    selector.config = configured(lag=2, outline="network")
    old = StreamSelector(DisFlow(), configured(lag=2)).select(clip, cues)
    new = StreamSelector(DisFlow(), selector.config).select(clip, cues)
    assert content(selector.select(clip, cues).frames) == content(old.frames)
    assert content(selector.select(clip, cues).frames) == content(new.frames)


# ----------------------------------------------------------------------------------------- motion


def test_selectors_leave_out_a_print_by_its_motion() -> None:
    """The first frames of a stream wait for one to compare with, if the lag is long enough."""
    clip = Clip(0, tuple(print_and_thing(11)))
    cues = cues_of(clip, DoubtfulNetworks())

    def selected(lag: int, weight: float) -> list[tuple[int, ...]]:
        config = Config(
            selection=SelectionConfig(lag=lag, lambda_flow=0.0, score_weight=0.0),
            motion=MotionConfig(weight=weight),
            outline=OutlineConfig(method="network"),
        )
        selection = make_selector(DisFlow(), config).select(clip, cues)
        return [frame.indices for frame in selection.frames]

    both, thing = (0, 1), (1,)
    assert selected(lag=-1, weight=0.0)[5] == selected(lag=2, weight=0.0)[5] == both
    assert selected(lag=-1, weight=1.0)[5] == thing
    stream = selected(lag=2, weight=1.0)
    assert stream[0] == both
    assert selected(lag=3, weight=1.0)[0] == thing
    assert stream[6:] == [thing] * 5
    assert selected(lag=5, weight=1.0) == [thing] * 11


# ------------------------------------------------------------------------- the lag, the confidence


@pytest.mark.parametrize(
    ("lag", "kind"), [(-1, ClipSelector), (0, StreamSelector), (4, StreamSelector)]
)
def test_make_selector_follows_the_lag(lag: int, kind: type) -> None:
    assert type(make_selector(DisFlow(), configured(lag))) is kind


@pytest.mark.parametrize("lag", [-1, 4])
def test_make_selector_refuses_a_photograph_that_is_no_image(lag: int, tmp_path: Path) -> None:
    path = tmp_path / "photograph.jpg"
    path.write_bytes(b"no image")
    config = replace(configured(lag), selection=SelectionConfig(lag=lag, photograph=str(path)))
    with pytest.raises(GboptError, match=r"photograph\.jpg"):
        make_selector(DisFlow(), config)


def test_stream_selector_decides_after_the_lag(clip: Clip, cues: Cues) -> None:
    waits = {
        lag: grow(
            StreamSelector(DisFlow(), configured(lag)), clip, cues, list(range(1, FRAMES + 1))
        )
        for lag in (0, 3)
    }
    assert waits[0] == [1] * FRAMES
    totals = np.cumsum(waits[3])
    assert all(total >= n - 3 for n, total in enumerate(totals, start=1))
    assert all(a <= b for a, b in pairwise(totals)) and totals[-1] == FRAMES


@pytest.mark.parametrize("lag", [-1, 2])
def test_selectors_follow_the_calibration_of_the_proposals(
    clip: Clip, cues: Cues, lag: int
) -> None:
    """Without one the confidences are the scores; with one they are of its model; then by track."""
    for calibration in (None, FITTED):
        found = make_selector(DisFlow(), configured(lag)).select(
            clip, calibrated(cues, calibration)
        )
        alone = [
            replace(frame, confidences=confidence(frame.margins, frame.scores, calibration))
            for frame in found.frames
        ]
        tracks = TrackConfidence(TrackLinker())
        at_a_time = [FRAMES]  # frames that are decided together
        if lag != -1:
            growing = StreamSelector(DisFlow(), configured(lag))
            at_a_time = [
                len(growing.advance(*partial(clip, cues, count), is_whole=False))
                for count in range(1, FRAMES + 1)
            ]
            at_a_time.append(FRAMES - sum(at_a_time))  # at the end of the clip
            assert at_a_time[-1] > 1
        expected, left = list[FrameSelection](), iter(alone)
        for count in at_a_time:
            together = [next(left) for _ in range(count)]
            ids = [tracks.add(frame) for frame in together]
            expected += map(tracks.apply, together, ids)
        assert all(map(len, found.frames))
        assert content(found.frames) == content(expected)
        assert (content(alone) == content(expected)) == (calibration is None)
