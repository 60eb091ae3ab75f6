"""Ids over time: masks that show the same object in several frames get the same track id.

Online: a frame is linked when it comes, to what earlier frames showed. Masks are matched one to
one, for the highest sum of IoU (Hungarian method), with the last mask of each track, where it was
and where its motion would have moved it. What is left is matched by boxes that are enlarged: small
objects that move fast overlap their last mask no more (as C-BIoU, Yang et al., WACV 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.structures import BoolMask, Rle

Boxes = NDArray[np.float64]
"""(S, 4) or (4,), xyxy pixels."""

NO_TRACK = 0
"""The id of a mask without a track; ids are counted from 1."""

MIN_IOU = 0.15
"""The default of `tracks.min_iou`."""

MAX_GAP_S = 3.0
"""The default of `tracks.max_gap_s`."""

_MARGIN = 0.5  # by which boxes grow at each side, in sides of the box
_MIN_AREA_RATIO = 0.5  # of two masks that are matched by boxes alone
_INERTIA = 0.5  # share of the old velocity in the new one


@dataclass(frozen=True, eq=False)
class _Region:
    """A mask, cut out: pixels outside of its box cost nothing.

    Attributes:
        pixels: (h, w) bool, the inside of the box.
        box: (4,) float64, xyxy pixels, right and bottom exclusive.
        area: pixels.
    """

    pixels: BoolMask
    box: Boxes
    area: int

    def iou(self, other: _Region, way: NDArray[np.float64]) -> float:
        """IoU with another mask that has moved by `way`, (x, y) whole pixels."""
        box = other.box + np.tile(way, 2)
        x0, y0 = np.maximum(self.box[:2], box[:2]).astype(int)
        x1, y1 = np.minimum(self.box[2:], box[2:]).astype(int)
        mine, theirs = (
            pixels[y0 - int(top) : y1 - int(top), x0 - int(left) : x1 - int(left)]
            for pixels, (left, top) in ((self.pixels, self.box[:2]), (other.pixels, box[:2]))
        )
        shared = int(np.count_nonzero(mine & theirs))
        return shared / (self.area + other.area - shared)


@dataclass(eq=False)
class _Track:
    """What is known of an object.

    Attributes:
        last: its last mask.
        stamp_ns: capture time of its frame, nanoseconds.
        velocity: (2,) x and y, pixels a second; None while it has one mask only.
    """

    id: int
    last: _Region
    stamp_ns: int
    velocity: NDArray[np.float64] | None = None

    def age_s(self, stamp_ns: int) -> float:
        """Seconds from its last mask to a later stamp."""
        return (stamp_ns - self.stamp_ns) / 1e9

    def way(self, stamp_ns: int) -> NDArray[np.float64]:
        """How far its motion takes it from its last mask, (x, y) whole pixels."""
        if self.velocity is None:
            return np.zeros(2)
        return np.asarray(np.rint(self.velocity * self.age_s(stamp_ns)))

    def take(self, region: _Region, stamp_ns: int) -> None:
        """Continue with a later mask."""
        way = (region.box[:2] + region.box[2:] - self.last.box[:2] - self.last.box[2:]) / 2
        velocity = way / self.age_s(stamp_ns)
        if self.velocity is not None:
            velocity = _INERTIA * self.velocity + (1 - _INERTIA) * velocity
        self.last, self.stamp_ns, self.velocity = region, stamp_ns, velocity


class TrackLinker:
    """Gives the masks of one frame after another their track ids.

    Ids are counted from 1, and never given to a second object. They do not depend on the order of
    the masks of a frame: new ones are numbered from left to right.

    Attributes:
        min_iou: smallest IoU of a mask, or of an enlarged box, with that of its track.
        max_gap_s: longest time between two masks of a track, seconds. Both may be replaced between
            two frames.
    """

    def __init__(self, min_iou: float = MIN_IOU, max_gap_s: float = MAX_GAP_S) -> None:
        self.min_iou, self.max_gap_s = min_iou, max_gap_s
        self._tracks: list[_Track] = []
        self._size: list[int] = []
        self._stamp_ns: int | None = None
        self._count = 0

    def link(self, rles: Sequence[Rle], stamp_ns: int, *, after_cut: bool = False) -> list[int]:
        """Take the S masks of the next frame.

        All tracks end at a cut, and if the stamp is not after the one before, or the masks have
        another size.

        Args:
            rles: may be empty.
            stamp_ns: capture time of the frame, nanoseconds.
            after_cut: whether there is a cut between the frame before and this one.

        Returns:
            S ids, no two alike.
        """
        size = list(rles[0]["size"]) if rles else self._size
        jumped_back = self._stamp_ns is not None and stamp_ns <= self._stamp_ns
        if after_cut or jumped_back or size != self._size:
            self.forget()
        self._stamp_ns, self._size = stamp_ns, size
        self._tracks = [t for t in self._tracks if t.age_s(stamp_ns) <= self.max_gap_s]
        boxes = mask_ops.boxes_xyxy(rles).astype(np.float64)
        crops = mask_ops.decode_crops(rles, boxes)
        order = sorted(range(len(rles)), key=lambda i: (*boxes[i], rles[i]["counts"]))
        regions = [_Region(crops[i], boxes[i], int(np.count_nonzero(crops[i]))) for i in order]
        continued = self._match(regions, stamp_ns)
        ids = [NO_TRACK] * len(rles)
        for place, region in enumerate(regions):
            if place in continued:
                track = continued[place]
                track.take(region, stamp_ns)
            else:
                self._count += 1
                track = _Track(self._count, region, stamp_ns)
                self._tracks.append(track)
            ids[order[place]] = track.id
        return ids

    def forget(self) -> None:
        """End all tracks, as at the start of another recording. No id is given again."""
        self._tracks = []

    def _match(self, regions: Sequence[_Region], stamp_ns: int) -> dict[int, _Track]:
        """The tracks that masks continue, by the index of the mask."""
        # Imported here: nodes start sooner, and a learner does without its 40 MB.
        from scipy.optimize import linear_sum_assignment

        matched: dict[int, _Track] = {}
        for likeness in (_mask_ious, _box_ious):
            free = [i for i in range(len(regions)) if i not in matched]
            lost = [track for track in self._tracks if track not in matched.values()]
            if not free or not lost:
                break
            left = [regions[i] for i in free]
            ways = [track.way(stamp_ns) for track in lost]
            values = likeness(left, lost, [np.zeros(2)] * len(lost))
            if np.any(ways):
                values = np.maximum(values, likeness(left, lost, ways))
            values[values < self.min_iou] = 0.0
            pairs = zip(*linear_sum_assignment(values, maximize=True), strict=True)
            matched |= {free[row]: lost[column] for row, column in pairs if values[row, column] > 0}
        return matched


def _mask_ious(
    regions: Sequence[_Region], tracks: Sequence[_Track], ways: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """(S, M) IoU of S masks with the last masks of M tracks, each moved by its way."""
    ious = _shared_areas(_boxes(regions), _moved_boxes(tracks, ways))
    for i, j in np.argwhere(ious > 0):
        ious[i, j] = regions[i].iou(tracks[j].last, ways[j])
    return ious


def _box_ious(
    regions: Sequence[_Region], tracks: Sequence[_Track], ways: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """As `_mask_ious`, of enlarged boxes; 0 where the areas of the masks differ too much."""
    first, second = _enlarged(_boxes(regions)), _enlarged(_moved_boxes(tracks, ways))
    shared = _shared_areas(first, second)
    sizes = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    areas = np.array([region.area for region in regions])[:, None]  # (S, 1)
    others = np.array([track.last.area for track in tracks])  # (M,)
    alike = np.minimum(areas, others) >= _MIN_AREA_RATIO * np.maximum(areas, others)
    union = sizes[0][:, None] + sizes[1] - shared
    return np.where(alike & (union > 0), shared / np.maximum(union, 1), 0.0)


def _boxes(regions: Sequence[_Region]) -> Boxes:
    return np.stack([region.box for region in regions])


def _moved_boxes(tracks: Sequence[_Track], ways: Sequence[NDArray[np.float64]]) -> Boxes:
    return _boxes([track.last for track in tracks]) + np.tile(np.stack(ways), 2)


def _shared_areas(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """(S, M) pixels that each of S boxes shares with each of M."""
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:], second[:, 2:])
    return np.asarray(np.prod(np.maximum(high - low, 0), axis=2))


def _enlarged(boxes: Boxes) -> Boxes:
    margins = _MARGIN * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - margins, boxes[:, 2:] + margins], axis=1)
