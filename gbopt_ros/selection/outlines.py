"""New outlines of selected masks by a guided filter.

The mask head draws every object on 28 x 28 cells and was trained on the outlines of seen classes.
The image often shows better where an object ends. Only a band around the outline changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import OutlineConfig
from gbopt_ros.selection.guided_filter import (
    MaskToFilter,
    apply_guided_filter,
    fit_guided_filters,
)
from gbopt_ros.structures import BoolMask, FrameSelection, Image, Selection

T = TypeVar("T", bound=np.generic)

_MARGIN = 0.25  # around the mask, in units of its side; more context changed nothing
# Sides of masks, pixels: larger ones are shrunk where the filter is fitted and where it is applied.
_FIT_SIDE, _APPLY_SIDE = 32, 64
_LARGEST_WINDOW = 3  # in these units, the side of a square; it bounds the time of thin masks
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
    windows = _windows(frame)
    patches = {
        number: patch
        for number, window in enumerate(windows)
        if window.area >= _MIN_AREA and _has_contrast(patch := window.patch(frame.frame.image))
    }
    fitted = fit_guided_filters([windows[i].to_fit(patch) for i, patch in patches.items()])
    masks = [window.mask for window in windows]
    for (number, patch), fit in zip(patches.items(), fitted, strict=True):
        masks[number] = windows[number].redrawn(apply_guided_filter(fit, patch))
    drawn = np.zeros(frame.frame.size, np.int16)
    # The mask with the highest score is painted last; of equal scores that with the lowest index.
    for number in np.lexsort((-np.arange(len(frame)), frame.scores)):
        drawn[windows[number].place][masks[number]] = number + 1
    rles = mask_ops.encode_labels(drawn, len(frame))
    return replace(frame, rles=rles, boxes=mask_ops.boxes_xyxy(rles))


@dataclass(frozen=True)
class _Window:
    """A mask and what surrounds it.

    Attributes:
        place: rows and columns of the frame.
        mask: (h, w) bool.
        others: (h, w) bool, the pixels of other masks.
        area: of the mask, pixels.
    """

    place: tuple[slice, slice]
    mask: BoolMask
    others: BoolMask
    area: int

    @property
    def side(self) -> float:
        return float(np.sqrt(self.area))

    def size_at(self, side: int) -> tuple[int, int]:
        """(width, height) of the window when the mask is shrunk to a square of this side."""
        height, width = self.mask.shape
        scale = min(1.0, side / self.side, _LARGEST_WINDOW * side / float(np.sqrt(height * width)))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def patch(self, image: Image) -> Image:
        """The window of a frame's image at the size where the filter is applied."""
        return _shrunk(image[self.place], self.size_at(_APPLY_SIDE))

    def to_fit(self, patch: Image) -> MaskToFilter:
        """The mask at the size where the filter is fitted."""
        size = self.size_at(_FIT_SIDE)
        mask = _shrunk(self.mask.astype(np.float32), size)
        return MaskToFilter(_shrunk(patch, size), mask, self.side * size[0] / self.mask.shape[1])

    def redrawn(self, filtered: NDArray[np.float32]) -> BoolMask:
        """A new mask outside `others`; the mask itself if too little of it would be left.

        Args:
            filtered: (h', w'), more than a half where the new mask is.
        """
        drawn = cv2.resize(filtered, self.mask.shape[::-1]) > 0.5
        drawn = _touching(drawn & ~self.others, self.mask)
        shared, either = np.count_nonzero(drawn & self.mask), np.count_nonzero(drawn | self.mask)
        return drawn if shared >= _SAME_OBJECT * either else self.mask


def _windows(frame: FrameSelection) -> list[_Window]:
    height, width = frame.frame.size
    areas = mask_ops.areas(frame.rles)
    margins = np.rint(_MARGIN * np.sqrt(areas))[:, None] * (-1, -1, 1, 1)
    boxes = np.clip(frame.boxes + margins, 0, (width, height, width, height)).astype(int)
    masks = mask_ops.decode_crops(frame.rles, boxes)
    places = [(slice(y0, y1), slice(x0, x1)) for x0, y0, x1, y1 in boxes.tolist()]
    covering = np.zeros(frame.frame.size, np.uint16)  # number of masks
    for place, mask in zip(places, masks, strict=True):
        covering[place] += mask
    return [
        _Window(place, mask, covering[place] > mask, area)
        for place, mask, area in zip(places, masks, areas.tolist(), strict=True)
    ]


def _has_contrast(patch: Image) -> bool:
    extremes = (cv2.minMaxLoc(channel)[:2] for channel in cv2.split(patch))
    return any(high - low >= _MIN_CONTRAST for low, high in extremes)


def _touching(drawn: BoolMask, mask: BoolMask) -> BoolMask:
    """The connected pieces that overlap the mask; specks of its colours are left out."""
    count, pieces = cv2.connectedComponents(drawn.view(np.uint8), connectivity=8)
    kept = np.bincount(pieces[drawn & mask], minlength=count) > 0
    touching: BoolMask = kept[pieces]
    return touching


def _shrunk(values: NDArray[T], size: tuple[int, int]) -> NDArray[T]:
    """An image or a map (h, w, ...) at `size` (width, height)."""
    if values.shape[1::-1] == size:
        return values
    # Down to half the size four pixels are enough for a value, and several times as fast.
    area = 2 * size[0] < values.shape[1]
    return np.asarray(
        cv2.resize(values, size, interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR)
    )
