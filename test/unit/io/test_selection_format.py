"""The output of a replay, read for a training set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.scenes import square_selection

from gbopt_ros.config import LearningConfig
from gbopt_ros.io.selection_format import SelectedFrame, SelectionWriter, read_selection
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.masks import encode_all
from gbopt_ros.structures import GboptError

SIZE = 12, 16
MASK = np.zeros((1, *SIZE), bool)
MASK[:, 2:7, 3:9] = True


def write_replay(folder: Path, **changes: Any) -> dict[str, Any]:
    """A replay's output of two frames, the second without a mask."""
    (folder / "frames").mkdir(parents=True)
    for i in (0, 1):
        cv2.imwrite(str(folder / "frames" / f"{i}.png"), np.full((*SIZE, 3), i, np.uint8))
    (rle,) = encode_all(MASK)
    image = {"height": SIZE[0], "width": SIZE[1], "clip_id": 3}
    content = {
        "info": {"recording": "cups.mp4"},
        "images": [
            image | {"id": 1, "file_name": "0.png", "frame_index": 5, "stamp_ns": 50},
            image | {"id": 2, "file_name": "1.png", "frame_index": 6, "stamp_ns": 60},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "segmentation": rle, "score": 0.75, "confidence": 0.5}
        ],
    }
    (folder / "selected.json").write_text(json.dumps(content | changes), encoding="utf-8")
    return content


def test_read_selection_gives_frames_for_the_training_set(tmp_path: Path) -> None:
    write_replay(tmp_path / "run")
    first, second = read_selection(tmp_path / "run")
    assert first == SelectedFrame(
        "run/cups.mp4", 3, 5, 50, tmp_path / "run" / "frames" / "0.png", SIZE,
        encode_all(MASK), (0.75,), (0.5,),
    )  # fmt: skip
    assert (second.frame_index, second.rles, second.scores) == (6, (), ())
    with TrainingSet(tmp_path / "training-set", LearningConfig().max_bytes) as training_set:
        assert training_set.add(read_selection(tmp_path / "run")) == 1


def test_read_selection_refuses_a_folder_that_is_no_replay(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="expected the output of `gbopt replay`"):
        list(read_selection(tmp_path))
    (tmp_path / "selected.json").write_text("{")
    with pytest.raises(GboptError, match="not the output of `gbopt replay`"):
        list(read_selection(tmp_path))


def test_read_selection_refuses_a_missing_frame(tmp_path: Path) -> None:
    write_replay(tmp_path)
    (tmp_path / "frames" / "1.png").unlink()
    with pytest.raises(GboptError, match=r"1\.png.*missing"):
        list(read_selection(tmp_path))


def test_read_selection_refuses_missing_keys_and_broken_masks(tmp_path: Path) -> None:
    content = write_replay(tmp_path / "whole")
    image, annotation = content["images"][0], content["annotations"][0]
    damaged: list[dict[str, Any]] = [{"info": {}}, {"info": None}, {"images": 5}]
    damaged += [{"images": [{k: v for k, v in image.items() if k != key}]} for key in image]
    needed = ("image_id", "segmentation", "score", "confidence")
    damaged += [
        {"annotations": [{k: v for k, v in annotation.items() if k != key}]} for key in needed
    ]
    damaged += [
        {"annotations": [annotation | {"segmentation": {"size": [16, 12], "counts": "0"}}]},
        {"annotations": [annotation | {"score": "high"}]},
    ]
    damaged += [  # with the last two pycocotools never returns
        {"annotations": [annotation | {"segmentation": {"size": [*SIZE], "counts": counts}}]}
        for counts in ("", "0", "zzz", "0o0")
    ]
    for number, changes in enumerate(damaged):
        run = tmp_path / str(number)
        write_replay(run, **changes)
        with pytest.raises(GboptError, match="not the output of `gbopt replay`"):
            list(read_selection(run))


def test_selection_writer_leaves_nothing_without_finish(tmp_path: Path) -> None:
    with SelectionWriter(tmp_path / "out", "cups.mp4") as writer:
        pass
    with pytest.raises(KeyError), SelectionWriter(tmp_path / "out", "cups.mp4"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with SelectionWriter(tmp_path / "out", "cups.mp4") as writer:
        writer.finish()
    assert list(read_selection(tmp_path / "out")) == []


def test_selection_writer_can_leave_the_overlay_out(tmp_path: Path) -> None:
    selection = square_selection(2)
    for overlay in (True, False):
        with SelectionWriter(tmp_path / str(overlay), "cups.mp4", overlay=overlay) as writer:
            writer.add(selection)
            writer.finish()
    names = {folder.name: {path.name for path in folder.iterdir()} for folder in tmp_path.iterdir()}
    assert names["True"] == {"frames", "overlay.mp4", "run.json", "selected.json"}
    assert names["False"] == names["True"] - {"overlay.mp4"}
    written = [(tmp_path / name / "selected.json").read_bytes() for name in names]
    assert written[0] == written[1]
