"""Whether an exported network gives in onnxruntime what it gives in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torchvision.models.detection import MaskRCNN

from gbopt_ros import masks as mask_ops
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources.images import read_image
from gbopt_ros.models.device import upload
from gbopt_ros.models.onnx import load_onnx
from gbopt_ros.structures import GboptError, Image

SCORE_TOLERANCE = 1e-3
"""Largest difference of the scores of a mask."""
MASK_IOU = 0.99
"""Smallest mean IoU of the masks with those of torch."""
FOREGROUND_TOLERANCE = 1e-3
"""Largest difference of a foreground probability."""

_CPU = torch.device("cpu")
_BUNDLED = "demo/validation/images"
_SIZES = (480, 640), (240, 320), (360, 200)  # pixels, of the images for a network of any size


def example_images(size: tuple[int, int] | None = None) -> list[Image]:
    """A random image and two that come with the package.

    Args:
        size: (height, width) of all of them, pixels; None: each has another one.
    """
    sizes = [size] * len(_SIZES) if size else _SIZES
    noise = np.random.default_rng(0).integers(0, 256, (*sizes[0], 3), np.uint8)
    paths = sorted(find_resource(_BUNDLED).iterdir())
    return [noise] + [
        np.asarray(cv2.resize(read_image(path), (width, height)), np.uint8)
        for path, (height, width) in zip(paths, sizes[1:], strict=False)
    ]


@torch.inference_mode()
def check_mask_rcnn(
    path: Path, network: MaskRCNN, images: Sequence[Image], mask_threshold: float
) -> str:
    """Compare the masks of an exported Mask R-CNN with those of the network on the CPU.

    A mask corresponds to one of torch whose score differs by at most `SCORE_TOLERANCE`, one to one.

    Args:
        path: the ONNX file.
        mask_threshold: minimum probability of the pixels of a mask.

    Returns:
        How well they agree, in words.

    Raises:
        GboptError: the mean IoU is less than `MASK_IOU`, or onnxruntime cannot run the file.
    """
    exported = load_onnx(path, _CPU)
    total, ious, differences = 0, 0.0, [0.0]
    for image in images:
        x = _pixels(image)[0]
        found = network([x])[0]
        scores = found["scores"].numpy()
        _, _, exported_scores, exported_maps = exported.run(x.numpy())
        ours = mask_ops.encode_all(found["masks"][:, 0].numpy() > mask_threshold)
        theirs = mask_ops.encode_all(exported_maps[:, 0] > mask_threshold)
        apart = np.abs(scores[:, None] - exported_scores[None])
        iou = mask_ops.iou_matrix(ours, theirs) * (apart <= SCORE_TOLERANCE)
        # Masks without a pixel are no candidates.
        iou = iou[mask_ops.areas(ours) > 0][:, mask_ops.areas(theirs) > 0]
        apart = apart[mask_ops.areas(ours) > 0][:, mask_ops.areas(theirs) > 0]
        pairs = linear_sum_assignment(-iou)
        total += max(iou.shape)
        ious += float(iou[pairs].sum())
        differences += [float(difference) for difference in apart[pairs][iou[pairs] > 0]]
    mean = ious / total if total else 1.0
    agreement = (
        f"{total} masks of {len(images)} images: mean IoU with torch's {mean:.4f}, scores differ "
        f"by at most {max(differences):.1e}"
    )
    if mean < MASK_IOU:
        raise GboptError(
            f"the exported network differs from torch: {agreement} for those that correspond; "
            f"expected a mean IoU of at least {MASK_IOU}; nothing was written"
        )
    return agreement


def check_background(
    path: Path,
    background: Callable[[Sequence[Image]], Sequence[NDArray[np.float32]]],
    images: Sequence[Image],
) -> str:
    """Compare the foreground of an exported background network with that of torch.

    Args:
        path: the ONNX file.
        background: gives (H, W), the probability of no object, for each image.

    Returns:
        How well they agree, in words.

    Raises:
        GboptError: a probability differs by more than `FOREGROUND_TOLERANCE`, or onnxruntime
            cannot run the file.
    """
    exported = load_onnx(path, _CPU)
    worst = 0.0
    for image, expected in zip(images, background(images), strict=True):
        (foreground,) = exported.run(_pixels(image).numpy())
        worst = max(worst, _difference(foreground[0, 0], 1 - expected))
    agreement = f"foreground of {len(images)} images: differs from torch's by at most {worst:.1e}"
    if worst > FOREGROUND_TOLERANCE:
        raise GboptError(
            f"the exported network is not torch's: {agreement}; expected at most "
            f"{FOREGROUND_TOLERANCE}; nothing was written"
        )
    return agreement


def _pixels(image: Image) -> Any:
    """(1, 3, H, W) float32 in [0, 1]."""
    return upload([image], _CPU).float().div_(255.0)


def _difference(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """The largest one; infinite for other shapes or a value that is not finite."""
    if first.shape != second.shape:
        return float("inf")
    worst = float(np.abs(first - second).max())
    return worst if np.isfinite(worst) else float("inf")
