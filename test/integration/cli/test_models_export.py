"""`gbopt models export`: versions and weights files become ONNX files that agree with torch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support.networks import CPU, Point, save_random_weights
from support.onnx_networks import needs_onnx

from gbopt_ros.cli import models
from gbopt_ros.cli.main import main
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.models import onnx_check
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.models.onnx import load_onnx
from gbopt_ros.models.weights import (
    BACKGROUND,
    DETECTRON2,
    PROPOSALS,
    WeightsInfo,
    describe,
    save_weights,
)
from gbopt_ros.structures import GboptError

pytestmark = needs_onnx


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two versions."""
    folder = tmp_path_factory.mktemp("store")
    torch.manual_seed(0)
    for parent in ("random", "v0001"):
        network = build_mask_rcnn("slim18-fpn")
        ModelStore(folder).publish(network, WeightsInfo(PROPOSALS, "slim18-fpn", parent), {})
    return folder


def export(subject: Path, out: Path, *options: str) -> int:
    return main(["models", "export", str(subject), "--format", "onnx", "--out", str(out), *options])


def test_export_of_a_version(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "v0001.onnx"
    limits = ["--set", "proposal.max_proposals=4", "--set", "proposal.nms_iou=0.5"]
    assert export(store, out, "--version", "v0001", "--size", "64x80", *limits) == 0
    path, agreement = capsys.readouterr().out.splitlines()
    assert path == str(out)
    assert re.fullmatch(
        r"12 masks of 3 images: mean IoU with torch's (1\.0|0\.99)\d+, scores differ by at most "
        r"\d\.\de-0[5-9]",
        agreement,
    )
    assert list(out.parent.iterdir()) == [out]
    network = load_onnx(out, CPU)
    assert network.input.shape == (3, 64, 80)
    info = describe(network.metadata, out, PROPOSALS)
    assert info == WeightsInfo(PROPOSALS, "slim18-fpn", "v0001")


def test_export_takes_the_version_in_service(store: Path) -> None:
    assert models._weights(store, None) == ModelStore(store).get("v0002").path


def test_export_of_a_background_network(
    weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "background.onnx"
    assert export(weights[BACKGROUND], out) == 0
    assert "foreground of 3 images: differs from torch's by at most" in capsys.readouterr().out
    assert load_onnx(out, CPU).input.shape == (1, 3, "height", "width")


def test_export_leaves_nothing_behind_where_the_networks_differ(
    weights: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(onnx_check, "FOREGROUND_TOLERANCE", -1.0)
    out = tmp_path / "background.onnx"
    out.write_text("the old one")
    assert export(weights[BACKGROUND], out, "--size", "64x80") == 1
    assert "the exported network is not torch's" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["background.onnx"]
    assert out.read_text() == "the old one"


@pytest.mark.parametrize(
    ("subject", "options", "error"),
    [
        ("missing.safetensors", [], "missing.safetensors: no such weights file"),
        ("file.onnx", [], "file.onnx: an ONNX file already"),
        ("empty", [], "no version of this store is in service"),
        ("empty", ["--version", "latest"], "empty: no version latest; there are: none"),
        ("empty", ["--version", "v0003"], "empty: no version v0003; there are"),
        (".", [], "no store, for it has no folder `models` or `training`"),
        ("d2.safetensors", [], "a network of detectron2 cannot be exported here"),
        ("x.pth", ["--set", "proposal.detectron2_config=x.yaml"], "detectron2 cannot be exported"),
    ],
)
def test_export_says_what_is_wrong(
    subject: str,
    options: list[str],
    error: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty" / "models").mkdir(parents=True)
    save_weights(tmp_path / "d2.safetensors", Point(), WeightsInfo(PROPOSALS, DETECTRON2, "x"))
    assert export(tmp_path / subject, tmp_path / "out.onnx", *options) == 1
    assert error in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


def test_export_wants_a_name_for_the_file(
    weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(weights[BACKGROUND], tmp_path / "out.pth") == 1
    told = f"--out {tmp_path / 'out.pth'}: expected a file name that ends with .onnx\n"
    assert capsys.readouterr().err == f"gbopt: error: {told}"
    assert main(["models", "export", str(weights[BACKGROUND])]) == 1
    assert "export needs the file to write: --out FILE.onnx\n" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["640", "0x10", "480X640"])
def test_export_wants_height_and_width(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        export(Path("x"), Path("x.onnx"), "--size", size)
    assert "expected HEIGHTxWIDTH such as 480x640" in capsys.readouterr().err


def test_export_refuses_a_damaged_version(store: Path) -> None:
    version = ModelStore(store).get("v0002")
    version.path.write_bytes(b"damaged")
    with pytest.raises(GboptError, match="SHA-256 is"):
        models._weights(store, "v0002")
