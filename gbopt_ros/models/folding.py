"""Networks that only infer, with batch normalisations and paddings folded into the convolutions."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

N = TypeVar("N")  # a module, or a protocol that modules fulfil

# Of these, a normalisation after a convolution, and a convolution after a padding, is applied to
# what that one gives.
_IN_ORDER = nn.Sequential, IntermediateLayerGetter, BasicBlock, Bottleneck
_NORMS = nn.BatchNorm2d, FrozenBatchNorm2d


def folded_copy(network: N, device: torch.device) -> N:
    """A copy of a network that only infers, see `fold`."""
    return fold(copy.deepcopy(network), device)


def fold(network: N, device: torch.device) -> N:
    """Put a network into evaluation mode and fold its modules, in place.

    The outputs stay the same but for rounding, up to a sixth sooner on a CPU. Training the
    network afterwards is another thing than training it before.

    Args:
        device: where the network will run. On a GPU paddings stay: its libraries have fast filters
            for each channel of 3 x 3 and 5 x 5 pixels, and slow ones of other sizes.
    """
    root: Any = network
    root.eval()
    for module in [module for module in root.modules() if isinstance(module, _IN_ORDER)]:
        for (before, first), (after, second) in pairwise(list(module.named_children())):
            # Not of subclasses, which may hold an activation too.
            if type(first) is nn.Conv2d and type(second) in _NORMS:
                first.weight, first.bias = fuse_conv_bn_weights(
                    first.weight, first.bias, second.running_mean, second.running_var,
                    second.eps, second.weight, second.bias,
                )  # fmt: skip
                setattr(module, after, nn.Identity())
            elif device.type == "cpu" and _is_padded(first, second):
                _fold_padding(first, second)
                setattr(module, before, nn.Identity())
    return network


def _is_padded(first: nn.Module, second: nn.Module) -> bool:
    return (
        type(first) is nn.ZeroPad2d and type(second) is nn.Conv2d
        and second.padding == (0, 0) and second.dilation == (1, 1)
    )  # fmt: skip


def _fold_padding(padding: nn.ZeroPad2d, convolution: nn.Conv2d) -> None:
    """Let a convolution pad its input itself, in place.

    Padding as a step of its own copies the whole input. A convolution pads at no cost, but by as
    much on opposite sides: where that is more than `padding` has, the kernel gets zeros.
    """
    left, right, top, bottom = padding.padding
    columns, rows = max(left, right), max(top, bottom)
    weight = functional.pad(
        convolution.weight, (columns - left, columns - right, rows - top, rows - bottom)
    )
    convolution.weight = nn.Parameter(weight.detach())
    convolution.kernel_size = (weight.shape[2], weight.shape[3])
    convolution.padding = (rows, columns)
