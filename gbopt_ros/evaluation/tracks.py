"""Tracks of masks: the masks of consecutive frames linked to objects through a recording.

Selection decides frame by frame which masks are objects, not which of them show the same one. Here
the masks of a frame are assigned to the tracks so far by the Hungarian method, for the highest sum
of IoU with each track's last mask, or with where the flow takes it. A track that finds no mask goes
on for a few frames. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import TrackConfig
from gbopt_ros.structures import Rle


@dataclass
class Track:
    """One object through a recording.

    Attributes:
        rles: COCO RLE of each frame that shows it, by the frame's position in the recording.
        score: sum of the scores of its masks, so that what is there for long comes first.
    """

    rles: dict[int, Rle] = field(default_factory=dict)
    score: float = 0.0


@dataclass
class _Active:
    """A track that may go on: where its mask is expected, and how many frames it has missed."""

    track: Track
    expected: Rle
    missed: int = 0


class TrackLinker:
    """Links the masks of one frame after another.

    Args:
        config: of the linking.
    """

    def __init__(self, config: TrackConfig) -> None:
        self._config = config
        self._tracks: list[Track] = []
        self._active: list[_Active] = []
        self._frames = 0

    def add(
        self,
        rles: Sequence[Rle],
        scores: Sequence[float],
        flow: NDArray[np.float32] | None = None,
    ) -> None:
        """Take the next frame.

        Args:
            rles: S masks.
            scores: S scores, higher is better.
            flow: (H, W, 2) float32, pixels (x, y), from this frame back to the one before; None
                leaves masks where they are.
        """
        if flow is not None:
            for active in self._active:
                active.expected = warp(active.expected, flow)
        continued = self._assign(rles)
        for active in self._active:
            active.missed += 1
        for i, rle in enumerate(rles):
            active = continued[i] if i in continued else self._start()
            active.expected, active.missed = rle, 0
            active.track.rles[self._frames] = rle
            active.track.score += float(scores[i])
        self._active = [a for a in self._active if a.missed <= self._config.max_gap]
        self._frames += 1

    def tracks(self) -> tuple[Track, ...]:
        """The `max_tracks` best so far, highest score first; of equal ones the one that is older.

        The linker may go on.
        """
        ranked = sorted(self._tracks, key=lambda track: -track.score)
        return tuple(ranked[: self._config.max_tracks])

    def _start(self) -> _Active:
        track = Track()
        active = _Active(track, mask_ops.encode(np.zeros((1, 1), bool)))
        self._tracks.append(track)
        self._active.append(active)
        return active

    def _assign(self, rles: Sequence[Rle]) -> dict[int, _Active]:
        """The track that each mask continues, for those that continue one."""
        ious = mask_ops.iou_matrix(rles, [active.expected for active in self._active])
        allowed = np.where(ious >= self._config.min_iou, ious, 0.0)
        rows, columns = linear_sum_assignment(allowed, maximize=True)
        pairs = zip(rows, columns, strict=True)
        return {int(i): self._active[j] for i, j in pairs if allowed[i, j] > 0}


def warp(rle: Rle, flow: NDArray[np.float32]) -> Rle:
    """A mask of one frame as it lies in the next.

    Args:
        rle: the mask.
        flow: (H, W, 2) float32, pixels (x, y), from the next frame back to the mask's: a pixel is
            in the mask if the one that it comes from is, to the nearest.
    """
    mask = mask_ops.decode(rle).astype(np.uint8)
    height, width = mask.shape
    x = np.arange(width, dtype=np.float32) + flow[:, :, 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[:, :, 1]
    moved = cv2.remap(mask, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    return mask_ops.encode(moved > 0)


def label_array(tracks: Sequence[Track], frames: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(frames, H, W) uint8: 0 or the number of a track, from 1 for the first of at most 254.

    Args:
        size: (height, width). Where tracks share a pixel, it goes to the one that comes first.
    """
    labels = np.zeros((frames, *size), np.uint8)
    for number in range(len(tracks), 0, -1):
        for frame, rle in tracks[number - 1].rles.items():
            labels[frame][mask_ops.decode(rle)] = number
    return labels
