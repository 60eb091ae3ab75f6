"""The tracks of a recording: masks of several frames that show the same object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import TrackConfig
from gbopt_ros.structures import Rle


@dataclass(frozen=True)
class ScoredMasks:
    """The S masks of a frame.

    Attributes:
        stamp_ns: capture time, nanoseconds.
        scores: higher is better.
    """

    stamp_ns: int
    rles: Sequence[Rle] = field(repr=False)
    scores: Sequence[float]


@dataclass
class Track:
    """One object through a recording.

    Attributes:
        rles: COCO RLE by the frame's position in the recording.
        score: sum of the scores of its masks, so that long tracks come first.
    """

    rles: dict[int, Rle] = field(default_factory=dict)
    score: float = 0.0


def link_tracks(frames: Iterable[ScoredMasks], config: TrackConfig) -> tuple[Track, ...]:
    """The `max_tracks` best tracks of a recording, highest score first, the older one on a tie."""
    linker = config.linker()
    tracks: dict[int, Track] = {}
    for position, frame in enumerate(frames):
        ids = linker.link(frame.rles, frame.stamp_ns)
        for number, rle, score in zip(ids, frame.rles, frame.scores, strict=True):
            track = tracks.setdefault(number, Track())
            track.rles[position] = rle
            track.score += float(score)
    ranked = sorted(tracks.items(), key=lambda item: (-item[1].score, item[0]))
    return tuple(track for _, track in ranked[: config.max_tracks])


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
