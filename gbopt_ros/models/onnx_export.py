"""Networks as ONNX files, for robots that serve them with onnxruntime or TensorRT.

A Mask R-CNN keeps torchvision's layout: `image` (3, H, W) float32 RGB in [0, 1]; `boxes` (n, 4)
xyxy pixels, `labels` (n,) int64, `scores` (n,), `masks` (n, 1, H, W) float32 probabilities, best
score first. A background network takes `image` (1, 3, H, W) float32 RGB in [0, 1] and gives
`foreground` (1, 1, H, W) float32, the probability that a pixel belongs to an object. Resizing to
the network's own size and back, and the normalisation of the pixels, are inside.

The custom metadata hold `gbopt_ros`, the JSON of `WeightsInfo`, and for a background network `mean`
0, `std` 1 and `output` as the program that runs the file expects them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.onnx.operators import shape_as_tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from gbopt_ros.models.background_fpn import SemanticFpn
from gbopt_ros.models.mask_rcnn import ARCHITECTURES
from gbopt_ros.models.weights import WeightsInfo, to_metadata
from gbopt_ros.structures import GboptError, first_line

OPSET = 20  # the newest of torch's TorchScript exporter, which torchvision's detectors need

_ANY_SIZE = (200, 264)  # pixels, of the image that a network of any size is traced with


def check_installed() -> None:
    """Raises GboptError if the optional packages for ONNX are missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise GboptError(
            f"an export needs the packages onnx and onnxruntime ({error}); "
            "pip install 'gbopt_ros[onnx]'"
        ) from error


# ------------------------------------------------------------------------------------- Mask R-CNN


def export_mask_rcnn(
    network: MaskRCNN, info: WeightsInfo, path: Path, size: tuple[int, int] | None = None
) -> None:
    """Write a Mask R-CNN on the CPU, with the limits that its heads have now.

    Args:
        size: (height, width) of all images, pixels; None: any size.

    Raises:
        GboptError: it cannot be exported.
    """
    arch = ARCHITECTURES.get(info.architecture)
    wrapped = _Detections(network).eval()
    axes = {
        "image": {1: "height", 2: "width"},
        "boxes": {0: "n"},
        "labels": {0: "n"},
        "scores": {0: "n"},
        "masks": {0: "n", 2: "height", 3: "width"},
    }
    with _traceable(network, None if arch is None else arch.enlarged_to, size):
        _export(wrapped, torch.rand(3, *(size or _ANY_SIZE)), axes, size is None, info, path)
    _finish(path, info, {}, {"masks": (None, 1, *(size or (None, None)))})


