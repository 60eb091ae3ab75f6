"""The whole flow on small recordings: the same masks from every source, bounded memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.fakes import make_proposals

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import ClipConfig, Config, MotionConfig, OutlineConfig
from gbopt_ros.demo import _prepare, _Replayed
from gbopt_ros.io.selection_format import ReplayWriter, read_replay
from gbopt_ros.io.sources import open_source, write_rosbag
from gbopt_ros.models.device import has_idle_core
from gbopt_ros.perception.flow import DisFlow
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import Frame, GboptError, Image, Proposals, Selection

SIZE = (48, 64)
SQUARE = 14


def moving_square(t: int) -> tuple[slice, slice]:
    return slice(10, 10 + SQUARE), slice(4 + 2 * t, 4 + 2 * t + SQUARE)


def square_frames(count: int) -> Iterator[Frame]:
    """A textured square that moves 2 pixels a frame over a textured table."""
    rng = np.random.default_rng(0)
    table = rng.integers(60, 120, (*SIZE, 3), dtype=np.uint8)
    square = rng.integers(140, 255, (SQUARE, SQUARE, 3), dtype=np.uint8)
    for t in range(count):
        image = table.copy()
        image[moving_square(t % 20)] = square
        yield Frame(image, 10**8 * (t + 1), t, "camera")


class SquareNetworks:
    """Proposes the bright square and two false masks; its background map is blurred."""

    version = "fake"

    def __init__(self) -> None:
        self.largest_batch = 0

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        self.largest_batch = max(self.largest_batch, len(images))
        proposals = []
        for image in images:
            masks = np.zeros((3, *SIZE), bool)
            masks[0, 30:44, 40:60] = True  # a patch of table, scored highest
            masks[1] = self._bright(image)
            masks[2, :, :30] = True  # half of the table, over the square
            proposals.append(make_proposals(masks, scores=[0.9, 0.4, 0.3]))
        return proposals

    def background(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        return [np.where(self._bright(im), 0.2, 0.9).astype(np.float32) for im in images]

    @staticmethod
    def _bright(image: Image) -> NDArray[np.bool_]:
        return image.min(axis=2) >= 130


def make_pipeline(length: int = 5, overlap: int = 0) -> Pipeline:
    networks = SquareNetworks()
    return Pipeline(
        replace(Config(), clip=ClipConfig(length=length, overlap=overlap)),
        proposal_network=networks,
        background_network=networks,
        flow_network=DisFlow(),
    )


def test_the_square_is_selected_in_every_frame() -> None:
    selections = list(make_pipeline().run(square_frames(12)))
    assert [len(s) for s in selections] == [5, 5, 2]
    assert [s.clip_id for s in selections] == [0, 1, 2]
    for selection in selections:
        assert selection.optimal
        assert selection.model_version == "fake"
        for frame in selection.frames:
            assert frame.indices == (1,)
            expected = np.zeros(SIZE, bool)
            expected[moving_square(frame.frame.index)] = True
            np.testing.assert_array_equal(mask_ops.decode(frame.rles[0]), expected)


class SmallSquares(SquareNetworks):
    """Proposes one pixel less of the square on every side."""

    @staticmethod
    def _bright(image: Image) -> NDArray[np.bool_]:
        bright = SquareNetworks._bright(image).astype(np.uint8)
        return cv2.erode(bright, np.ones((3, 3), np.uint8)) > 0


@pytest.mark.parametrize(("method", "side"), [("grabcut", SQUARE), ("network", SQUARE - 2)])
def test_outlines_are_drawn_as_configured(method: str, side: int) -> None:
    networks = SmallSquares()
    pipeline = Pipeline(
        replace(Config(), clip=ClipConfig(length=5), outline=OutlineConfig(method=method)),
        proposal_network=networks,
        background_network=networks,
        flow_network=DisFlow(),
    )
    frames = list(square_frames(5))
    (selection,) = pipeline.run(frames)
    assert [mask_ops.areas(f.rles).tolist() for f in selection.frames] == [[side * side]] * 5
    streamed = [frame.rles for frame in pipeline.stream(frames, lag=1)]
    assert streamed == [frame.rles for frame in selection.frames]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_gives_the_masks_of_its_recording(tmp_path: Path, storage: str) -> None:
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
def test_networks_that_run_ahead_change_nothing(tmp_path: Path, storage: str) -> None:
    """Neither on a recording that is read to its end, nor on one that is left before."""
    write_rosbag(square_frames(17), tmp_path / "bag", storage=storage, topic="/camera")
    plain = energies_and_masks(make_pipeline().run(open_source(tmp_path / "bag"), ahead=False))
    assert len(plain) == 4
    ahead = make_pipeline().run(open_source(tmp_path / "bag"), ahead=True)
    assert energies_and_masks(ahead) == plain
    left = make_pipeline().run(open_source(tmp_path / "bag"), ahead=True)
    assert energies_and_masks([next(left)]) == plain[:1]
    left.close()


def test_a_source_that_fails_ahead_fails_in_its_place() -> None:
    def failing() -> Iterator[Frame]:
        yield from square_frames(7)
        raise GboptError("the camera is gone")

    def until_it_fails(ahead: bool) -> list[tuple]:
        found = []
        with pytest.raises(GboptError, match="the camera is gone"):
            for selection in make_pipeline().run(failing(), ahead=ahead):
                found.append(selection)
        return energies_and_masks(found)

    assert until_it_fails(True) == until_it_fails(False) != []


@pytest.mark.parametrize(
    ("device", "threads", "expected"), [("cuda", 4, True), ("cpu", 3, True), ("cpu", 4, False)]
)
def test_networks_run_ahead_where_they_leave_a_core_idle(
    monkeypatch: pytest.MonkeyPatch, device: str, threads: int, expected: bool
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert has_idle_core(torch.device(device)) is expected


@pytest.mark.parametrize("ahead", [False, True])
def test_clips_in_memory(ahead: bool) -> None:
    """While the masks of a clip are in use, one clip more is perceived at most."""
    pipeline, perceived = make_pipeline(), []
    perceive = pipeline.perceive
    pipeline.perceive = lambda clip: (perceived.append(clip.clip_id), perceive(clip))[1]
    for selection in pipeline.run(square_frames(30), ahead=ahead):
        time.sleep(0.05)
        assert perceived[-1] <= selection.clip_id + ahead
    assert perceived == list(range(6))


def test_a_change_of_size_cuts_the_clip() -> None:
    frames = list(square_frames(4))
    smaller = [
        Frame(np.zeros((32, 40, 3), np.uint8), f.stamp_ns + 10**9, f.index + 4) for f in frames[:2]
    ]
    clips = list(make_pipeline().clips([*frames, *smaller]))
    assert [(len(c), c.size) for c in clips] == [(4, SIZE), (2, (32, 40))]


def test_memory_does_not_grow_with_the_recording() -> None:
    """How far two threads overlap is chance: one clip's worth is measured, two are the limit."""

    def peak(count: int, ahead: bool) -> int:
        tracemalloc.start()
        for _ in make_pipeline().run(square_frames(count), ahead):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10, ahead=False)  # imports and caches
    short, long, two = peak(20, ahead=False), peak(60, ahead=False), peak(60, ahead=True)
    assert long < short + 100_000, f"{short} bytes for 4 clips, {long} for 12"
    assert two < 2 * short + 100_000, f"{short} bytes one by one, {two} one ahead"


