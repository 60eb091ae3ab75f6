"""`gbopt replay` of recordings in every format: the same masks, and bounded memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.live import RECORDING, gbopt, replay, replayed_masks
from support.recordings import write_video

from gbopt_ros.io.sources import open_source

pytestmark = pytest.mark.timeout(900)

FAST = ("motion.weight=0", "selection.lambda_flow=0", "selection.k=2", "outline.method=network")
FAST_OPTIONS = [f"--set={setting}" for setting in FAST]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_replay_of_a_bag_gives_the_masks_of_its_video(tmp_path: Path, storage: str) -> None:
    frames = list(open_source(RECORDING, end=13.0))
    video = write_video(tmp_path / "video.avi", frames, "FFV1", fps=10.0)
    gbopt("bag", video, tmp_path / "bag", "--storage", storage)
    for source in (video, tmp_path / "bag"):
        replay(source, tmp_path / f"{source.stem}-out")
    expected = replayed_masks(tmp_path / "video-out")
    assert len(expected) == len(frames) and any(expected.values())
    # The stamps of a bag count from another moment.
    assert list(replayed_masks(tmp_path / "bag-out").values()) == list(expected.values())


def test_replay_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    # The shorter one fills the four clips that are in memory with prefetching, too.
    options = ["--resize=640x480", "--set=clip.length=5", *FAST_OPTIONS]
    short = replay(RECORDING, tmp_path / "short", "--end=13", *options)
    long = replay(RECORDING, tmp_path / "long", "--end=52", *options)
    more_frames = long["counts"]["frames"] - short["counts"]["frames"]
    growth = long["peak_memory_bytes"] - short["peak_memory_bytes"]
    print(f"peak {short['peak_memory_bytes'] / 1e6:.0f} MB, {growth / 1e6:+.0f} MB for more frames")
    assert more_frames == 60
    assert growth < 0.5 * more_frames * 640 * 480 * 3
