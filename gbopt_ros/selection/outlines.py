"""New outlines of selected masks by GrabCut (Rother et al. 2004).

The mask head draws every object on 28 x 28 cells and was trained on the outlines of seen classes.
The image often shows better where an object ends. GrabCut decides the pixels of a band around the
outline by the colours on both sides and by edges. Beyond the band nothing changes.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import OutlineConfig
from gbopt_ros.structures import BoolMask, FrameSelection, Image, Selection

# In units of the square root of the mask's area: the error of a mask head grows with the object.
_BAND_OUTSIDE, _BAND_INSIDE = 0.1, 0.05
_CONTEXT = 0.5  # width around the band that shows the colours of the background
_WORKING_SIDE = 96  # pixels; larger masks are shrunk to a square of this side
_WORKING_WINDOW = (
    3 * _WORKING_SIDE
)  # pixels, the same for the window: bounds the time of thin masks
_MIN_AREA = 20  # pixels; the colours of smaller masks cannot be modelled
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
    covered = masks.sum(axis=0)
    drawn = np.stack([_redraw(frame.frame.image, m, covered - m > 0) for m in masks])
    rles = mask_ops.encode_all(mask_ops.make_exclusive(drawn, frame.scores))
    return replace(frame, rles=rles, boxes=mask_ops.boxes_xyxy(rles))


def _redraw(image: Image, mask: BoolMask, others: BoolMask) -> BoolMask:
    """A new outline for one mask, outside `others`; the mask itself where no edge is found."""
    side = float(np.sqrt(np.count_nonzero(mask)))
    if side * side < _MIN_AREA:
        return mask
    window = _window(mask, round((_BAND_OUTSIDE + _CONTEXT) * side))
    patch, object_, taken = image[window], mask[window], others[window]
    height, width = object_.shape
    scale = min(1.0, _WORKING_SIDE / side, _WORKING_WINDOW / float(np.sqrt(height * width)))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        patch = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
        object_, taken = _resized(object_, size), _resized(taken, size)
    cut = _cut(patch, object_, taken, side * scale)
    if cut is None:
        return mask
    drawn = np.zeros_like(mask)
    drawn[window] = _touching(_resized(cut, (width, height)) & ~others[window], mask[window])
    same = np.count_nonzero(drawn & mask) >= _SAME_OBJECT * np.count_nonzero(drawn | mask)
    return drawn if same else mask


def _cut(patch: Image, mask: BoolMask, others: BoolMask, side: float) -> BoolMask | None:
    """GrabCut on a patch; None where object and background cannot be told apart."""
    if int(np.ptp(patch, axis=(0, 1)).max()) < _MIN_CONTRAST:
        return None
    object_ = mask.astype(np.uint8)
    core = cv2.erode(object_, _disc(max(1, round(_BAND_INSIDE * side)))) > 0
    reach = cv2.dilate(object_, _disc(max(2, round(_BAND_OUTSIDE * side)))) > 0
    labels = np.full(mask.shape, cv2.GC_BGD, np.uint8)
    labels[reach] = cv2.GC_PR_BGD
    labels[mask] = cv2.GC_PR_FGD
    labels[core] = cv2.GC_FGD
    labels[others] = cv2.GC_BGD
    known = np.count_nonzero((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))
    if min(known, labels.size - known) < _MIN_AREA:
        return None
    cv2.setRNGSeed(0)  # GrabCut starts from k-means, which draws its centres
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(patch), labels, None, *models, 1, cv2.GC_INIT_WITH_MASK)
    drawn: BoolMask = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return drawn


def _touching(drawn: BoolMask, mask: BoolMask) -> BoolMask:
    """The connected pieces that overlap the mask; specks of its colours are left out."""
    _, pieces = cv2.connectedComponents(drawn.astype(np.uint8), connectivity=8)
    return drawn & np.isin(pieces, np.unique(pieces[drawn & mask]))


def _window(mask: BoolMask, margin: int) -> tuple[slice, slice]:
    """Rows and columns around a mask."""
    spans = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    rows, columns = (slice(max(0, int(s[0]) - margin), int(s[-1]) + 1 + margin) for s in spans)
    return rows, columns


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
