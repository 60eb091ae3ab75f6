"""Backbones that start from ImageNet weights, as in Appendix D.1."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from gbopt_ros.models.weights import read_state_dict
from gbopt_ros.structures import GboptError

_FROZEN = (
    "conv1.", "bn1.", "layer1.",  # a ResNet's stem and first stage
    "stem.", "stage1.",  # those of EfficientNet-Lite0
)  # fmt: skip
_LITE_FIRST = "_conv_stem.weight"  # first tensor of the published EfficientNet-Lite0


def start_from(body: nn.Module, path: Path) -> None:
    """Copy a classifier's weights into a backbone, and freeze the parameters detectron2 freezes.

    Args:
        body: backbone without its pyramid: a ResNet of torchvision, EfficientNet-Lite0 or a
            backbone of timm.
        path: state dict of a classifier with this backbone: safetensors, or a `.pth` that holds
            tensors only.

    Raises:
        GboptError: the file is missing, holds more than tensors, or fits another network.
    """
    tensors = read_state_dict(path, "backbone")
    wanted = {
        name: value
        for name, value in body.state_dict().items()
        if not name.endswith("num_batches_tracked")  # old files lack it; nothing reads it
    }
    if next(iter(tensors), "") == _LITE_FIRST:
        # The published EfficientNet-Lite0 has other names in the same order.
        inputs = [name for name in tensors if not name.endswith("num_batches_tracked")]
        sources = dict(zip(wanted, inputs, strict=False))
    else:
        # timm calls `stages.0` of a classifier `stages_0` in a backbone.
        sources = {name: re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", name) for name in wanted}
        sources = {name: name if name in tensors else other for name, other in sources.items()}
    bad = [
        name
        for name, value in wanted.items()
        if sources.get(name) not in tensors or tensors[sources[name]].shape != value.shape
    ]
    if bad:
        raise GboptError(
            f"{path}: not the weights of this backbone: {len(bad)} of {len(wanted)} tensors are "
            f"missing or of another shape (first: {bad[0]})"
        )
    body.load_state_dict({name: tensors[sources[name]] for name in wanted}, strict=False)
    freeze_beginning(body)


def freeze_beginning(body: nn.Module) -> None:
    """Freeze the stem, the first stage and all batch normalisation, whose batches are too small."""
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(not name.startswith(_FROZEN))
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            for parameter in module.parameters():
                parameter.requires_grad_(False)


def freeze_statistics(body: nn.Module) -> None:
    """Put frozen batch normalisation into evaluation mode."""
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()
