"""New outlines of selected masks by a guided filter (He et al. 2013).

The mask head draws every object on 28 x 28 cells and was trained on the outlines of seen classes.
The image often shows better where an object ends. In a window around each pixel the filter fits the
mask as a linear function of the colour, so that the mask follows edges of the image. Only a band
around the outline changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import OutlineConfig
from gbopt_ros.structures import BoolMask, FrameSelection, Image, Selection

# In units of the square root of the mask's area: the error of a mask head grows with the object.
_BAND_OUTSIDE, _BAND_INSIDE = 0.1, 0.05
_RADIUS = 0.2  # of the filter's window
_PASSES = 2  # each filters the mask of the one before; a third changed nothing
_MARGIN = 0.35  # around the mask; more context changed nothing
_SMOOTHNESS = 6.0**2  # grey levels squared: weaker edges are not followed
_WORKING_SIDE = 64  # pixels; larger masks are shrunk to a square of this side
_WORKING_WINDOW = 3 * _WORKING_SIDE  # the same for the window: bounds the time of thin masks
_MIN_AREA = 20  # pixels; smaller masks stay as they are
_MIN_CONTRAST = 8  # grey levels; a patch with less shows no edge
_SAME_OBJECT = 0.5  # smallest IoU of the new mask with the old one; else the old one stays


def with_outlines(selection: Selection, config: OutlineConfig) -> Selection:
    """The selection of a clip with the outlines of `redraw_outlines`."""
    frames = tuple(redraw_outlines(frame, config) for frame in selection.frames)
    return replace(selection, frames=frames)


def redraw_outlines(frame: FrameSelection, config: OutlineConfig) -> FrameSelection:
    """The selection of a frame with new outlines, as `config.method` says.

    Only masks and boxes change. No two masks share a pixel, and no mask takes a pixel that another
    mask had. The result is deterministic.
    """
    if config.method == "network" or not len(frame):
        return frame
    masks = mask_ops.decode_all(frame.rles, frame.frame.size)
    covered = np.logical_or.reduce(masks)
    drawn = masks.copy()
    for mask, new, box in zip(masks, drawn, frame.boxes, strict=True):
        side = float(np.sqrt(np.count_nonzero(mask)))
        if side * side >= _MIN_AREA:
            window = _window(box, round(_MARGIN * side))
            object_ = mask[window]
            others = covered[window] & ~object_
            new[window] = _redraw(frame.frame.image[window], object_, others, side)
    rles = mask_ops.encode_all(mask_ops.make_exclusive(drawn, frame.scores))
    return replace(frame, rles=rles, boxes=mask_ops.boxes_xyxy(rles))


def _redraw(patch: Image, mask: BoolMask, others: BoolMask, side: float) -> BoolMask:
    """A new outline outside `others`; the mask itself if too little of it would be left.

    Args:
        side: square root of the mask's area, pixels.
    """
    extremes = (cv2.minMaxLoc(channel)[:2] for channel in cv2.split(patch))
    if max(high - low for low, high in extremes) < _MIN_CONTRAST:
        return mask
    height, width = mask.shape
    scale = min(1.0, _WORKING_SIDE / side, _WORKING_WINDOW / float(np.sqrt(height * width)))
    object_ = mask
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        patch = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
        object_ = _resized(mask, size)
    filtered = _filtered(patch, object_, side * scale)
    drawn = _touching(_resized(filtered, (width, height)) & ~others, mask)
    same = np.count_nonzero(drawn & mask) >= _SAME_OBJECT * np.count_nonzero(drawn | mask)
    return drawn if same else mask


def _filtered(image: Image, mask: BoolMask, side: float) -> BoolMask:
    """The mask after guided filters whose guide is the image, Eq. 14 to 16 of He et al.

    Beyond a band around its outline the mask stays.
    """
    width = 2 * max(2, round(_RADIUS * side)) + 1

    def mean(values: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.asarray(cv2.blur(values, (width, width)))

    # Planes: operations on the last axis of (h, w, 3) take several times as long.
    guide = cv2.split(image.astype(np.float32))
    guide_mean = [mean(plane) for plane in guide]

    def colour_covariance(a: int, b: int) -> NDArray[np.floating]:
        product = mean(guide[a] * guide[b]) - guide_mean[a] * guide_mean[b]
        return product + _SMOOTHNESS if a == b else product

    # The inverse of the 3 x 3 covariance of the colours at every pixel, by its cofactors.
    rr, rg, rb, gg, gb, bb = (
        colour_covariance(a, b) for a, b in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    )
    cofactors = (
        (gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg),
        (rb * gb - rg * bb, rr * bb - rb * rb, rb * rg - rr * gb),
        (rg * gb - rb * gg, rb * rg - rr * gb, rr * gg - rg * rg),
    )
    determinant = rr * cofactors[0][0] + rg * cofactors[0][1] + rb * cofactors[0][2]

    object_ = mask.astype(np.uint8)
    core = cv2.erode(object_, _disc(max(1, round(_BAND_INSIDE * side)))) > 0
    reach = cv2.dilate(object_, _disc(max(2, round(_BAND_OUTSIDE * side)))) > 0
    for _ in range(_PASSES):
        target = mask.astype(np.float32)
        target_mean = mean(target)
        covariance = [
            mean(plane * target) - plane_mean * target_mean
            for plane, plane_mean in zip(guide, guide_mean, strict=True)
        ]
        slope = [_dot(row, covariance) / determinant for row in cofactors]
        offset = target_mean - _dot(slope, guide_mean)
        smooth = _dot([mean(plane) for plane in slope], guide) + mean(offset)
        mask = ((smooth > 0.5) & reach) | core
    return mask


def _dot(
    first: Sequence[NDArray[np.floating]], second: Sequence[NDArray[np.floating]]
) -> NDArray[np.floating]:
    """The scalar product of two vectors of planes, at every pixel."""
    a, b, c = (x * y for x, y in zip(first, second, strict=True))
    return a + b + c


def _touching(drawn: BoolMask, mask: BoolMask) -> BoolMask:
    """The connected pieces that overlap the mask; specks of its colours are left out."""
    count, pieces = cv2.connectedComponents(drawn.astype(np.uint8), connectivity=8)
    kept = np.bincount(pieces[drawn & mask], minlength=count) > 0
    touching: BoolMask = kept[pieces]
    return touching


def _window(box: NDArray[np.float32], margin: int) -> tuple[slice, slice]:
    """Rows and columns around a box, xyxy pixels."""
    x0, y0, x1, y1 = (int(side) for side in box)
    return slice(max(0, y0 - margin), y1 + margin), slice(max(0, x0 - margin), x1 + margin)


def _resized(mask: BoolMask, size: tuple[int, int]) -> BoolMask:
    """(H, W) bool, to `size` (width, height)."""
    if mask.shape == size[::-1]:
        return mask
    shrinks = size[0] < mask.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: BoolMask = cv2.resize(mask.astype(np.float32), size, interpolation=how) > 0.5
    return resized


def _disc(radius: int) -> cv2.typing.MatLike:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
