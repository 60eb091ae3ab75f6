"""From a foreground map to the masks of a frame; frames at the size that a method works at."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gbopt_ros.masks import boxes_xyxy, encode_all
from gbopt_ros.perception.motion import resized
from gbopt_ros.structures import BoolMask, Image, Proposals

# Smallest component, as a share of the image. The coarsest superpixels of these methods are 1/400
# of the image (NLC), so anything smaller is a fragment of one.
MIN_AREA = 1 / 400


def proposals_of(mask: BoolMask, foreground: NDArray[np.floating]) -> Proposals:
    """The connected components of a foreground mask (4-connected), best score first.

    Args:
        mask: (H, W).
        foreground: (H, W) in [0, 1]; the score of a component is its mean under it.
    """
    labels, count = ndimage.label(mask)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    large = np.flatnonzero(areas >= MIN_AREA * mask.size)
    large = large[large > 0]
    scores = np.asarray(ndimage.mean(foreground, labels, large), np.float32).reshape(-1)
    order = np.argsort(-scores, kind="stable")
    rles = encode_all(labels == large[order][:, None, None])
    scores = scores[order].clip(0, 1)
    return Proposals(mask.shape, rles, scores, boxes_xyxy(rles))


def shrunk(images: Sequence[Image], longer_side: int) -> list[Image]:
    """Images with a longer side of at most that many pixels."""
    height, width = images[0].shape[:2]
    factor = longer_side / max(height, width)
    if factor >= 1:
        return list(images)
    size = (max(1, round(factor * width)), max(1, round(factor * height)))
    return [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]


def enlarged(maps: Sequence[NDArray], size: tuple[int, int]) -> list[NDArray[np.float32]]:
    """Maps (h, w) at the size (height, width) of the clip."""
    return [resized(values.astype(np.float32), size) for values in maps]
