"""The confidence of a selected mask: how probable it is that the mask shows an object.

Not in the paper.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.structures import Calibration, FrameSelection, Selection
from gbopt_ros.tracks import TrackLinker

# Weight of a frame in which a track has no mask. It is small, since objects leave the view.
_ABSENT = 0.1


def confidence(
    margins: NDArray[np.float64], scores: NDArray[np.floating], calibration: Calibration | None
) -> NDArray[np.float32]:
    """The probability that a selected mask has an IoU of at least 0.5 with an object.

    It is a logistic model of the margin and the network score. `gbopt calibrate` fits it on
    recordings with ground truth, for one proposal network.

    Args:
        margins: (S,) >= 0, additional cost of the best path without the mask.
        scores: (S,) in [0, 1], network scores.
        calibration: the fitted model; with None the confidences are the scores.

    Returns:
        (S,) float32 in [0, 1].
    """
    if calibration is None:
        return np.clip(scores.astype(np.float32), 0, 1)  # rounding may take scores beyond
    weights = np.array([calibration.margin, calibration.score])
    logit = calibration.bias + confidence_features(margins, scores) @ weights
    probability: NDArray[np.float32] = (1.0 / (1.0 + np.exp(-logit))).astype(np.float32)
    return probability


def confidence_features(
    margins: NDArray[np.float64], scores: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(S, 2) float64, the features of the model: log(1 + 10,000 margin) and logit(score)."""
    clipped = np.clip(scores.astype(np.float64), 1e-3, 1 - 1e-3)
    return np.column_stack([np.log1p(1e4 * margins), np.log(clipped / (1 - clipped))])


class TrackConfidence:
    """The confidence of a mask from all masks of its track in the clip.

    They show the same object, so they are right or wrong together. A track with the confidences c
    in n of T frames has (sum of c) / (n + 0.1 (T - n)): what is seldom selected is less often an
    object. T counts the frames of the clip, from one cut to the next, and no track goes over a cut.
    In a clip of one frame, and among photographs, nothing changes.

    Args:
        linker: without tracks yet.
    """

    def __init__(self, linker: TrackLinker) -> None:
        self._linker = linker
        self._lengths = [0]  # frames of each scene, between cuts
        self._found: dict[int, tuple[int, list[float]]] = {}  # scene and confidences of each track

    def add(self, frame: FrameSelection) -> list[int]:
        """Take the next frame of the clip; returns the track ids of its masks."""
        if frame.after_cut:
            self._lengths.append(0)
        self._lengths[-1] += 1
        ids = self._linker.link(frame.rles, frame.frame.stamp_ns, after_cut=frame.after_cut)
        for track, value in zip(ids, frame.confidences.tolist(), strict=True):
            _, found = self._found.setdefault(track, (len(self._lengths) - 1, []))
            found.append(value)
        return ids

    def apply(self, frame: FrameSelection, ids: list[int]) -> FrameSelection:
        """The frame with the confidences of its tracks, by all frames that were taken."""
        values = [self._of(*self._found[track]) for track in ids]
        return replace(frame, confidences=np.array(values, np.float32))

    def _of(self, scene: int, found: list[float]) -> float:
        return sum(found) / (len(found) + _ABSENT * (self._lengths[scene] - len(found)))


def with_track_confidence(selection: Selection, linker: TrackLinker) -> Selection:
    """The selection of a clip with the confidences of `TrackConfidence`, by all its frames."""
    tracks = TrackConfidence(linker)
    ids = [tracks.add(frame) for frame in selection.frames]
    frames = tuple(map(tracks.apply, selection.frames, ids))
    return replace(selection, frames=frames)
