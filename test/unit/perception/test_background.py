"""The background network: known values, sizes, batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.networks import CPU
from torch import nn

from gbopt_ros.config import BackgroundConfig
from gbopt_ros.models.background_fpn import SemanticFpn, build_background
from gbopt_ros.models.weights import BACKGROUND, WeightsInfo, save_weights
from gbopt_ros.perception import background
from gbopt_ros.perception.background import AveragedBackground, FpnBackground, resize_short_side
from gbopt_ros.structures import Image

ARCHITECTURE = "slim18-semantic-fpn"


def tiny_network(seed: int = 0) -> SemanticFpn:
    """Random, and with 64 pixels of short side."""
    torch.manual_seed(seed)
    network = build_background(ARCHITECTURE)
    network.short_side = 64
    return network


@pytest.fixture(scope="module")
def network() -> FpnBackground:
    return FpnBackground(tiny_network(), BackgroundConfig(batch_size=2), CPU)


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (130, 96), (1, 1), (3, 5), (20, 1)])
def test_fpn_background_gives_a_probability_for_every_pixel(
    network: FpnBackground, size: tuple[int, int]
) -> None:
    (found,) = network.background([image(*size)])
    assert found.shape == size
    assert found.dtype == np.float32
    assert np.all((found >= 0) & (found <= 1))


@pytest.mark.parametrize("bias", [-30.0, -1.0, 0.0, 2.0, 200.0])
def test_fpn_background_of_a_constant_logit(bias: float) -> None:
    """The network predicts objects; the background is what is left."""
    constant = tiny_network()
    nn.init.zeros_(constant.predictor.weight)
    nn.init.constant_(constant.predictor.bias, bias)
    (found,) = FpnBackground(constant, BackgroundConfig(), CPU).background([image(50, 70)])
    np.testing.assert_allclose(found, 1 / (1 + np.exp(np.float64(bias))), rtol=1e-5, atol=1e-12)


def test_fpn_background_keeps_pixels_where_they_are() -> None:
    """Stands in for the network: the logit is the red channel of what it is given."""

    class Red(nn.Module):
        def input_side(self, size: tuple[int, int]) -> int:
            return 32

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.shape[2:] == (32, 48)
            return 20 * (images[:, 0] - 0.5)

    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, 48:, 0] = 255
    (found,) = FpnBackground(Red(), BackgroundConfig(), CPU).background([picture])
    assert found[:28, 52:].max() < 1e-3
    assert found[36:].min() > 1 - 1e-3
    assert found[:, :44].min() > 1 - 1e-3


def test_fpn_background_keeps_the_order_of_sizes(network: FpnBackground) -> None:
    sizes = [(40, 60), (40, 60), (40, 60), (60, 40), (40, 60), (48, 48), (48, 48)]
    images = [image(*size, seed) for seed, size in enumerate(sizes)]
    together = network.background(images)
    assert [found.shape for found in together] == sizes
    for found, picture in zip(together, images, strict=True):
        (alone,) = network.background([picture])
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_fpn_background_takes_images_of_one_size_in_one_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "frames_a_pass", lambda batch_size, device: batch_size)
    batches: list[int] = []

    class Counting(nn.Module):
        def input_side(self, size: tuple[int, int]) -> int:
            return 4

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            batches.append(len(images))
            return images[:, 0]

    counting = FpnBackground(Counting(), BackgroundConfig(batch_size=3), CPU)
    counting.background([image(4, 4)] * 7 + [image(8, 4)] + [image(4, 4)] * 2)
    assert batches == [3, 3, 1, 1, 2]


def test_fpn_background_of_no_images(network: FpnBackground) -> None:
    assert network.background([]) == []


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (240, 320)),
        ((120, 90), (320, 240)),
        ((240, 500), (240, 500)),
        ((1, 3), (240, 720)),
    ],
)
def test_resize_short_side(size: tuple[int, int], expected: tuple[int, int]) -> None:
    resized = resize_short_side(torch.full((1, 3, *size), 0.25), 240)
    assert resized.shape == (1, 3, *expected)
    np.testing.assert_allclose(resized.numpy(), 0.25, atol=1e-6)


def test_resize_short_side_loses_no_pixel_of_a_larger_image() -> None:
    stripes = torch.zeros(1, 3, 32, 32)
    stripes[..., ::4] = 1.0
    np.testing.assert_allclose(resize_short_side(stripes, 8).numpy(), 0.25, atol=0.1)


def test_fpn_background_from_file(tmp_path: Path) -> None:
    path = tmp_path / "background.safetensors"
    constant = build_background(ARCHITECTURE)
    nn.init.zeros_(constant.predictor.weight)
    nn.init.constant_(constant.predictor.bias, 1.0)
    save_weights(path, constant, WeightsInfo(BACKGROUND, ARCHITECTURE, "seed"), half=True)
    (found,) = FpnBackground.from_file(path, BackgroundConfig(), CPU).background([image(32, 32)])
    np.testing.assert_allclose(found, 1 / (1 + np.e), rtol=1e-5)


class Fixed:
    """A background network that gives the same row of probabilities for every image."""

    def __init__(self, *row: float) -> None:
        self.row = np.array([row], np.float32)

    def background(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        return [self.row for _ in images]


def test_averaged_background_of_known_values() -> None:
    """Odds 4, 1 and 1 / 9 with shares 1/2, 1/4 and 1/4: sqrt(4) * 9^(-1/4) = 2 / sqrt(3)."""
    networks = [Fixed(0.8, 0.3), Fixed(0.5, 0.3), Fixed(0.1, 0.3)]
    averaged = AveragedBackground(networks, (0.5, 0.25, 0.25))
    found = averaged.background([image(1, 2)] * 3)
    odds = 2 / np.sqrt(3)
    assert [(each.shape, each.dtype) for each in found] == [((1, 2), np.float32)] * 3
    np.testing.assert_allclose(found[2], [[odds / (1 + odds), 0.3]], rtol=1e-5)
    assert averaged.background([]) == []


def test_averaged_background_of_sure_networks_is_finite() -> None:
    """A sure network counts as 0.001 or 0.999: 0.05 halves with 0, and 0 cancels 1."""
    averaged = AveragedBackground([Fixed(0, 0, 1), Fixed(0.05, 1, 1)], (0.5, 0.5))
    (found,) = averaged.background([image(1, 3)])
    odds = np.sqrt(0.05 / 0.95 * 0.001 / 0.999)
    np.testing.assert_allclose(found, [[odds / (1 + odds), 0.5, 0.999]], rtol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "setting", "size", "expected"),
    [("slim18-semantic-fpn", 0, (48, 64), 240), ("slim18-semantic-fpn", 64, (480, 640), 64),
     ("lite0-semantic-fpn", 0, (48, 64), 240), ("lite0-semantic-fpn", 0, (260, 340), 260),
     ("lite0-semantic-fpn", 0, (480, 640), 320),
     ("lite0-semantic-fpn", 480, (480, 640), 480)],
)  # fmt: skip
def test_background_scales_the_shorter_side_of_an_image(
    architecture: str, setting: int, size: tuple[int, int], expected: int
) -> None:
    network = build_background(architecture)
    FpnBackground(network, BackgroundConfig(short_side=setting), CPU)
    assert network.input_side(size) == expected
