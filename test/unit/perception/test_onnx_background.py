"""Saliency networks in ONNX files: normalisation, calibration to Bg, sizes and errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.networks import CPU
from support.onnx_networks import needs_onnx, save_red_foreground, save_torchvision_layout

from gbopt_ros.config import BackgroundConfig, load_config
from gbopt_ros.models.onnx import load_onnx
from gbopt_ros.perception import onnx_background
from gbopt_ros.perception.load import background_weights, load_background_network
from gbopt_ros.perception.onnx_background import OnnxBackground, normalization_of
from gbopt_ros.structures import GboptError, Image

pytestmark = needs_onnx

AS_IT_IS = {"mean": "0,0,0", "std": "1,1,1"}


def red(*shares: float) -> Image:
    """One row of pixels whose red channel is a share of 255; 51 = 0.2, 102 = 0.4 ... are exact."""
    image = np.zeros((1, len(shares), 3), np.uint8)
    image[0, :, 0] = [round(255 * share) for share in shares]
    image[0, :, 1] = 77
    return image


def network(
    tmp_path: Path,
    side: tuple,
    metadata: Mapping[str, str] = AS_IT_IS,
    scale: float = 1.0,
    **config: float | str,
) -> OnnxBackground:
    path = save_red_foreground(tmp_path / "red.onnx", side, metadata, scale)
    return OnnxBackground.from_file(path, BackgroundConfig(**config), CPU)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"onnx_floor": 0.0}, [1.0, 0.8, 0.4, 0.0]),
        ({"onnx_floor": 0.05}, [0.95, 0.8, 0.4, 0.05]),
        ({"onnx_floor": 0.3}, [0.7, 0.7, 0.4, 0.3]),
        # log-odds of the background log(4) / 2 and log(2 / 3) / 2: 2 / 3 and sqrt(2) / (sqrt(2)
        # + sqrt(3)); of sure pixels log(1e6 - 1) / 2.
        ({"onnx_floor": 0.0, "onnx_temperature": 2.0}, [0.999, 2 / 3, 0.449490, 0.001]),
        ({"onnx_floor": 0.1, "onnx_temperature": 0.5}, [0.9, 0.9, 4 / 13, 0.1]),
    ],
)
def test_onnx_background_of_known_values(tmp_path: Path, config: dict, expected: list) -> None:
    (found,) = network(tmp_path, (1, 4), **config).background([red(0, 0.2, 0.6, 1)])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [expected], atol=1e-5)


def test_onnx_background_is_normalised_by_settings(tmp_path: Path) -> None:
    """(0.6 - 0.1) / 0.5 = 1, (0.2 - 0.1) / 0.5 = 0.2."""
    settings = {"onnx_mean": "0.1,9,9", "onnx_std": "0.5, 1, 1", "onnx_floor": 0.0}
    (found,) = network(tmp_path, (1, 2), AS_IT_IS, **settings).background([red(0.2, 0.6)])
    np.testing.assert_allclose(found, [[0.8, 0]], atol=2e-6)


def test_onnx_background_of_logits(tmp_path: Path) -> None:
    """Logits log(3) * share: the foreground is sigmoid of them."""
    said = AS_IT_IS | {"output": "logits"}
    for metadata, config in ((said, {}), (AS_IT_IS, {"onnx_output": "logits"})):
        made = network(tmp_path, (1, 2), metadata, float(np.log(3)), **config)
        (found,) = made.background([red(0, 1)])
        np.testing.assert_allclose(found, [[0.5, 0.25]], atol=2e-6)


def test_onnx_background_setting_overrules_the_output_of_the_metadata(tmp_path: Path) -> None:
    metadata = AS_IT_IS | {"output": "logits"}
    made = network(tmp_path, (1, 2), metadata, onnx_output="probability")
    np.testing.assert_allclose(made.background([red(0.2, 0.6)])[0], [[0.8, 0.4]], atol=2e-6)


@pytest.mark.parametrize("scale", [1.1, -0.5, np.nan])
def test_onnx_background_refuses_values_that_are_no_probabilities(
    tmp_path: Path, scale: float
) -> None:
    made = network(tmp_path, (1, 2), scale=scale)
    with pytest.raises(GboptError, match=r"from 0 to 1, got values from .*onnx_output=logits"):
        made.background([red(0, 1)])


def test_onnx_background_allows_for_rounding(tmp_path: Path) -> None:
    (found,) = network(tmp_path, (1, 2), scale=1.0005, onnx_floor=0.0).background([red(0, 1)])
    np.testing.assert_allclose(found, [[1, 0]], atol=2e-6)


@pytest.mark.parametrize(
    ("side", "config", "seen"),
    [
        ((8, 12), {}, (8, 12)),
        (("h", "w"), {"onnx_size": 40}, (40, 40)),
        ((16, "w"), {"onnx_size": 40}, (16, 40)),
    ],
)
def test_onnx_background_stretches_images_to_its_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: tuple, config: dict, seen: tuple
) -> None:
    made = network(tmp_path, side, **config)
    shapes = []
    run = made._network.run
    monkeypatch.setattr(made._network, "run", lambda x: shapes.append(x.shape) or run(x))
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, 24:, 0] = 255
    (found,) = made.background([image])
    assert shapes == [(1, 3, *seen)]
    assert found.shape == (32, 48)
    assert found[:12, 30:].max() < 0.06  # the quarter at the top right is foreground
    assert min(found[20:].min(), found[:, :18].min()) > 0.94


def test_onnx_background_of_an_export_takes_images_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = {"network": "background", "architecture": "lite0-semantic-fpn", "version": "v0001"}
    made = network(tmp_path, ("h", "w"), AS_IT_IS | {"gbopt_ros": json.dumps(info)})
    shapes = []
    run = made._network.run
    monkeypatch.setattr(made._network, "run", lambda x: shapes.append(x.shape) or run(x))
    made.background([red(0, 1, 0), red(0, 1)])
    assert shapes == [(1, 3, 1, 3), (1, 3, 1, 2)]


# -------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize("form", ["{}", "[{}]", " ({})"])
def test_normalization_of_the_metadata(tmp_path: Path, form: str) -> None:
    metadata = {"mean": form.format("0.1, 0.2,0.3"), "std": form.format("1,2,3")}
    path = save_red_foreground(tmp_path / "red.onnx", metadata=metadata)
    found = normalization_of(load_onnx(path, CPU), BackgroundConfig())
    assert found == ((0.1, 0.2, 0.3), (1, 2, 3))


def test_normalization_of_a_known_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = load_onnx(save_red_foreground(tmp_path / "red.onnx"), CPU)
    monkeypatch.setitem(onnx_background._KNOWN, known.sha256, onnx_background._ISNET)
    mean, std = normalization_of(known, BackgroundConfig())
    np.testing.assert_allclose((255 * np.array(mean), 255 * np.array(std)), ([128] * 3, [256] * 3))


def test_normalization_of_an_unknown_file_is_that_of_imagenet_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = network(tmp_path, (1, 1), {}, onnx_floor=0.0)
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING
    assert "red.onnx: the file does not say how pixels are normalised" in caplog.text
    (found,) = made.background([red(0.6)])
    np.testing.assert_allclose(found, 1 - (0.6 - 0.485) / 0.229, atol=2e-6)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"mean": "0,0", "std": "1,1,1"}, "metadata 'mean' is damaged"),
        ({"mean": "0,0,0", "std": "1,1,0"}, "metadata 'std' is damaged"),
        ({"mean": "0,0,x", "std": "1,1,1"}, "metadata 'mean' is damaged"),
        (AS_IT_IS | {"output": "log"}, "expected probability or logits, got 'log'"),
        (AS_IT_IS | {"gbopt_ros": "{"}, "its gbopt_ros description is damaged"),
        (
            AS_IT_IS
            | {"gbopt_ros": '{"network": "proposals", "architecture": "a", "version": "v"}'},
            "expected weights of the background network, got proposals",
        ),
    ],
)
def test_onnx_background_refuses_damaged_metadata(
    tmp_path: Path, metadata: dict, message: str
) -> None:
    with pytest.raises(GboptError, match=message):
        network(tmp_path, (1, 1), metadata)


# ------------------------------------------------------------------------------------- layouts


def test_onnx_background_refuses_other_networks(tmp_path: Path) -> None:
    path = save_torchvision_layout(tmp_path / "m.onnx", np.zeros((1, 4)), [0.5])
    with pytest.raises(
        GboptError,
        match=r"expected a network with input \(1, 3, h, w\) and a foreground \(1, 1, h, w\) as "
        r"first output; the file has input image \(3, height, width\), outputs boxes \(1, 4\)",
    ):
        OnnxBackground.from_file(path, BackgroundConfig(), CPU)


def test_onnx_background_refuses_an_output_that_turns_out_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = network(tmp_path, (1, 2))
    monkeypatch.setattr(made._network, "run", lambda x: [x])
    with pytest.raises(GboptError, match=r"as first output, got \(1, 3, 1, 2\)"):
        made.background([red(0, 1)])


# --------------------------------------------------------------------------------- several networks


def test_load_background_network_averages_log_odds(tmp_path: Path) -> None:
    """Odds of the background 4 and 1 / 4, then with shares 3 : 1, 4^(3/4 - 1/4) = 2."""
    first = save_red_foreground(tmp_path / "a.onnx", (1, 1), AS_IT_IS)
    inverted = {"mean": "1,1,1", "std": "1,1,1"}
    second = save_red_foreground(tmp_path / "b.onnx", (1, 1), inverted, -1.0)  # 1 - red

    def found(*overrides: str) -> np.ndarray:
        weights = f"background.weights={first}, {second}"
        config = load_config(overrides=[weights, *overrides])
        return load_background_network(config).background([red(0.2), red(0.6)])

    np.testing.assert_allclose(np.ravel(found()), 0.5, atol=2e-6)
    np.testing.assert_allclose(found("background.shares=3,1")[0], 2 / 3, atol=2e-6)
    # The odds of 0.6: 2 / 3 and 3 / 2, so (2 / 3)^(1 / 2).
    odds = np.sqrt(2 / 3)
    np.testing.assert_allclose(found("background.shares=3,1")[1], odds / (1 + odds), atol=2e-6)


def test_background_weights_names_all_files(tmp_path: Path) -> None:
    assert [path.name for path in background_weights(load_config())] == ["background.safetensors"]
    named = load_config(overrides=[f"background.weights=bundled,{tmp_path}/a.onnx"])
    (bundled,) = background_weights(load_config())
    assert background_weights(named) == (bundled, tmp_path / "a.onnx")


# -------------------------------------------------------------------------------- a real network


def test_onnx_background_of_isnet_on_a_real_still(
    real_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, still = real_dir / "weights" / "isnet-small.onnx", real_dir / "davis-bear" / "00010.jpg"
    if not path.is_file():
        pytest.skip(f"no real network at {path}")
    image = cv2.cvtColor(cv2.imread(str(still)), cv2.COLOR_BGR2RGB)
    truth = cv2.imread(str(still.with_suffix(".png")), cv2.IMREAD_GRAYSCALE) > 0
    (background,) = OnnxBackground.from_file(path, BackgroundConfig(), CPU).background([image])
    found = background < 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.9
    assert background.min() == pytest.approx(0.05)
    assert not caplog.records  # its normalisation is known
