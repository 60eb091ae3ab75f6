"""Which selected masks `~/output/segmask` shows, for planners that take one mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gbopt_ros import masks as mask_ops
from gbopt_ros.srv import SetTarget
from gbopt_ros.structures import FrameSelection, GboptError, Rle
from gbopt_ros.tracks import NO_TRACK

_NAMES = {
    SetTarget.Request.MODE_ALL: "every selected mask",
    SetTarget.Request.MODE_MOST_CONFIDENT: "the most confident mask",
    SetTarget.Request.MODE_LARGEST: "the largest mask",
    SetTarget.Request.MODE_INDEX: "the mask at an index",
    SetTarget.Request.MODE_POINT: "the mask under a point",
    SetTarget.Request.MODE_TRACK: "the mask of track",
}


@dataclass
class Target:
    """The choice of an operator, applied frame by frame.

    Attributes:
        mode: `SetTarget.MODE_*`.
        index: for MODE_INDEX.
        point: (x, y) pixels, for MODE_POINT.
        track_id: for MODE_TRACK; with MODE_POINT the track that was under the point, once one was.
    """

    mode: int = SetTarget.Request.MODE_ALL
    index: int = 0
    point: tuple[float, float] = (0.0, 0.0)
    track_id: int = NO_TRACK

    @classmethod
    def from_request(cls, request: SetTarget.Request) -> Target:
        """Raises GboptError for an unknown mode, no point of an image, or no track."""
        if request.mode not in _NAMES:
            raise GboptError(f"mode {request.mode}: expected one of SetTarget.MODE_*, 0 to 5")
        if request.mode == SetTarget.Request.MODE_POINT and not (
            0 <= request.x < np.inf and 0 <= request.y < np.inf
        ):
            raise GboptError(f"point ({request.x}, {request.y}): expected pixels, at least 0")
        if request.mode != SetTarget.Request.MODE_TRACK:
            return cls(request.mode, request.index, (request.x, request.y))
        if request.track_id == NO_TRACK:
            raise GboptError("track_id 0: expected the track_id of a selected mask, from 1")
        return cls(request.mode, track_id=request.track_id)

    def __str__(self) -> str:
        detail = {
            SetTarget.Request.MODE_INDEX: f" {self.index}",
            SetTarget.Request.MODE_POINT: f" ({self.point[0]:g}, {self.point[1]:g})",
            SetTarget.Request.MODE_TRACK: f" {self.track_id}",
        }
        return _NAMES[self.mode] + detail.get(self.mode, "")

    def choose(self, selection: FrameSelection, track_ids: Sequence[int]) -> Sequence[Rle]:
        """The masks of a frame to show; none if the target is not in it.

        Args:
            track_ids: S, one for each selected mask.
        """
        rles, request = selection.rles, SetTarget.Request
        if not rles or self.mode == request.MODE_ALL:
            return rles
        if self.mode == request.MODE_MOST_CONFIDENT:
            return (rles[int(np.lexsort((-selection.scores, -selection.confidences))[0])],)
        if self.mode == request.MODE_LARGEST:
            return (rles[int(mask_ops.areas(rles).argmax())],)
        if self.mode == request.MODE_INDEX:
            return rles[self.index : self.index + 1]
        if self.mode == request.MODE_POINT and self.track_id == NO_TRACK:
            hit = [i for i, rle in enumerate(rles) if self._covers_point(rle)]
            self.track_id = track_ids[hit[0]] if hit else NO_TRACK
        return [rle for rle, i in zip(rles, track_ids, strict=True) if i == self.track_id]

    def _covers_point(self, rle: Rle) -> bool:
        x, y = int(self.point[0]), int(self.point[1])
        height, width = rle["size"]
        return x < width and y < height and bool(mask_ops.decode(rle)[y, x])
