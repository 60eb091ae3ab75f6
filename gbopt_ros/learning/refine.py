"""Mask edges moved to the edges of the image, before the masks are learnt from.

A Mask R-CNN draws a mask on a coarse grid (28 x 28), so what it proposes is blunter than what it
could learn. GrabCut (Rother et al. 2004) fits colour models to the inside and the outside of the
mask and cuts along the contrast of the image. That is knowledge which the network has not.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.structures import BoolMask, Image, Rle

_BAND = 0.12  # half width of the band in which the edge may move, of the square root of the area
_CONTEXT = 8  # pixels around the mask that show what the background looks like
_ITERATIONS = 2
_MIN_KNOWN_PIXELS = 10  # on either side; fewer give no colour model
_MIN_AGREEMENT = 0.6  # IoU with the mask; a cut that disagrees more has followed something else


def refine_masks(image: Image, rles: tuple[Rle, ...]) -> tuple[Rle, ...]:
    """Each mask with its edge on an edge of the image; no two results share a pixel.

    Args:
        image: (H, W, 3) uint8, RGB.
        rles: disjoint masks of the image.
    """
    original = mask_ops.decode_all(rles, image.shape[:2])
    refined = np.zeros_like(original)
    taken = original.any(axis=0)
    for target, mask in zip(refined, original, strict=True):
        # What belongs to another mask stays with it.
        target[:] = refine_mask(image, mask) & ~(taken & ~mask)
        taken |= target
    return mask_ops.encode_all(refined)


def refine_mask(image: Image, mask: BoolMask) -> BoolMask:
    """(H, W) bool; the mask itself where it is too thin or the cut disagrees with it."""
    area = int(mask.sum())
    if area == 0:
        return mask
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = (_span(rows, mask.shape[0]), _span(columns, mask.shape[1]))
    trimap = _trimap(mask[window], max(2, round(_BAND * area**0.5)))
    if min((trimap == cv2.GC_BGD).sum(), (trimap == cv2.GC_FGD).sum()) < _MIN_KNOWN_PIXELS:
        return mask
    cv2.setRNGSeed(0)  # grabCut starts its colour models with a random k-means
    model = np.zeros((2, 1, 65))
    cv2.grabCut(
        np.ascontiguousarray(image[window]),
        trimap, None, model[0], model[1], _ITERATIONS, cv2.GC_INIT_WITH_MASK,
    )  # fmt: skip
    cut = np.zeros_like(mask)
    cut[window] = (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)
    agreement = (cut & mask).sum() / (cut | mask).sum()
    return cut if agreement >= _MIN_AGREEMENT else mask


def _span(inside: NDArray[np.intp], size: int) -> slice:
    return slice(max(0, int(inside[0]) - _CONTEXT), min(size, int(inside[-1]) + _CONTEXT + 1))


def _trimap(mask: BoolMask, radius: int) -> NDArray[np.uint8]:
    """OpenCV's labels: certain inside and outside, and the band in which the edge is sought."""
    inside = mask.astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    trimap = np.full(mask.shape, cv2.GC_BGD, np.uint8)
    trimap[cv2.dilate(inside, disc) > 0] = cv2.GC_PR_BGD
    trimap[mask] = cv2.GC_PR_FGD
    trimap[cv2.erode(inside, disc, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0] = cv2.GC_FGD
    return trimap
