"""Feature pyramid on EfficientNet-Lite0, the backbone of the bundled networks (Tan and Le 2019).

It knows much for its few operations, and all of them run on a CPU, in TensorRT and in half
precision: ReLU6 in place of swish, no squeeze-and-excitation. Its tensors have the order and the
shapes of the published classifier, so that ImageNet weights fit (see
`learning.training.pretrained_backbone`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN

PIXEL_MEAN = PIXEL_STD = (0.5, 0.5, 0.5)
"""Normalisation of the published weights, for RGB in [0, 1]."""

_STEM = 32  # channels
_STAGES = (  # expansion, kernel size, stride, channels, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_LEVELS = {  # of strides 4 to 32: channels, standard deviation of the published weights' features
    "stage2": (24, 8.3),
    "stage3": (40, 7.0),
    "stage5": (112, 5.8),
    "stage7": (320, 2.6),
}


def efficientnet_pyramid(channels: int) -> BackboneWithFPN:
    """EfficientNet-Lite0 with a feature pyramid of strides 4 to 32, and 64 by pooling."""
    pyramid = BackboneWithFPN(
        efficientnet_lite0(),
        return_layers={stage: str(level) for level, stage in enumerate(_LEVELS)},
        in_channels_list=[width for width, _ in _LEVELS.values()],
        out_channels=channels,
    )
    # Its features are large, since no activation follows them; the heads expect them around 1.
    for lateral, (_, deviation) in zip(pyramid.fpn.inner_blocks, _LEVELS.values(), strict=True):
        with torch.no_grad():
            lateral[0].weight /= deviation
    return pyramid


def efficientnet_lite0() -> nn.Sequential:
    """The backbone with random weights: `stem` and `stage1` to `stage7`, without the classifier."""
    body = nn.Sequential()
    body.add_module("stem", _convolution(3, _STEM, 3, stride=2))
    channels = _STEM
    for number, (expansion, kernel, stride, width, blocks) in enumerate(_STAGES, start=1):
        stage = nn.Sequential()
        for block in range(blocks):
            stage.append(_Block(channels, width, expansion, kernel, stride if block == 0 else 1))
            channels = width
        body.add_module(f"stage{number}", stage)
    return body


class _Block(nn.Module):
    """Expand, filter every channel, project; with a shortcut where the shape stays the same."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = _convolution(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.filter = _convolution(inner, inner, kernel, stride, groups=inner)
        self.project = _convolution(inner, outputs, 1, activated=False)
        self._shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.expand(x)
        if y.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # In bfloat16 the gradient of these filters takes 5 to 12 times as long on a CPU.
            with torch.autocast("cpu", enabled=False):
                y = self.filter(y.float())
        else:
            y = self.filter(y)
        y = self.project(y)
        return x + y if self._shortcut else y


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1,
    activated: bool = True,
) -> nn.Sequential:  # fmt: skip
    """Convolution, batch normalisation and ReLU6.

    With a stride it pads as TensorFlow does with inputs of even size, where the published weights
    come from. Inputs are even here: images are padded to a multiple of 32.
    """
    layers: list[nn.Module] = []
    if stride > 1:
        missing = kernel - stride
        layers.append(nn.ZeroPad2d((missing // 2, missing - missing // 2) * 2))
    padding = 0 if stride > 1 else kernel // 2
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    layers += [convolution, nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)]
    if activated:
        layers.append(nn.ReLU6(inplace=True))
    return nn.Sequential(*layers)
