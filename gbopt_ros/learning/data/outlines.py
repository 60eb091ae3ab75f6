"""What annotation tools that know only outlines give back for a mask that nobody changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.structures import Rle

_MODES = (cv2.RETR_EXTERNAL, cv2.RETR_CCOMP)  # CVAT cuts holes, others fill them
_METHODS = (cv2.CHAIN_APPROX_SIMPLE, cv2.CHAIN_APPROX_TC89_KCOS)  # Datumaro leaves corners out


def outline_forms(rle: Rle) -> Iterator[tuple[Rle, ...]]:
    """Every set of masks that stands for a mask once it was turned into outlines; some are equal.

    An outline is a polygon through the centres of the outer pixels of a part. So half a pixel is
    lost all around, and lines of one pixel are gone. Holes are filled, or cut along pixels around
    them. The parts come back as one mask, or as one mask each.

    Args:
        rle: has a pixel.
    """
    size = (rle["size"][0], rle["size"][1])
    x0, y0, x1, y1 = mask_ops.boxes_xyxy([rle])[0].astype(int).tolist()
    pixels = mask_ops.decode(rle)[y0:y1, x0:x1].astype(np.uint8)
    for mode, method in product(_MODES, _METHODS):
        outlines, hierarchy = cv2.findContours(pixels, mode, method, offset=(x0, y0))
        parents = hierarchy[0, :, 3]  # -1: no hole
        if mode == cv2.RETR_CCOMP and (parents < 0).all():
            return
        filled = [_filled(outline, size) for outline in outlines]
        cut = (
            _cut(filled[number], [filled[hole] for hole in np.flatnonzero(parents == number)])
            for number in np.flatnonzero(parents < 0)
        )
        parts = tuple(part for part in cut if mask_ops.areas([part])[0])
        if parts:
            yield (mask_ops.union(parts, size),)
            yield parts


def _filled(outline: NDArray[np.int32], size: tuple[int, int]) -> Rle:
    """The inside of an outline, (P, 1, 2) x and y in pixels."""
    if len(outline) < 3:
        return mask_ops.encode(np.zeros(size, bool))
    return mask_ops.checked_rle([outline.ravel().tolist()], size)


def _cut(part: Rle, holes: Sequence[Rle]) -> Rle:
    if not holes:
        return part
    size = (part["size"][0], part["size"][1])
    return mask_ops.encode(mask_ops.decode(part) & ~mask_ops.decode(mask_ops.union(holes, size)))
