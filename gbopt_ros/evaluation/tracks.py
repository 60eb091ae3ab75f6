"""Tracks: masks of consecutive frames that show the same object, linked by their overlap.

The masks of a frame are assigned to the tracks by the Hungarian method, for the highest sum of IoU
with the last mask of each track. A track may miss a few frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
        rles: COCO RLE by the frame's position in the recording.
        score: sum of the scores of its masks, so that long tracks come first.
    """

    rles: dict[int, Rle] = field(default_factory=dict)
    score: float = 0.0


@dataclass
class _Active:
    """A track that may continue, with its last mask and the number of missed frames."""

    track: Track
    last: Rle
    missed: int = 0


class TrackLinker:
    """Links the masks of one frame after another."""

    def __init__(self, config: TrackConfig) -> None:
        self._config = config
        self._tracks: list[Track] = []
        self._active: list[_Active] = []
        self._frames = 0

    def add(self, rles: Sequence[Rle], scores: Sequence[float]) -> None:
        """Take the next frame.

        Args:
            rles: S masks.
            scores: S scores, higher is better.
        """
        continued = self._assign(rles)
        for active in self._active:
            active.missed += 1
        for i, rle in enumerate(rles):
            active = continued[i] if i in continued else self._start()
            active.last, active.missed = rle, 0
            active.track.rles[self._frames] = rle
            active.track.score += float(scores[i])
        self._active = [a for a in self._active if a.missed <= self._config.max_gap]
        self._frames += 1

    def tracks(self) -> tuple[Track, ...]:
        """The `max_tracks` best tracks so far, highest score first, the older one on a tie."""
        ranked = sorted(self._tracks, key=lambda track: -track.score)
        return tuple(ranked[: self._config.max_tracks])

    def _start(self) -> _Active:
        track = Track()
        active = _Active(track, mask_ops.encode(np.zeros((1, 1), bool)))
        self._tracks.append(track)
        self._active.append(active)
        return active

    def _assign(self, rles: Sequence[Rle]) -> dict[int, _Active]:
        """The tracks that masks continue, by the index of the mask."""
        ious = mask_ops.iou_matrix(rles, [active.last for active in self._active])
        allowed = np.where(ious >= self._config.min_iou, ious, 0.0)
        rows, columns = linear_sum_assignment(allowed, maximize=True)
        pairs = zip(rows, columns, strict=True)
        return {int(i): self._active[j] for i, j in pairs if allowed[i, j] > 0}


def label_array(tracks: Sequence[Track], frames: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(frames, H, W) uint8: 0 or the number of a track, from 1; there may be 254.

    A pixel of several tracks goes to the first of them.

    Args:
        size: (height, width) in pixels.
    """
    labels = np.zeros((frames, *size), np.uint8)
    for number in range(len(tracks), 0, -1):
        for frame, rle in tracks[number - 1].rles.items():
            labels[frame][mask_ops.decode(rle)] = number
    return labels