class _Detections(nn.Module):
    """(3, H, W) -> boxes, labels, scores and masks in a fixed order."""

    def __init__(self, network: MaskRCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.network([image])[0]
        return found["boxes"], found["labels"], found["scores"], found["masks"]


@contextmanager
def _traceable(
    network: MaskRCNN, enlarged_to: int | None, size: tuple[int, int] | None
) -> Iterator[None]:
    """Within the context, images are resized by operations that a trace records."""
    transform = network.transform
    network.transform = _TraceableTransform(transform, enlarged_to, size)
    try:
        yield
    finally:
        network.transform = transform


class _TraceableTransform(GeneralizedRCNNTransform):
    """Resizes any image to the size that the transform of the network gives it.

    torchvision's own way to trace it is less exact. Our transform computes in Python, which leaves
    no trace.
    """

    def __init__(
        self,
        transform: GeneralizedRCNNTransform,
        enlarged_to: int | None,
        size: tuple[int, int] | None,
    ) -> None:
        super().__init__(
            transform.min_size,
            transform.max_size,
            transform.image_mean,
            transform.image_std,
            transform.size_divisible,
        )
        self.enlarged_to = enlarged_to
        self.resized = None if size is None else self.resized_sides(torch.tensor(size)).tolist()

    def resized_sides(self, sides: Tensor) -> Tensor:
        """(2,) int64, height and width of a resized image, from those of the image."""
        scale = _scale(sides, self.enlarged_to, self.min_size[-1], self.max_size)
        return (sides.double() * scale).floor().long()

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        height, width = self.resized or self.resized_sides(shape_as_tensor(image)[-2:])
        resized = functional.interpolate(
            image[None], size=(height, width), mode="bilinear", align_corners=False
        )
        return resized[0], target


# ----------------------------------------------------------------------------- background network


def export_background(
    network: SemanticFpn, info: WeightsInfo, path: Path, size: tuple[int, int] | None = None
) -> None:
    """Write a background network on the CPU.

    Args:
        size: (height, width) of all images, pixels; None: any size.

    Raises:
        GboptError: it cannot be exported.
    """
    axes = {name: {2: "height", 3: "width"} for name in ("image", "foreground")}
    image = torch.rand(1, 3, *(size or _ANY_SIZE))
    _export(_Foreground(network, size).eval(), image, axes, size is None, info, path)
    described = {"mean": json.dumps([0, 0, 0]), "std": json.dumps([1, 1, 1])}
    _finish(
        path,
        info,
        described | {"output": "probability"},
        {"foreground": (1, 1, *(size or (None, None)))},
    )


class _Foreground(nn.Module):
    """(1, 3, H, W) in [0, 1] -> (1, 1, H, W), the probability of objects."""

    def __init__(self, network: SemanticFpn, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.network = network
        self.resized = None if size is None else self.resized_sides(torch.tensor(size)).tolist()

    def resized_sides(self, sides: Tensor) -> Tensor:
        """(2,) int64, height and width that the network sees, from those of the image."""
        scale = _scale(sides, self.network.enlarged_to, self.network.short_side)
        return (sides.double() * scale).round().long().clamp(min=1)

    def forward(self, image: Tensor) -> Tensor:
        height, width = self.resized or self.resized_sides(shape_as_tensor(image)[-2:])
        logits = self.network(_antialiased(image, height, width))
        logits = functional.interpolate(
            logits[:, None], size=image.shape[-2:], mode="bilinear", align_corners=False
        )
        return torch.sigmoid(logits)


def _antialiased(images: Tensor, height: int | Tensor, width: int | Tensor) -> Tensor:
    """Bilinear scaling of (B, C, H, W) as torch's with `antialias`, by two products of matrices.

    torch's operation cannot be exported, and TensorRT has none like it.
    """
    rows, columns = _weights(images.shape[-2], height), _weights(images.shape[-1], width)
    return rows @ images @ columns.T


def _weights(length: Any, scaled: Any) -> Tensor:
    """(scaled, length), the share of each pixel of a line in each pixel of the scaled line.

    In a trace the lengths are tensors.
    """
    ratio = torch.as_tensor(length).float() / torch.as_tensor(scaled).float()
    centres = (torch.arange(scaled).float() + 0.5) * ratio
    distances = (torch.arange(length).float() + 0.5)[None] - centres[:, None]
    shares = (1 - (distances / ratio.clamp(min=1)).abs()).clamp(min=0)
    return shares / shares.sum(dim=1, keepdim=True)


def _scale(
    sides: Tensor, enlarged_to: int | None, short_side: int, long_side: int | None = None
) -> Tensor:
    """float64, the factor by which a network scales an image with the sides (2,), int64.

    The shorter side becomes `short_side`, or less if the longer would exceed `long_side`.
    """
    short = sides.min()
    wanted = torch.tensor(short_side)
    if enlarged_to is not None:
        wanted = torch.minimum(wanted, short.clamp(min=enlarged_to))
    by_short = wanted.double(), short.double()
    if long_side is None:
        return _SmallerRatio.apply(*by_short, *by_short)
    return _SmallerRatio.apply(*by_short, torch.tensor(long_side).double(), sides.max().double())


class _SmallerRatio(torch.autograd.Function):
    """min(a / b, c / d) in float64, as Python computes it; left alone, the exporter takes float32.

    With that precision the size of an image is sometimes one pixel less than in torch.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return torch.minimum(a / b, c / d)

    @staticmethod
    def symbolic(graph: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        ratios = [graph.op("Div", *pair).setType(a.type()) for pair in ((a, b), (c, d))]
        return graph.op("Min", *ratios).setType(a.type())


# -------------------------------------------------------------------------------------- the files


def _export(
    module: nn.Module,
    image: Tensor,
    axes: dict[str, dict[int, str]],
    any_size: bool,
    info: WeightsInfo,
    path: Path,
) -> None:
    """Trace a module and write the file.

    Args:
        axes: for the input and the outputs in their order, names of axes by position.
        any_size: the axes named height and width stay open.
    """
    dynamic = {
        name: {axis: label for axis, label in named.items() if any_size or label == "n"}
        for name, named in axes.items()
    }
    names = list(axes)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # on torchvision's code; the file is compared instead
            torch.onnx.export(
                module,
                (image,),
                str(path),
                input_names=names[:1],
                output_names=names[1:],
                dynamic_axes=dynamic,
                opset_version=OPSET,
                dynamo=False,
                autograd_inlining=False,  # for `_SmallerRatio`
            )
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        raise GboptError(
            f"{info.architecture} cannot be exported to ONNX: {first_line(error)}"
        ) from error


def _finish(
    path: Path,
    info: WeightsInfo,
    metadata: dict[str, str],
    shapes: dict[str, tuple[int | None, ...]],
) -> None:
    """Add the metadata, and the lengths of axes that the exporter did not find."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, to_metadata(info) | metadata)
    outputs = {output.name: output for output in model.graph.output}
    for name, shape in shapes.items():
        axes = outputs[name].type.tensor_type.shape.dim
        for axis, length in zip(axes, shape, strict=True):
            if length is not None:
                axis.dim_value = length
    onnx.checker.check_model(model)
    onnx.save(model, path)
