"""The whole flow on small recordings: the same masks from every source, bounded memory."""

from __future__ import annotations

import re
import time
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.scenes import (
    SQUARE,
    SQUARE_SIZE,
    SmallSquares,
    SquareNetworks,
    moving_square,
    square_frames,
)

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import ClipConfig, Config, MotionConfig, OutlineConfig, SelectionConfig
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.io.sources import open_source
from gbopt_ros.perception.flow import DisFlow
from gbopt_ros.pipeline import FRAME_PERIOD_NS, Pipeline, frames_of
from gbopt_ros.structures import Frame, GboptError, Selection


def make_pipeline(
    length: int = 5, networks: SquareNetworks | None = None, lag: int = -1, **sections: Any
) -> Pipeline:
    """Without the prior from scores: the best score is that of a false mask."""
    networks = networks or SquareNetworks()
    selection = SelectionConfig(lag=lag, score_weight=0.0)
    return Pipeline(
        Config(clip=ClipConfig(length=length), selection=selection, **sections),
        proposal_network=networks,
        background_network=networks,
        flow_network=DisFlow(),
    )


@pytest.mark.parametrize("config", ["config/paper.yaml", {"device": "cpu"}])
def test_pipeline_says_that_it_expected_a_config(config: Any) -> None:
    words = f"config: expected a Config, such as load_config(...) gives, got {config!r}"
    with pytest.raises(TypeError, match=f"^{re.escape(words)}$"):
        Pipeline(config)


def test_pipeline_selects_the_square_in_every_frame() -> None:
    selections = list(make_pipeline().run(square_frames(12)))
    assert [len(s) for s in selections] == [5, 5, 2]
    assert [s.clip_id for s in selections] == [0, 1, 2]
    for selection in selections:
        assert selection.optimal
        assert selection.model_version == "fake"
        for frame in selection.frames:
            assert frame.indices == (1,)
            expected = np.zeros(SQUARE_SIZE, bool)
            expected[moving_square(frame.frame.index)] = True
            np.testing.assert_array_equal(mask_ops.decode(frame.rles[0]), expected)


@pytest.mark.parametrize("lag", [-1, 1])
@pytest.mark.parametrize(
    ("method", "areas"),
    [("guided", range(160, SQUARE**2 + 1)), ("network", [(SQUARE - 2) ** 2])],  # 160: round corners
)
def test_pipeline_draws_outlines_as_configured(method: str, areas: Sequence[int], lag: int) -> None:
    outline = OutlineConfig(method=method)
    pipeline = make_pipeline(networks=SmallSquares(), lag=lag, outline=outline)
    (selection,) = pipeline.run(square_frames(5))
    for frame in selection.frames:
        (area,) = mask_ops.areas(frame.rles)
        assert area in areas


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_pipeline_run_on_a_bag_gives_the_masks_of_its_frames(tmp_path: Path, storage: str) -> None:
    frames = list(square_frames(8))
    write_rosbag(frames, tmp_path / "bag", storage=storage, topic="/camera")
    direct = list(make_pipeline().run(frames))
    played = list(make_pipeline().run(open_source(tmp_path / "bag")))
    for a, b in zip(direct, played, strict=True):
        assert a.energy == b.energy
        assert [f.rles for f in a.frames] == [f.rles for f in b.frames]
        assert [f.frame.stamp_ns for f in a.frames] == [f.frame.stamp_ns for f in b.frames]


def energies_and_masks(selections: Iterable[Selection]) -> list[tuple]:
    return [(s.clip_id, s.energy, [f.rles for f in s.frames]) for s in selections]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_pipeline_prefetch_changes_nothing(tmp_path: Path, storage: str) -> None:
    """Neither on a recording that is read to its end, nor on one that is left before."""
    write_rosbag(square_frames(17), tmp_path / "bag", storage=storage, topic="/camera")
    plain = energies_and_masks(make_pipeline().run(open_source(tmp_path / "bag"), prefetch=False))
    assert len(plain) == 4
    prefetched = make_pipeline().run(open_source(tmp_path / "bag"), prefetch=True)
    assert energies_and_masks(prefetched) == plain
    left = make_pipeline().run(open_source(tmp_path / "bag"), prefetch=True)
    assert energies_and_masks([next(left)]) == plain[:1]
    left.close()


def test_pipeline_prefetch_of_a_source_that_fails_fails_in_its_place() -> None:
    def failing() -> Iterator[Frame]:
        yield from square_frames(7)
        raise GboptError("the camera is gone")

    def until_it_fails(prefetch: bool) -> list[tuple]:
        found = []
        with pytest.raises(GboptError, match="the camera is gone"):
            for selection in make_pipeline().run(failing(), prefetch=prefetch):
                found.append(selection)
        return energies_and_masks(found)

    assert until_it_fails(True) == until_it_fails(False) != []


