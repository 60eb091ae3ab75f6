"""`gbopt calibrate` as a user runs it, and the networks that it writes."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from support.demo import DEMO, demo_frames, write_labelled_recording
from support.networks import tiny_mask_rcnn

from gbopt_ros.cli.main import main
from gbopt_ros.config import load_config
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.models import detection
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.models.weights import PROPOSALS, WeightsInfo, read_weights, save_weights
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.selection.confidence import confidence
from gbopt_ros.structures import Selection

FRAMES = 3
SEED_WEIGHTS = DEMO / "weights" / "proposals.safetensors"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled_recording(tmp_path_factory.mktemp("labelled"), FRAMES, start=30)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled_recording(tmp_path_factory.mktemp("judge"), FRAMES, start=10)


@pytest.fixture(scope="module")
def calibrated(
    labelled: Path, judge: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The file that `gbopt calibrate` wrote, and what it printed."""
    out = tmp_path_factory.mktemp("calibrated") / "new" / "mine.safetensors"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["calibrate", str(labelled), "--judge", str(judge), "--out", str(out)]) == 0
    return out, printed.getvalue()


def raw_tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def selected(weights: Path) -> Selection:
    """Of two frames, with the confidences of single masks."""
    overrides = [f"proposal.weights={weights}", "tracks.average_confidence=false"]
    pipeline = Pipeline(load_config(overrides=overrides))
    (selection,) = pipeline.run(demo_frames(2))
    assert selection.mask_count > 4
    return selection


def test_calibrate_changes_the_calibration_and_no_tensor(calibrated: tuple[Path, str]) -> None:
    before, _ = read_weights(SEED_WEIGHTS, PROPOSALS)
    after, _ = read_weights(calibrated[0], PROPOSALS)
    assert after.calibration not in (before.calibration, None)
    assert after.calibration.margin >= 0
    assert replace(after, calibration=before.calibration) == before
    old, new = raw_tensors(SEED_WEIGHTS), raw_tensors(calibrated[0])
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        assert tensor.dtype == new[name].dtype
        assert torch.equal(tensor, new[name]), name


def test_calibrate_reports_before_and_after(calibrated: tuple[Path, str]) -> None:
    path, printed = calibrated
    lines = printed.splitlines()
    assert lines[-1] == str(path)
    assert lines[0].startswith("fitted on ")
    assert sum(line.startswith("judged by ") for line in lines) == 1
    rows = [line.split() for line in lines if line.startswith(("scores alone", "calibrated"))]
    assert len(rows) == 4
    values = np.array([[float(value) for value in row[-3:]] for row in rows])
    assert np.all((values >= 0) & (values <= 1))
    assert values[1, 0] < values[0, 0]  # the calibration error on what it was fitted on
    assert values[1, 1] < values[0, 1]  # the Brier score


def test_calibrate_is_what_confidences_follow_from(calibrated: tuple[Path, str]) -> None:
    calibration = read_weights(calibrated[0], PROPOSALS)[0].calibration
    mine, seed = selected(calibrated[0]), selected(SEED_WEIGHTS)
    for frame, of_seed in zip(mine.frames, seed.frames, strict=True):
        assert frame.rles == of_seed.rles
        expected = confidence(frame.margins, frame.scores, calibration)
        np.testing.assert_array_equal(frame.confidences, expected)
        assert not np.allclose(frame.confidences, of_seed.confidences, atol=0.01)


