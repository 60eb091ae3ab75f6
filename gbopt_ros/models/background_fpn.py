"""Foreground/background network: semantic segmentation on a feature pyramid (Appendix D.2.1).

The semantic branch of Panoptic FPN (Kirillov et al. 2019): convolutions and bilinear upsampling
bring every pyramid level to stride 4, the levels are summed, and one convolution gives the logit
that a pixel belongs to an object. Backbones are EfficientNet-Lite0 (`lite0-semantic-fpn`, the
bundled network), ResNets of torchvision and, with the architecture `timm:NAME`, models of timm. The
paper's ResNeSt-200 is `timm:resnest200e`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck

from gbopt_ros.models import efficientnet_pyramid as efficientnet
from gbopt_ros.models.catalogue import IMAGENET_MEAN, IMAGENET_STD
from gbopt_ros.models.resnet_pyramid import resnet_pyramid
from gbopt_ros.models.timm_pyramid import TimmPyramid
from gbopt_ros.structures import GboptError

STRIDE = 32  # input sides are padded to a multiple of the coarsest level's stride


@dataclass(frozen=True)
class BackgroundArchitecture:
    """Sizes of one architecture.

    Images are resized so that the shorter side is `short_side`. With `enlarged_to`, smaller images
    keep their size, or are enlarged to that.
    """

    pyramid: Callable[[int], nn.Module]  # takes the number of channels
    pyramid_channels: int
    branch_channels: int
    short_side: int
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    pixel_std: tuple[float, float, float] = IMAGENET_STD
    enlarged_to: int | None = None


ARCHITECTURES = {
    "resnet50-semantic-fpn": BackgroundArchitecture(
        partial(resnet_pyramid, Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512)), 256, 128, 480
    ),
    "resnet18-semantic-fpn": BackgroundArchitecture(
        partial(resnet_pyramid, BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512)), 256, 128, 480
    ),
    "slim18-semantic-fpn": BackgroundArchitecture(
        partial(resnet_pyramid, BasicBlock, (2, 2, 2, 2), (48, 96, 192, 64)), 64, 64, 240
    ),
    "lite0-semantic-fpn": BackgroundArchitecture(
        efficientnet.efficientnet_pyramid, 64, 64, 320,
        efficientnet.PIXEL_MEAN, efficientnet.PIXEL_STD, enlarged_to=240,
    ),
}  # fmt: skip
TIMM = "timm:"  # prefix of architectures with a backbone of timm
TIMM_SIZES = ARCHITECTURES["resnet50-semantic-fpn"]


class SemanticFpn(nn.Module):
    """(B, 3, H, W) float images in [0, 1], RGB -> (B, H, W) object logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, arch: BackgroundArchitecture) -> None:
        super().__init__()
        self.short_side, self.enlarged_to = arch.short_side, arch.enlarged_to
        self.backbone = arch.pyramid(arch.pyramid_channels)
        self.branches = nn.ModuleList(
            _branch(arch.pyramid_channels, arch.branch_channels, upsamplings)
            for upsamplings in range(4)
        )
        self.predictor = nn.Conv2d(arch.branch_channels, 1, kernel_size=1)
        mean, std = torch.tensor(arch.pixel_mean), torch.tensor(arch.pixel_std)
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)

    def input_side(self, size: tuple[int, int], short_side: int | None = None) -> int:
        """The shorter side, pixels, to which an image of a size (height, width) is scaled.

        Args:
            short_side: another one than the network's.
        """
        wanted = short_side or self.short_side
        if self.enlarged_to is None:
            return wanted
        return min(wanted, max(self.enlarged_to, min(size)))

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        x = (images - self.mean) / self.std
        x = functional.pad(x, (0, -width % STRIDE, 0, -height % STRIDE))
        levels = self.backbone(x)
        summed = sum(branch(levels[str(i)]) for i, branch in enumerate(self.branches))
        logits = self.predictor(summed)  # (B, 1, ceil(H / 4), ceil(W / 4))
        logits = functional.interpolate(
            logits, size=x.shape[-2:], mode="bilinear", align_corners=False
        )
        return logits[:, 0, :height, :width]


def _branch(in_channels: int, channels: int, upsamplings: int) -> nn.Sequential:
    """Convolutions that bring a level of stride 4 * 2**upsamplings to stride 4."""
    steps: list[nn.Module] = []
    for step in range(max(upsamplings, 1)):
        steps += [
            nn.Conv2d(in_channels if step == 0 else channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(min(32, channels // 2), channels),
            nn.ReLU(inplace=True),
        ]
        if upsamplings:
            steps.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*steps)


def build_background(architecture: str) -> SemanticFpn:
    """A randomly initialised network.

    Args:
        architecture: key of `ARCHITECTURES`, or `timm:NAME` with the name of a timm model.

    Raises:
        GboptError: there is no such architecture, or timm is not installed.
    """
    if architecture.startswith(TIMM):
        on_timm = partial(TimmPyramid, architecture.removeprefix(TIMM))
        return SemanticFpn(replace(TIMM_SIZES, pyramid=on_timm))
    if architecture not in ARCHITECTURES:
        raise GboptError(
            f"unknown background architecture {architecture!r}; known: {sorted(ARCHITECTURES)} "
            "and timm:NAME, such as timm:resnest200e"
        )
    return SemanticFpn(ARCHITECTURES[architecture])
