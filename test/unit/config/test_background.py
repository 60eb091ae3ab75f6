"""Settings of the background network that name several networks, and lists of numbers."""

from __future__ import annotations

import pytest

from gbopt_ros.config import BackgroundConfig, load_config
from gbopt_ros.structures import GboptError


@pytest.mark.parametrize(
    ("weights", "networks"),
    [
        ("", ("bundled",)),
        ("bundled", ("bundled",)),
        ("a b.onnx", ("a b.onnx",)),
        ("bundled, isnet.onnx,x.safetensors ", ("bundled", "isnet.onnx", "x.safetensors")),
    ],
)
def test_background_config_networks(weights: str, networks: tuple[str, ...]) -> None:
    assert BackgroundConfig(weights=weights).networks == networks


@pytest.mark.parametrize(
    ("weights", "shares", "expected"),
    [("", "", (1,)), ("a,b", "", (0.5, 0.5)), ("a,b", "3, 1", (0.75, 0.25)), ("a", "7", (1,))],
)
def test_background_config_network_shares(
    weights: str, shares: str, expected: tuple[float, ...]
) -> None:
    assert BackgroundConfig(weights=weights, shares=shares).network_shares == expected


def test_background_config_onnx_normalization() -> None:
    assert BackgroundConfig().onnx_normalization is None
    given = BackgroundConfig(onnx_mean="0.5, 0,-1", onnx_std="1,2,3")
    assert given.onnx_normalization == ((0.5, 0, -1), (1, 2, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "a,,b"}, "weights: a name is empty"),
        ({"weights": "a,b", "shares": "1"}, "shares: expected 2 positive numbers"),
        ({"shares": "0"}, "shares: expected 1 positive numbers"),
        ({"shares": "nan"}, "shares: expected 1 positive numbers"),
        ({"shares": "x"}, "shares: .*got 'x'"),
        ({"onnx_mean": "1,2", "onnx_std": "1,2,3"}, "onnx_mean: expected 3 numbers"),
        ({"onnx_mean": "1,2,3", "onnx_std": "1,2,0"}, "onnx_std: expected 3 positive numbers"),
        ({"onnx_mean": "1,2,3"}, "onnx_mean and onnx_std: expected both or neither"),
        ({"onnx_std": "1,2,3"}, "onnx_mean and onnx_std: expected both or neither"),
        ({"onnx_output": "yes"}, "onnx_output: expected one of auto, probability, logits"),
        ({"onnx_temperature": 0.0}, "onnx_temperature: expected above 0"),
        ({"onnx_floor": 0.5}, "onnx_floor: expected at least 0 and below 0.5"),
    ],
)
def test_background_config_refuses(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=rf"BackgroundConfig\.{message}"):
        BackgroundConfig(**settings)


def test_load_config_takes_lists_of_numbers() -> None:
    mean, std = "background.onnx_mean=0.5,0.5,0.5", "background.onnx_std=1,1,1"
    config = load_config(overrides=[mean, std, "background.shares=2"])
    assert config.background.onnx_normalization == ((0.5,) * 3, (1,) * 3)
    assert config.background.shares == "2"
    with pytest.raises(GboptError, match=r"background\.shares: .*got '1,2'"):
        load_config(overrides=["background.shares=1,2"])