def test_stages_are_timed() -> None:
    pipeline = make_pipeline()
    list(pipeline.run(square_frames(5)))
    stages = {"proposals", "background", "flow", "motion", "selection", "outlines"}
    assert set(pipeline.seconds) == stages
    assert all(seconds > 0 for seconds in pipeline.seconds.values())


def test_a_stream_selects_what_its_clips_do() -> None:
    """Two scenes with a gap between them and a repeated frame, frame by frame.

    Without motion, which a stream knows from earlier frames alone.
    """
    frames = list(square_frames(9))
    frames[5:] = [replace(f, stamp_ns=f.stamp_ns + 10**11) for f in frames[5:]]
    frames.insert(3, frames[2])
    network = SquareNetworks()
    pipeline = Pipeline(
        Config(clip=ClipConfig(length=20), motion=MotionConfig(weight=0.0)),
        proposal_network=network,
        background_network=network,
        flow_network=DisFlow(),
    )
    whole = [frame for selection in pipeline.run(frames) for frame in selection.frames]
    streamed = list(pipeline.stream(frames, None))
    assert [f.frame.index for f in streamed] == list(range(9))
    assert [f.rles for f in streamed] == [f.rles for f in whole]
    # With a lag of one frame, a frame is out before the frame after the next is taken.
    taken = 0

    def counted() -> Iterator[Frame]:
        nonlocal taken
        for frame in frames:
            taken += frame is not frames[3]
            yield frame

    for frame in pipeline.stream(counted(), 1):
        assert taken <= frame.frame.index + 2


def test_the_demo_measures_the_masks_that_it_writes(tmp_path: Path) -> None:
    """A frame that two clips share keeps the decision of the first, here that of nothing."""
    pipeline = make_pipeline(4, overlap=2)
    replayed = _Replayed()
    with ReplayWriter(tmp_path / "replay", "square") as writer:
        for clip in pipeline.clips(square_frames(6)):
            cues = pipeline.perceive(clip)
            if clip.clip_id == 0:
                cues.proposals[3] = make_proposals(np.zeros((0, *SIZE), bool))
            selection = pipeline.select(clip, cues)
            writer.add(selection)
            replayed.add(selection, cues)
        writer.finish()
    written = {frame.frame_index: frame.rles for frame in read_replay(tmp_path / "replay")}
    assert written[3] == () != written[5]
    assert replayed.selected == written
    assert len(replayed.proposals[3]) == 0


@pytest.mark.parametrize("beside", ["replay-1/selected.json", "results.json", "overlay.mp4"])
def test_the_demo_replaces_nothing_but_a_demo(tmp_path: Path, beside: str) -> None:
    """`gbopt demo --out .` where `gbopt replay --out replay-1` has run must not empty it."""
    own = tmp_path / "thesis" / "draft.txt"
    for path in (own, tmp_path / beside):
        path.parent.mkdir(exist_ok=True)
        path.write_text("of the user")
    with pytest.raises(GboptError, match="something else than a demo"):
        _prepare(tmp_path)
    assert own.is_file() and (tmp_path / beside).is_file()


def test_the_demo_leaves_a_replay_of_the_users_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "replay-1").mkdir(parents=True)
    with pytest.raises(GboptError, match="something else than a demo"):
        _prepare(out)
    assert (out / "replay-1").is_dir()


@pytest.mark.parametrize("left", ["replay-1/frames", ".replay-1.broken-off/frames"])
def test_a_demo_that_was_ended_is_started_again(tmp_path: Path, left: str) -> None:
    out = tmp_path / "out"
    _prepare(out)
    (out / left).mkdir(parents=True)
    _prepare(out)
    assert not (out / left).exists()
    (out / "again").mkdir()  # the user's own
    with pytest.raises(GboptError, match="something else than a demo"):
        _prepare(out)
