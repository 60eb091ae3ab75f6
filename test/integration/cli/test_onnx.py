"""ONNX networks on the command line: evaluate, replay, and what cannot be done with them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.onnx_networks import (
    needs_onnx,
    save_bright_yolo,
    save_red_foreground,
    save_torchvision_layout,
)
from support.recordings import disc_frames

import gbopt_ros
from gbopt_ros.cli.main import main
from gbopt_ros.io.datasets.coco import CocoImage, write_coco
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.masks import encode

pytestmark = needs_onnx


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A COCO folder: a black image 20 x 40 with a white object in the middle."""
    folder = tmp_path / "labelled"
    (folder / "images").mkdir(parents=True)
    mask = np.zeros((20, 40), bool)
    mask[5:15, 10:30] = True
    cv2.imwrite(str(folder / "images" / "1.png"), 255 * mask.astype(np.uint8))
    write_coco(folder / "annotations.json", [CocoImage(1, "1.png", 20, 40)], {1: (encode(mask),)})
    return folder


def test_evaluate_onnx_weights(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first of two masks is the object."""
    shares = np.array([[0.25, 0.25, 0.75, 0.75], [0, 0, 0.5, 0.25]])
    path = save_torchvision_layout(tmp_path / "two.onnx", shares, [0.9, 0.3])
    assert main(["evaluate", "--gt", str(labelled), "--weights", str(path)]) == 0
    subject, version, *metrics = capsys.readouterr().out.splitlines()[1].split()
    assert (subject, version[:5]) == ("two", "(two-")
    assert metrics == ["100.0"] * 7  # one size of objects
    assert gbopt_ros.evaluate(path, labelled).to_dict()["AP"] == pytest.approx(100)


def test_evaluate_says_what_is_wrong_with_onnx_weights(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_red_foreground(tmp_path / "red.onnx")
    assert main(["evaluate", "--gt", str(labelled), "--weights", str(path)]) == 1
    assert "expected the segmentation layout of Ultralytics" in capsys.readouterr().err


def test_replay_with_onnx_networks(tmp_path: Path) -> None:
    bag, out = tmp_path / "disc", tmp_path / "out"
    write_rosbag(disc_frames(4), bag, topic="/camera/image_raw")
    proposals = save_bright_yolo(tmp_path / "yolo.onnx")
    metadata = {"mean": "0,0,0", "std": "1,1,1"}
    background = save_red_foreground(tmp_path / "red.onnx", metadata=metadata)
    settings = [f"background.weights=bundled,{background}", "clip.length=4", "selection.k=4"]
    options = [option for setting in settings for option in ("--set", setting)]
    assert main(
        ["replay", str(bag), "--out", str(out), "--weights", str(proposals), *options]
    ) == 0  # fmt: skip
    content = json.loads((out / "selected.json").read_text())
    assert len(content["images"]) == 4
    assert {image["model_version"][:5] for image in content["images"]} == {"yolo-"}


def test_calibrate_refuses_onnx_weights(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = tmp_path / "disc"
    write_rosbag(disc_frames(1), bag, topic="/camera/image_raw")
    annotations = json.loads((labelled / "annotations.json").read_text())
    annotations["images"][0]["frame_index"] = 0
    (labelled / "annotations.json").write_text(json.dumps(annotations))
    command = ["calibrate", "--recording", str(bag), "--out", str(tmp_path / "c.safetensors")]
    command += ["--labels", str(labelled / "annotations.json"), "--weights"]
    assert main([*command, str(save_bright_yolo(tmp_path / "yolo.onnx"))]) == 1
    assert "proposes masks, and cannot be trained or calibrated" in capsys.readouterr().err
