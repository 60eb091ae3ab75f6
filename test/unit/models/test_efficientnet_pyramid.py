"""EfficientNet-Lite0: shapes, padding by hand, and the order of the published tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from gbopt_ros.learning.training.pretrained_backbone import start_from
from gbopt_ros.models.efficientnet_pyramid import (
    _convolution,
    efficientnet_lite0,
    efficientnet_pyramid,
)
from gbopt_ros.structures import GboptError

# Shapes of the published state dict, in its order: stem, three of its sixteen blocks.
PUBLISHED = {
    "_conv_stem.weight": (32, 3, 3, 3),
    "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3),
    "_blocks.0._project_conv.weight": (16, 32, 1, 1),
    "_blocks.1._expand_conv.weight": (96, 16, 1, 1),
    "_blocks.1._depthwise_conv.weight": (96, 1, 3, 3),
    "_blocks.15._depthwise_conv.weight": (1152, 1, 3, 3),
    "_blocks.15._project_conv.weight": (320, 1152, 1, 1),
}


def test_efficientnet_pyramid_has_strides_4_to_64() -> None:
    pyramid = efficientnet_pyramid(24).eval()
    with torch.inference_mode():
        levels = pyramid(torch.rand(1, 3, 64, 128))
    assert {name: tuple(level.shape) for name, level in levels.items()} == {
        "0": (1, 24, 16, 32), "1": (1, 24, 8, 16), "2": (1, 24, 4, 8), "3": (1, 24, 2, 4),
        "pool": (1, 24, 1, 2),
    }  # fmt: skip
    assert pyramid.out_channels == 24


@pytest.mark.parametrize(("kernel", "before", "after"), [(3, 0, 1), (5, 1, 2)])
def test_strided_convolution_pads_as_tensorflow(kernel: int, before: int, after: int) -> None:
    """TensorFlow's SAME: `kernel - stride` pixels of an even side, the odd one at the end."""
    layer = _convolution(1, 1, kernel, stride=2, activated=False).eval()
    layer[1].weight.data.fill_(1.0)
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    found = layer(image) * (1 + 1e-3) ** 0.5  # untrained normalisation divides by it
    assert found.shape == (1, 1, 4, 4)
    padded = nn.functional.pad(image, (before, after, before, after))
    expected = [
        [padded[0, 0, 2 * y : 2 * y + kernel, 2 * x : 2 * x + kernel].sum() for x in range(4)]
        for y in range(4)
    ]
    torch.testing.assert_close(found[0, 0], torch.tensor(expected))


def published() -> dict[str, torch.Tensor]:
    """A state dict with the names, order and shapes of the published one, with random values."""
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, torch.Tensor] = {}
    for number, (old, value) in enumerate(efficientnet_lite0().state_dict().items()):
        name = f"_tensor{number}.{old.rpartition('.')[2]}" if number else "_conv_stem.weight"
        tensors[name] = (
            torch.rand(value.shape, generator=generator) if value.ndim else torch.tensor(7)
        )
    return tensors | {"_conv_head.weight": torch.zeros(1280, 320, 1, 1), "_fc.bias": torch.zeros(9)}


def test_start_from_takes_the_published_tensors_in_order(tmp_path: Path) -> None:
    tensors = published()
    torch.save(tensors, tmp_path / "lite0.pth")
    body = efficientnet_lite0()
    start_from(body, tmp_path / "lite0.pth")
    for value, expected in zip(body.state_dict().values(), tensors.values(), strict=False):
        if value.ndim:
            assert torch.equal(value, expected)
    learns = {name for name, p in body.named_parameters() if p.requires_grad}
    assert "stage2.0.expand.0.weight" in learns
    assert not any(name.startswith(("stem", "stage1")) for name in learns)
    assert not any(p.requires_grad for m in body.modules() if isinstance(m, nn.BatchNorm2d)
                   for p in m.parameters())  # fmt: skip


def test_start_from_refuses_another_efficientnet(tmp_path: Path) -> None:
    tensors = published()
    tensors["_tensor6.weight"] = torch.zeros(48, 1, 3, 3)
    torch.save(tensors, tmp_path / "lite1.pth")
    with pytest.raises(GboptError, match="not the weights of this backbone: 1 of"):
        start_from(efficientnet_lite0(), tmp_path / "lite1.pth")


def test_efficientnet_has_the_published_shapes() -> None:
    weights = [v for v in efficientnet_lite0().state_dict().values() if v.ndim == 4]
    assert len(weights) == 48  # of 49 convolutions, the last belongs to the classifier
    first, last = list(PUBLISHED.values())[:5], list(PUBLISHED.values())[5:]
    assert [tuple(v.shape) for v in weights[:5]] == first
    assert [tuple(v.shape) for v in weights[-2:]] == last


def test_efficientnet_filters_stay_in_single_precision_on_a_cpu() -> None:
    body = efficientnet_lite0().eval()
    dtypes: dict[str, set[torch.dtype]] = {"filter": set(), "project": set()}
    for name, module in body.named_modules():
        kind = name.rpartition(".")[2]
        if kind in dtypes:
            module.register_forward_hook(
                lambda _, __, output, kind=kind: dtypes[kind].add(output.dtype)
            )
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        exact = body(image)
        assert dtypes.pop("filter") == dtypes.pop("project") == {torch.float32}
        dtypes |= {"filter": set(), "project": set()}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = body(image)
    assert dtypes["filter"] == {torch.float32}
    relative = (rounded.float() - exact).norm() / exact.norm()
    assert relative < 0.05
