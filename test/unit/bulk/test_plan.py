"""Shards are whole clips: the same clips as those of the recording in one piece."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from support.recordings import noise_frames, write_images

from gbopt_ros.bulk.plan import Shard, Timeline, cut_shards, read_timeline, with_findings
from gbopt_ros.bulk.recordings import Recording
from gbopt_ros.config import ClipConfig
from gbopt_ros.io.clip_cutter import cut_clips
from gbopt_ros.io.sources.base import SourceOptions
from gbopt_ros.structures import Frame, GboptError

STEP = 10**8
SIZES = ((0, 8, 8),)


def stamps(*steps: int) -> tuple[int, ...]:
    return tuple(step * STEP for step in steps)


def test_cut_shards_at_ends_of_clips() -> None:
    timeline = Timeline(tuple(range(10)), stamps(*range(7), 40, 41, 42), sizes=SIZES)
    assert cut_shards(timeline, ClipConfig(length=3), 4) == [
        Shard(first=0, last=5, first_new=0, first_clip=0, clips=2, frames=6),
        Shard(first=6, last=9, first_new=6, first_clip=2, clips=2, frames=4),
    ]


def test_cut_shards_with_overlap_starts_with_shared_frames() -> None:
    timeline = Timeline(tuple(range(8)), stamps(*range(8)), sizes=SIZES)
    assert cut_shards(timeline, ClipConfig(length=4, overlap=1), 4) == [
        Shard(first=0, last=3, first_new=0, first_clip=0, clips=1, frames=4),
        Shard(first=3, last=7, first_new=4, first_clip=1, clips=2, frames=4),
    ]


def test_cut_shards_gives_the_clips_of_the_whole_recording() -> None:
    rng = random.Random(0)
    for _ in range(100):
        count = rng.randint(1, 60)
        steps = [0]
        for _ in range(count - 1):
            steps.append(steps[-1] + rng.choice((1, 1, 1, 1, 1, 0, 30, -5)))
        timeline = Timeline(
            indices=tuple(2 * i for i in range(count)),
            stamps_ns=stamps(*steps),
            skipped=tuple(2 * i for i in range(count) if rng.random() < 0.1),
            sizes=tuple(
                (2 * i, 8, rng.choice((8, 9))) for i in range(count) if i == 0 or i % 13 == 0
            ),
        )
        overlap = rng.randint(0, 2)
        config = ClipConfig(length=rng.randint(overlap + 1, 6), overlap=overlap)
        frames = list(timeline.frames())

        def clips(some: list[Frame], config: ClipConfig = config) -> list[list[int]]:
            cut = cut_clips(some, config.length, max_gap_s=1.0, overlap=config.overlap)
            return [[frame.index for frame in clip.frames] for clip in cut]

        whole, joined, known = clips(frames), [], -1
        for shard in cut_shards(timeline, config, rng.randint(1, 20)):
            assert shard.first_clip == len(joined)
            own = clips([f for f in frames if shard.first <= f.index <= shard.last])
            assert len(own) == shard.clips
            new = {index for clip in own for index in clip if index > known}
            assert (min(new), max(new), len(new)) == (shard.first_new, shard.last, shard.frames)
            joined, known = joined + own, shard.last
        assert joined == whole


def test_timeline_frames_have_the_sizes_and_no_skipped_one() -> None:
    timeline = Timeline((0, 1, 2, 3), stamps(0, 1, 2, 3), (1,), ((0, 4, 6), (2, 4, 8)))
    found = [(frame.index, frame.stamp_ns // STEP, frame.size) for frame in timeline.frames()]
    assert found == [(0, 0, (4, 6)), (2, 2, (4, 8)), (3, 3, (4, 8))]


def test_timeline_hours_leave_gaps_out() -> None:
    seconds = [0, 1, 2, 3602, 3603, 3600, 3601]
    timeline = Timeline(tuple(range(7)), tuple(s * 10**9 for s in seconds))
    assert timeline.hours(max_gap_s=1.0) == pytest.approx(4 / 3600)


def test_timeline_load_gives_what_save_wrote(tmp_path: Path) -> None:
    timeline = Timeline((0, 2, 4), (10**18, 10**18 + 1, 10**18 + 5), (2,), ((0, 4, 6), (4, 8, 6)))
    timeline.save(tmp_path / "plan.json")
    assert Timeline.load(tmp_path / "plan.json") == timeline


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"indices": ["a", 1]}, "indices: '0': expected a whole number of 64 bits, got 'a'"),
        ({"skipped": [None]}, "skipped: '0': expected a whole number of 64 bits, got None"),
        ({"stamps_ns": [0]}, "expected 2 stamps, one a frame, got 1"),
        ({"sizes": [5]}, "'sizes': expected a list, got 5"),
        ({"sizes": [[0, 4]]}, r"sizes: expected \[index, height, width\], got \[0, 4\]"),
        ({"sizes": [[0, 0, 4]]}, r"sizes: expected \[index, height, width\], got \[0, 0, 4\]"),
        ({"sizes": [[-1, 8, 8]]}, r"sizes: expected \[index, height, width\], got \[-1, 8, 8\]"),
    ],
)
def test_timeline_load_refuses_a_damaged_plan(
    damage: dict[str, Any], message: str, tmp_path: Path
) -> None:
    sound = {"indices": [0, 1], "stamps_ns": [0, STEP], "skipped": [], "sizes": [[0, 8, 8]]}
    (tmp_path / "plan.json").write_text(json.dumps(sound | damage), encoding="utf-8")
    with pytest.raises(GboptError, match=rf"plan\.json: {message}; remove it, and"):
        Timeline.load(tmp_path / "plan.json")


def test_with_findings_keeps_changes_of_the_size_only() -> None:
    timeline = Timeline((0, 1, 2, 3), stamps(0, 1, 2, 3), sizes=SIZES)
    assert with_findings(timeline, (), [(0, 8, 8), (2, 8, 8)]) == timeline
    found = with_findings(timeline, [3], [(2, 8, 9), (0, 8, 8)])
    assert (found.skipped, found.sizes) == ((3,), ((0, 8, 8), (2, 8, 9)))


def test_read_timeline_decodes_the_first_image_only(tmp_path: Path) -> None:
    write_images(tmp_path / "images", noise_frames(7))
    for name in ("0.png", "5.png"):
        (tmp_path / "images" / name).write_bytes(b"")
    recording = Recording("images", tmp_path / "images", SourceOptions(stride=2, start=0.0))
    timeline = read_timeline(recording)
    assert timeline.indices == (0, 2, 4, 6)
    assert timeline.stamps_ns == tuple(round(i * 1e9 / 30) for i in (0, 2, 4, 6))
    assert (timeline.skipped, timeline.sizes) == ((0,), ((0, 24, 32),))


def test_read_timeline_of_nothing_decodable(tmp_path: Path) -> None:
    (tmp_path / "0.png").touch()
    with pytest.raises(GboptError, match=r"none of 1 images can be decoded; frame 0: .*0 bytes"):
        read_timeline(Recording("x", tmp_path, SourceOptions()))