@pytest.mark.parametrize("prefetch", [False, True])
def test_pipeline_perceives_two_clips_ahead_at_most(prefetch: bool) -> None:
    pipeline, perceived = make_pipeline(), []
    perceive = pipeline.perceive
    pipeline.perceive = lambda clip: (perceived.append(clip.clip_id), perceive(clip))[1]
    for selection in pipeline.run(square_frames(30), prefetch=prefetch):
        time.sleep(0.05)
        assert perceived[-1] <= selection.clip_id + 2 * prefetch
    assert perceived == list(range(6))


@pytest.mark.parametrize("lag", [-1, 2])
def test_pipeline_run_from_a_later_clip_gives_the_same_masks(lag: int) -> None:
    """So a replay that was cut can go on."""
    frames = list(square_frames(12))
    every = list(make_pipeline(lag=lag).run(frames))
    later = list(make_pipeline(lag=lag).run(frames, first_clip=1))
    assert [selection.clip_id for selection in later] == [1, 2]
    for expected, found in zip(every[1:], later, strict=True):
        assert (found.energy, found.lower_bound) == (expected.energy, expected.lower_bound)
        for a, b in zip(expected.frames, found.frames, strict=True):
            assert (a.rles, a.energy) == (b.rles, b.energy)
            np.testing.assert_array_equal(a.confidences, b.confidences)
            np.testing.assert_array_equal(a.margins, b.margins)


def test_pipeline_clips_are_cut_at_a_change_of_size() -> None:
    frames = list(square_frames(4))
    smaller = [
        Frame(np.zeros((32, 40, 3), np.uint8), f.stamp_ns + 10**9, f.index + 4) for f in frames[:2]
    ]
    clips = list(make_pipeline().clips([*frames, *smaller]))
    assert [(len(c), c.size) for c in clips] == [(4, SQUARE_SIZE), (2, (32, 40))]


def test_pipeline_memory_does_not_grow_with_the_recording() -> None:
    """How far the threads overlap is chance: one clip's worth is measured, four are the limit."""

    def peak(count: int, prefetch: bool) -> int:
        tracemalloc.start()
        for _ in make_pipeline().run(square_frames(count), prefetch):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10, prefetch=False)  # imports and caches
    short, long, many = peak(20, prefetch=False), peak(60, prefetch=False), peak(60, prefetch=True)
    assert long < short + 100_000, f"{short} bytes for 4 clips, {long} for 12"
    assert many < 4 * short + 100_000, f"{short} bytes one by one, {many} with prefetch"


def test_pipeline_seconds_of_every_step() -> None:
    pipeline = make_pipeline()
    list(pipeline.run(square_frames(5)))
    stages = {"proposals", "background", "flow", "motion", "selection", "outlines", "tracks"}
    assert set(pipeline.seconds) == stages
    assert all(seconds > 0 for seconds in pipeline.seconds.values())


def test_pipeline_run_follows_the_lag() -> None:
    """Two scenes with a gap between them and a repeated frame.

    Without motion, which a stream takes from earlier frames alone, and with a lag that no clip
    reaches, a stream selects the masks of its clips.
    """
    frames = list(square_frames(9))
    frames[5:] = [replace(f, stamp_ns=f.stamp_ns + 10**11) for f in frames[5:]]
    frames.insert(3, frames[2])
    still = MotionConfig(weight=0.0)
    by_clip, by_stream, at_once = (
        energies_and_masks(make_pipeline(20, lag=lag, motion=still).run(frames))
        for lag in (-1, 20, 0)
    )
    assert [len(masks) for _, _, masks in by_clip] == [5, 4]
    assert by_stream == by_clip
    assert [masks for _, _, masks in at_once] == [masks for _, _, masks in by_clip]


def test_frames_of_images_are_ten_a_second() -> None:
    images = [frame.image for frame in square_frames(3)]
    found = list(frames_of(images))
    assert [frame.stamp_ns for frame in found] == [t * FRAME_PERIOD_NS for t in range(3)]
    assert [frame.index for frame in found] == [0, 1, 2]
    assert all(a.image is b for a, b in zip(found, images, strict=True))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((8, 8, 3), np.uint8), "got one array"),
        (5, "got int"),
        (["a.png"], "got str at place 0"),
    ],
)
def test_frames_of_refuses_other_sources(source: Any, words: str) -> None:
    with pytest.raises(TypeError, match=f"source: expected .*{words}"):
        list(frames_of(source))
