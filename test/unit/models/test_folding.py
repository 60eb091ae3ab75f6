"""Networks give the same with their batch normalisations and paddings folded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from gbopt_ros.models.background_fpn import build_background
from gbopt_ros.models.folding import fold
from gbopt_ros.models.mask_rcnn import TORCHVISION_V2, build_mask_rcnn

CPU = torch.device("cpu")
NORMS = nn.BatchNorm2d, FrozenBatchNorm2d


def norms_of(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, NORMS)]


def with_statistics(network: nn.Module) -> nn.Module:
    """The network with statistics that are not those of a new one, in evaluation mode."""
    torch.manual_seed(0)
    for norm in norms_of(network):
        norm.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr, operator]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
        norm.weight.data.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
        norm.bias.data.uniform_(-0.5, 0.5)  # type: ignore[union-attr, operator]
    return network.eval()


@pytest.mark.parametrize(
    "architecture", ["resnet50-fpn", "resnet18-fpn", "slim18-fpn", "lite0-fpn", TORCHVISION_V2]
)
@torch.inference_mode()
def test_folded_backbone_gives_the_same(architecture: str) -> None:
    backbone = with_statistics(build_mask_rcnn(architecture).backbone)
    folded = fold(copy.deepcopy(backbone), CPU)
    assert norms_of(backbone)
    assert not norms_of(folded)
    images = torch.rand(1, 3, 64, 96)
    for level, expected in backbone(images).items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(folded(images)[level], expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("architecture", ["slim18-semantic-fpn", "lite0-semantic-fpn"])
@torch.inference_mode()
def test_folded_background_network_gives_the_same(architecture: str) -> None:
    network = with_statistics(build_background(architecture))
    folded = fold(copy.deepcopy(network), CPU)
    assert norms_of(network)
    assert not norms_of(folded)
    images = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(folded(images), network(images), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_normalisation_with_an_activation_stays() -> None:
    class Activated(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    layers = nn.Sequential(nn.Conv2d(3, 4, 3), Activated(4)).eval()
    images = torch.rand(1, 3, 8, 8)
    expected = layers(images)
    assert torch.equal(fold(layers, CPU)(images), expected)
    assert isinstance(layers[1], Activated)


@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("sides", [(0, 1, 0, 1), (1, 2, 1, 2), (2, 0, 0, 3), (0, 0, 1, 1)])
@torch.inference_mode()
def test_a_padding_is_that_of_its_convolution(kernel: int, sides: tuple[int, ...]) -> None:
    convolution = nn.Conv2d(4, 4, kernel, stride=2, groups=4)
    layers = nn.Sequential(nn.ZeroPad2d(sides), convolution)
    images = torch.rand(2, 4, 10, 13)
    expected = layers(images)
    folded = fold(layers, CPU)
    assert not [layer for layer in folded if isinstance(layer, nn.ZeroPad2d)]
    torch.testing.assert_close(folded(images), expected)


def test_a_padding_stays_on_a_gpu_and_before_another_padding() -> None:
    layers = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3, stride=2))
    assert isinstance(fold(layers, torch.device("cuda"))[0], nn.ZeroPad2d)
    for options in ({"padding": 1}, {"dilation": 2}):
        layers = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3, **options))
        assert isinstance(fold(layers, CPU)[0], nn.ZeroPad2d)


@torch.inference_mode()
def test_no_padding_is_left_in_the_bundled_architecture() -> None:
    folded = fold(build_mask_rcnn("lite0-fpn").backbone, CPU)
    assert not [module for module in folded.modules() if isinstance(module, nn.ZeroPad2d)]
