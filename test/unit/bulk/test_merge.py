"""Shards become one dataset, in which recordings stay apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.recordings import write_selection

from gbopt_ros.bulk.merge import FinishedShard, merge
from gbopt_ros.bulk.plan import Shard
from gbopt_ros.io.datasets.coco import load_coco
from gbopt_ros.io.selection_format import read_selection
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.masks import encode
from gbopt_ros.tracks import TrackLinker

CORNER, EDGE = (encode(np.eye(4, 6, k) > 0) for k in (0, 2))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Shards of two recordings; those of the first share frame 1."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (4, 6, 3), np.uint8) for _ in range(4)]
    frames = tmp_path / "out" / "frames"
    write_selection(frames / "a/0", "a", {0: (images[0], [CORNER]), 1: (images[1], [CORNER])})
    write_selection(frames / "a/1", "a", {1: (images[1], [EDGE]), 2: (images[2], [EDGE, CORNER])})
    write_selection(frames / "b/0", "b", {0: (images[3], [EDGE])})
    shards = [
        FinishedShard("a", Shard(0, 1, 0, 0, 1, 2), frames / "a/0", 0),
        FinishedShard("a", Shard(1, 2, 2, 1, 1, 1), frames / "a/1", 1),
        FinishedShard("b", Shard(0, 0, 0, 0, 1, 1), frames / "b/0", 2),
    ]
    merged = merge(tmp_path / "out", shards, TrackLinker())
    assert (merged.frames, merged.masks) == ({"a": 3, "b": 1}, {"a": 4, "b": 1})
    return tmp_path / "out"


def test_merge_numbers_images_clips_and_masks_anew(out: Path) -> None:
    content = json.loads((out / "selected.json").read_text())
    names = ("id", "recording", "frame_index", "clip_id", "file_name")
    assert [tuple(image[name] for name in names) for image in content["images"]] == [
        (1, "a", 0, 0, "a/0/frames/000000.png"),
        (2, "a", 1, 0, "a/0/frames/000001.png"),
        (3, "a", 2, 1, "a/1/frames/000002.png"),
        (4, "b", 0, 2, "b/0/frames/000000.png"),
    ]
    assert [(a["id"], a["image_id"], a["segmentation"]) for a in content["annotations"]] == [
        (1, 1, CORNER), (2, 2, CORNER), (3, 3, EDGE), (4, 3, CORNER), (5, 4, EDGE),
    ]  # fmt: skip


def test_merge_links_tracks_over_shards_and_not_over_recordings(out: Path) -> None:
    content = json.loads((out / "selected.json").read_text())
    assert [a["track_id"] for a in content["annotations"]] == [1, 1, 2, 1, 3]


def test_merge_ends_tracks_at_a_cut(tmp_path: Path) -> None:
    folder, image = tmp_path / "out" / "frames" / "a", np.zeros((4, 6, 3), np.uint8)
    write_selection(folder, "a", dict.fromkeys(range(3), (image, [CORNER])), cuts=[1])
    merge(tmp_path / "out", [FinishedShard("a", Shard(0, 2, 0, 0, 1, 3), folder, 0)], TrackLinker())
    assert [frame.track_ids for frame in read_selection(tmp_path / "out")] == [(1,), (2,), (2,)]


def test_merged_dataset_is_read_as_a_replay_and_as_coco(out: Path, tmp_path: Path) -> None:
    frames = list(read_selection(out))
    assert [(f.recording, f.frame_index, f.clip_id, f.rles) for f in frames] == [
        ("out/a", 0, 0, (CORNER,)),
        ("out/a", 1, 0, (CORNER,)),
        ("out/a", 2, 1, (EDGE, CORNER)),
        ("out/b", 0, 2, (EDGE,)),
    ]
    with TrainingSet(tmp_path / "set", 10**6) as training_set:
        assert training_set.add(frames) == 4
        assert training_set.remove("out/a") == 3
        assert len(training_set) == 1
    dataset = load_coco(out / "selected.json", out / "frames")
    assert [dataset.load_image(image).shape for image in dataset.images] == [(4, 6, 3)] * 4
