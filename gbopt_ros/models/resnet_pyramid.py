"""Feature pyramids on the ResNets of torchvision, of any width."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


def resnet(
    block: type[BasicBlock] | type[Bottleneck], layers: Sequence[int], widths: Sequence[int]
) -> ResNet:
    """A ResNet of torchvision whose four stages have the given widths."""
    net = ResNet(block, list(layers))
    if tuple(widths) == (64, 128, 256, 512):
        return net
    net.inplanes = widths[0]
    net.conv1 = nn.Conv2d(3, widths[0], kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.bn1 = nn.BatchNorm2d(widths[0])
    for stage, (width, depth) in enumerate(zip(widths, layers, strict=True), start=1):
        layer = net._make_layer(block, width, depth, stride=1 if stage == 1 else 2)
        for module in layer.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        setattr(net, f"layer{stage}", layer)
    return net


def resnet_pyramid(
    block: type[BasicBlock] | type[Bottleneck],
    layers: Sequence[int],
    widths: Sequence[int],
    channels: int,
) -> BackboneWithFPN:
    """A ResNet with a feature pyramid of strides 4 to 32, and 64 by pooling."""
    return BackboneWithFPN(
        resnet(block, layers, widths),
        return_layers={f"layer{i + 1}": str(i) for i in range(4)},
        in_channels_list=[width * block.expansion for width in widths],
        out_channels=channels,
    )
