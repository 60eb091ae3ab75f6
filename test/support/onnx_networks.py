"""Tiny networks in ONNX files, with outputs that a test can compute by hand."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")),
    reason="onnx or onnxruntime is not installed",
)

_OPSET, _IR = 17, 8  # so that every supported onnxruntime reads them

Shape = Sequence[int | str]


def save_onnx(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    constants: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    dtype: type = np.float32,
) -> Path:
    """Write a graph; `constants` become float32 unless they are integers.

    Args:
        nodes: of `onnx.helper.make_node`.
        dtype: of inputs and outputs.
    """
    import onnx
    from onnx import helper, numpy_helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    arrays = {name: np.asarray(value) for name, value in (constants or {}).items()}
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(n, kind, list(s)) for n, s in inputs.items()],
        [
            helper.make_tensor_value_info(
                n, onnx.TensorProto.INT64 if n == "labels" else kind, list(s)
            )
            for n, s in outputs.items()
        ],
        [
            numpy_helper.from_array(a if a.dtype.kind == "i" else a.astype(dtype), name)
            for name, a in arrays.items()
        ],
    )
    opset = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=_IR)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """A node; names are separated by spaces."""
    from onnx import helper

    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def save_red_foreground(
    path: Path,
    side: Shape = (32, 48),
    metadata: Mapping[str, str] | None = None,
    scale: float = 1.0,
    dtype: type = np.float32,
) -> Path:
    """A saliency network: the first output is the red channel that it is given, times `scale`.

    Like the real ones it has further outputs.
    """
    return save_onnx(
        path,
        [
            node("Split", "image sizes", "red green blue", axis=1),
            node("Mul", "red scale", "foreground"),
        ],
        {"image": (1, 3, *side)},
        {"foreground": (1, 1, *side), "green": (1, 1, *side)},
        {"sizes": np.array([1, 1, 1]), "scale": scale},
        metadata,
        dtype,
    )


def save_yolo(
    path: Path,
    regions: np.ndarray,
    prototypes: np.ndarray,
    side: Shape = (32, 32),
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """The layout of Ultralytics' export, with the same regions and prototypes for every image.

    Args:
        regions: (4 + classes + c, A).
        prototypes: (c, h / 4, w / 4).
    """
    return save_onnx(
        path,
        [
            node("ReduceMin", "images", "darkest", keepdims=0),
            node("Mul", "darkest zero", "nothing"),  # the outputs need the input
            node("Add", "regions nothing", "output0"),
            node("Add", "prototypes nothing", "output1"),
        ],
        {"images": (1, 3, *side)},
        {"output0": (1, *regions.shape), "output1": (1, *prototypes.shape)},
        {"zero": 0.0, "regions": regions[None], "prototypes": prototypes[None]},
        metadata,
    )


def regions_of(*rows: Sequence[float], count: int = 21) -> np.ndarray:
    """(4 + classes + c, count), the regions in rows; the others have score 0."""
    regions = np.zeros((len(rows[0]), count), np.float32)
    regions[:, : len(rows)] = np.array(rows, np.float32).T
    return regions


def save_bright_yolo(path: Path, side: int = 64) -> Path:
    """The layout of Ultralytics' export, with scores and masks that follow the brightness.

    A region for each cell of strides 8, 16 and 32, twice as large as its cell; the score of class 1
    is a brightness of the cell, and the masks are bright places.
    """
    boxes, nodes, names, constants = [], [], [], {"half": 0.5, "flat": np.array([1, 1, -1])}
    nodes.append(node("ReduceMean", "images", "grey", axes=[1]))
    for stride in (8, 16, 32):
        cells = side // stride
        centres = (np.arange(cells) + 0.5) * stride
        ys, xs = np.meshgrid(centres, centres, indexing="ij")
        sides = np.full_like(xs, 2 * stride)
        boxes.append(np.stack([xs, ys, sides, sides]).reshape(4, -1))
        shape = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
        nodes.append(node("AveragePool", "grey", f"pool{stride}", **shape))
        nodes.append(node("Reshape", f"pool{stride} flat", f"score{stride}"))
        names.append(f"score{stride}")
    located = np.concatenate(boxes, axis=1).astype(np.float32)
    count = located.shape[1]
    # Apart from each other, so that the order does not hang on the last bit.
    share = np.linspace(0.5, 0.9, count)[None, None]
    constants |= {"boxes": located[None], "share": share, "other": np.zeros((1, 1, count))}
    constants |= {"coefficient": np.full((1, 1, count), 20.0)}
    return save_onnx(
        path,
        [
            *nodes,
            node("Concat", " ".join(names), "brightness", axis=2),
            node("Mul", "brightness share", "score"),
            node("Concat", "boxes other score coefficient", "output0", axis=1),
            node("AveragePool", "grey", "small", kernel_shape=[4, 4], strides=[4, 4]),
            node("Sub", "small half", "output1"),
        ],
        {"images": (1, 3, side, side)},
        {"output0": (1, 7, count), "output1": (1, 1, side // 4, side // 4)},
        constants,
    )


def save_torchvision_layout(
    path: Path,
    shares: np.ndarray,
    scores: Sequence[float],
    size: Shape = ("height", "width"),
    names: Sequence[str] = ("boxes", "labels", "scores", "masks"),
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """The layout of torchvision's Mask R-CNN: each mask fills its box with probability 0.8.

    Args:
        shares: (n, 4), boxes xyxy as shares of the width and height of the image.
        scores: n, times half of the mean of the image, plus half.
    """
    n = len(scores)
    boxes, labels, scored, masks = names
    return save_onnx(
        path,
        [
            node("Shape", "image", "shape"),
            node("Split", "shape thirds", "channels height width", axis=0),
            node("Concat", "width height width height", "extent", axis=0),
            node("Cast", "extent", "extents", to=1),
            node("Mul", "shares extents", boxes),
            node("ReduceMean", "image", "mean", keepdims=0),
            node("Mul", "mean half", "brightness"),
            node("Add", "brightness half", "factor"),
            node("Mul", "given factor", scored),
            node("Identity", "ones", labels),
            node("Split", f"{boxes} sides", "left top right bottom", axis=1),
            *_coordinates("height", "rows", "column"),
            *_coordinates("width", "columns", "row"),
            *_between("rows", "top", "bottom", "in_rows"),
            *_between("columns", "left", "right", "in_columns"),
            node("And", "in_rows in_columns", "inside"),
            node("Cast", "inside", "filled", to=1),
            node("Mul", "filled certainty", masks),
        ],
        {"image": (3, *size)},
        dict(
            zip(names, [("n", 4), ("n",), ("n",), ("n", 1, *size)], strict=True)
        ),
        {
            "thirds": np.array([1, 1, 1]), "sides": np.array([1, 1, 1, 1]), "shares": shares,
            "half": 0.5, "given": scores, "ones": np.ones(n, np.int64), "certainty": 0.8,
            "column": np.array([1, 1, -1, 1]), "row": np.array([1, 1, 1, -1]),
            "apart": np.array([n, 1, 1, 1]), "zero": np.array(0), "one": np.array(1),
            "scalar": np.array([], np.int64), "centre": 0.5,
        },
        metadata,
    )  # fmt: skip


def _coordinates(length: str, name: str, shape: str) -> list[Any]:
    """Centres of the pixels along an axis, (1, 1, H, 1) or (1, 1, 1, W)."""
    return [
        node("Reshape", f"{length} scalar", f"{name}_count"),
        node("Range", f"zero {name}_count one", f"{name}_index"),
        node("Cast", f"{name}_index", f"{name}_float", to=1),
        node("Add", f"{name}_float centre", f"{name}_flat"),
        node("Reshape", f"{name}_flat {shape}", name),
    ]


def _between(name: str, low: str, high: str, out: str) -> list[Any]:
    return [
        node("Reshape", f"{low} apart", f"{low}_apart"),
        node("Reshape", f"{high} apart", f"{high}_apart"),
        node("Greater", f"{name} {low}_apart", f"{out}_above"),
        node("Less", f"{name} {high}_apart", f"{out}_below"),
        node("And", f"{out}_above {out}_below", out),
    ]