def test_calibrate_takes_a_recording_and_its_labels(
    labelled: Path, calibrated: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "same.safetensors"
    arguments = ["--recording", labelled / "recording", "--labels", labelled / "annotations.json"]
    assert main(["calibrate", *map(str, arguments), "--out", str(out)]) == 0
    assert out.read_bytes() == calibrated[0].read_bytes()


def test_calibrate_writes_our_weights_of_a_network_of_torchvision_without_a_warning(
    labelled: Path,
    calibrated: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that has no classes; the reading of its file is stood in for, such files are large.

    The calibration is that of the same network that had one before: scores count in both.
    """
    network = load_mask_rcnn(SEED_WEIGHTS)[0]
    theirs, out = tmp_path / "theirs.pth", tmp_path / "ours.safetensors"
    theirs.write_bytes(b"")
    info = WeightsInfo(PROPOSALS, "lite0-fpn", "theirs-0123")
    with monkeypatch.context() as patch:
        patch.setattr(detection, "load_torchvision", lambda path: (deepcopy(network), info))
        arguments = ["calibrate", str(labelled), "--weights", str(theirs), "--out", str(out)]
        assert main(arguments) == 0
    assert "no calibration" not in capsys.readouterr().err + caplog.text
    again, described = load_mask_rcnn(out)
    assert described.calibration == read_weights(calibrated[0], PROPOSALS)[0].calibration
    assert replace(described, calibration=None) == info
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_calibrate_refuses_a_network_with_classes_before_it_selects(
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = build_mask_rcnn("slim18-fpn", classes=91)
    info = WeightsInfo(PROPOSALS, "slim18-fpn", "coco")
    monkeypatch.setattr(detection, "load_torchvision", lambda path: (network, info))
    monkeypatch.setattr(Pipeline, "run", lambda *_: pytest.fail("masks were selected"))
    theirs, out = tmp_path / "coco.pth", tmp_path / "ours.safetensors"
    theirs.write_bytes(b"")
    assert main(["calibrate", str(labelled), "--weights", str(theirs), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "91 classes" in error and "`gbopt learn`" in error
    assert not out.exists()


def test_calibrate_refuses_a_frame_index_that_is_no_number(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((labelled / "annotations.json").read_text(encoding="utf-8"))
    content["images"][0]["frame_index"] = "first"
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(content), encoding="utf-8")
    named = ["--recording", str(labelled / "recording"), "--labels", str(labels)]
    assert main(["calibrate", *named, "--out", str(tmp_path / "out.safetensors")]) == 1
    number = content["images"][0]["id"]
    told = f"labels.json: image {number}: 'frame_index': expected a whole number"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "nothing to fit on"),
        (["--recording", "{labelled}/recording"], "--recording and --labels go together"),
        (["{labelled}", "--labels", "x.json"], "--recording and --labels go together"),
        (["{labelled}", "--out", "mine.pth"], "expected a file name that ends with .safetensors"),
        (["{labelled}", "{labelled}"], "/recording: given twice; name each recording once"),
        (["{labelled}", "--judge", "{labelled}/."], "/recording: given twice"),
        (["nowhere"], "nowhere: has no recording and no annotations.json; expected a labelled"),
        (["--judge", "{labelled}/recording", "{labelled}"], "/recording: has no recording and no"),
        (
            [
                "--recording",
                "{labelled}/recording",
                "--labels",
                f"{DEMO}/validation/annotations.json",
            ],
            "expected images with a `frame_index`",
        ),
        (["{labelled}", "--weights", "none.safetensors"], "none.safetensors: no such weights"),
    ],
)
def test_calibrate_says_what_is_wrong(
    arguments: list[str],
    expected: str,
    labelled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.safetensors"
    given = [argument.format(labelled=labelled) for argument in arguments]
    assert main(["calibrate", "--out", str(out), *given]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and expected in error
    assert not out.exists()


def test_calibrate_needs_right_and_wrong_masks(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((labelled / "annotations.json").read_text())
    nothing = tmp_path / "nothing.json"
    nothing.write_text(json.dumps(content | {"annotations": []}))
    arguments = ["--recording", labelled / "recording", "--labels", nothing]
    out = tmp_path / "out.safetensors"
    assert main(["calibrate", *map(str, arguments), "--out", str(out)]) == 1
    assert "0 right and" in capsys.readouterr().err
    assert not out.exists()


def test_model_store_publish_keeps_the_calibration_of_the_parent(
    calibrated: tuple[Path, str], tmp_path: Path
) -> None:
    _, parent = load_mask_rcnn(calibrated[0])
    child = ModelStore(tmp_path).publish(tiny_mask_rcnn(), parent, {})
    info, _ = read_weights(child.path, PROPOSALS)
    assert info.version == "v0001"
    assert info.calibration == parent.calibration is not None


def test_load_proposals_warns_once_where_there_is_no_calibration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, info = load_mask_rcnn(SEED_WEIGHTS)
    bare = tmp_path / "bare.safetensors"
    save_weights(bare, network, replace(info, calibration=None))
    with caplog.at_level(logging.WARNING, logger="gbopt_ros"):
        selection = selected(bare)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1 and "`gbopt calibrate` fits one" in warnings[0]
    for frame in selection.frames:
        np.testing.assert_array_equal(frame.confidences, frame.scores)
