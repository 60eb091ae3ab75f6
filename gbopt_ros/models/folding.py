"""Batch normalisations folded into the convolutions before them, for networks that only infer."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

N = TypeVar("N")  # a module, or a protocol that modules fulfil

# Of these, a normalisation that comes after a convolution is applied to what it gives.
_IN_ORDER = nn.Sequential, IntermediateLayerGetter, BasicBlock, Bottleneck
_NORMS = nn.BatchNorm2d, FrozenBatchNorm2d


def folded_copy(network: N) -> N:
    """A copy of a network that only infers, see `fold_batch_norms`."""
    return fold_batch_norms(copy.deepcopy(network))


def fold_batch_norms(network: N) -> N:
    """Put a network into evaluation mode and fold its batch normalisations, in place.

    The outputs stay the same but for rounding, a tenth sooner on a CPU. Training the network
    afterwards is another thing than training it before.
    """
    root: Any = network
    root.eval()
    for module in [module for module in root.modules() if isinstance(module, _IN_ORDER)]:
        for (_, convolution), (name, norm) in pairwise(list(module.named_children())):
            # Not of subclasses, which may hold an activation too.
            if type(convolution) is not nn.Conv2d or type(norm) not in _NORMS:
                continue
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight, convolution.bias, norm.running_mean, norm.running_var,
                norm.eps, norm.weight, norm.bias,
            )  # fmt: skip
            setattr(module, name, nn.Identity())
    return network
