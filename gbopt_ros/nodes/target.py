"""Which selected masks `~/output/segmask` shows, for planners that take one mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gbopt_ros import masks as mask_ops
from gbopt_ros.srv import SetTarget
from gbopt_ros.structures import FrameSelection, GboptError, Rle

_NAMES = {
    SetTarget.Request.MODE_ALL: "every selected mask",
    SetTarget.Request.MODE_MOST_CONFIDENT: "the most confident mask",
    SetTarget.Request.MODE_LARGEST: "the largest mask",
    SetTarget.Request.MODE_INDEX: "the mask at an index",
    SetTarget.Request.MODE_POINT: "the mask under a point",
}
_MIN_IOU = 0.1  # with the mask of the previous frame; below it is another object


@dataclass
class Target:
    """The choice of an operator, applied frame by frame.

    Attributes:
        mode: `SetTarget.MODE_*`.
        index: for MODE_INDEX.
        point: (x, y) pixels, for MODE_POINT.
    """

    mode: int = SetTarget.Request.MODE_ALL
    index: int = 0
    point: tuple[float, float] = (0.0, 0.0)
    _followed: Rle | None = field(default=None, repr=False)

    @classmethod
    def from_request(cls, request: SetTarget.Request) -> Target:
        """Raises GboptError for an unknown mode or a point left of or above the image."""
        if request.mode not in _NAMES:
            raise GboptError(f"mode {request.mode}: expected one of SetTarget.MODE_*, 0 to 4")
        if request.mode == SetTarget.Request.MODE_POINT and not (
            0 <= request.x < np.inf and 0 <= request.y < np.inf
        ):
            raise GboptError(f"point ({request.x}, {request.y}): expected pixels, at least 0")
        return cls(request.mode, request.index, (request.x, request.y))

    def __str__(self) -> str:
        detail = {
            SetTarget.Request.MODE_INDEX: f" {self.index}",
            SetTarget.Request.MODE_POINT: f" ({self.point[0]:g}, {self.point[1]:g})",
        }
        return _NAMES[self.mode] + detail.get(self.mode, "")

    def choose(self, selection: FrameSelection) -> Sequence[Rle]:
        """The masks of a frame to show; none if the target is not in it."""
        rles, request = selection.rles, SetTarget.Request
        if not rles or self.mode == request.MODE_ALL:
            return rles
        if self.mode == request.MODE_MOST_CONFIDENT:
            return (rles[int(np.lexsort((-selection.scores, -selection.confidences))[0])],)
        if self.mode == request.MODE_LARGEST:
            return (rles[int(mask_ops.areas(rles).argmax())],)
        if self.mode == request.MODE_INDEX:
            return rles[self.index : self.index + 1]
        return self._follow(rles)

    def _follow(self, rles: Sequence[Rle]) -> Sequence[Rle]:
        """First the mask under the point, then in each frame the one that overlaps it most."""
        if self._followed is not None and self._followed["size"] == rles[0]["size"]:
            overlaps = mask_ops.iou_matrix([self._followed], rles)[0]
            best = int(overlaps.argmax())
            if overlaps[best] < _MIN_IOU:
                return ()
        else:
            hit = [i for i, rle in enumerate(rles) if self._covers_point(rle)]
            if not hit:
                return ()
            best = hit[0]
        self._followed = rles[best]
        return (rles[best],)

    def _covers_point(self, rle: Rle) -> bool:
        x, y = int(self.point[0]), int(self.point[1])
        height, width = rle["size"]
        return x < width and y < height and bool(mask_ops.decode(rle)[y, x])
