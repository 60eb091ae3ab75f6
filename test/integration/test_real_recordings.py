"""Real recordings: they run through, and a bag gives the masks of what it was made of."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from gbopt_ros import masks as mask_ops
from gbopt_ros.cli.main import main
from gbopt_ros.config import TrackConfig
from gbopt_ros.evaluation.davis_metrics import score_sequence
from gbopt_ros.evaluation.tracks import ScoredMasks, label_array, link_tracks
from gbopt_ros.io.datasets.davis import load_davis
from gbopt_ros.io.sources import open_source
from gbopt_ros.pipeline import FRAME_PERIOD_NS

SMALL = ["--resize", "320x180", "--stride", "3"]


def replayed(source: Path, out: Path, *extra: str) -> dict:
    fast = ["--set", "clip.length=4", "--set", "selection.k=4"]
    assert main(["replay", str(source), "--out", str(out), *fast, *extra]) == 0
    return json.loads((out / "selected.json").read_text())


@pytest.mark.parametrize(
    ("name", "storage"),
    [
        ("cups.mp4", "mcap"),
        ("davis-bear", "sqlite3"),
    ],
)
def test_replay_of_a_recording_and_of_its_bag_gives_the_same_masks(
    real_dir: Path, tmp_path: Path, name: str, storage: str
) -> None:
    end = ["--end", "0.55"]  # six frames at 30 Hz and stride 3
    direct = replayed(real_dir / name, tmp_path / "direct", *SMALL, *end)
    bag = tmp_path / "bag"
    assert main(["bag", str(real_dir / name), str(bag), "--storage", storage, *SMALL, *end]) == 0
    played = replayed(bag, tmp_path / "played")
    assert len(direct["images"]) == 6
    assert [i["stamp_ns"] for i in direct["images"]] == [i["stamp_ns"] for i in played["images"]]
    masks = [
        [(a["image_id"], a["segmentation"], a["score"]) for a in run["annotations"]]
        for run in (direct, played)
    ]
    assert masks[0] == masks[1]


def test_open_source_counts_frames_of_real_recordings(real_dir: Path) -> None:
    assert open_source(real_dir / "cups.mp4").count == 300
    assert len(list(open_source(real_dir / "ycbv-0002", resize=(64, 48)))) == 20


@pytest.mark.parametrize("name", ["davis-dance-jump", "davis-dog-agility"])
def test_link_tracks_links_true_masks_to_one_track_in_place(real_dir: Path, name: str) -> None:
    """At half the size and back; moved by a pixel in any direction they would fit worse."""
    (sequence,) = load_davis(real_dir / name)
    labels = sequence.labels()[:12]
    size = labels.shape[1] // 2, labels.shape[2] // 2
    frames = []
    for number, label in enumerate(labels):
        small = cv2.resize(label.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        mask = mask_ops.encode(small >= 0.5)
        frames.append(ScoredMasks(number * FRAME_PERIOD_NS, [mask], [1.0]))
    tracks = link_tracks(frames, TrackConfig())
    assert len(tracks) == 1
    found = label_array(tracks, len(labels), size).repeat(2, 1).repeat(2, 2)
    (score,) = score_sequence(labels, found)
    assert score.J.mean > 95
    assert score.F.mean > 99
    for shift, axis in ((1, 1), (-1, 1), (1, 2), (-1, 2)):
        (moved,) = score_sequence(labels, np.roll(found, shift, axis))
        assert moved.J.mean < score.J.mean - 0.5
