"""J and F of DAVIS 2017 unsupervised, the metrics of the paper's Table 3.

Region similarity J and contour accuracy F: Perazzi et al., "A Benchmark Dataset and Evaluation
Methodology for Video Object Segmentation" (CVPR 2016). Up to 20 proposals a sequence, matched one
to one with the objects: Caelles et al., "The 2019 DAVIS Challenge on VOS: Unsupervised Multi-Object
Segmentation" (2019). Numbers equal those of the official evaluation, with two exceptions: its decay
counts frames modulo 256, and where the numbers of objects have gaps, which those of DAVIS have not,
it takes each missing number for an object, found by every proposal without pixels.

Shape letters: T frames, H, W pixels, G objects, P proposals.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from gbopt_ros.io.datasets.davis import VOID, LabelImage
from gbopt_ros.structures import BoolMask, GboptError

MAX_PROPOSALS = 20
BOUNDARY_TOLERANCE = 0.008  # of the image's diagonal, rounded up to pixels
_RECALL_THRESHOLD = 0.5
_QUARTERS = 4


class FrameStatistics(NamedTuple):
    """A measure over the frames of an object, percent.

    Attributes:
        mean: mean of all frames.
        recall: share of frames above one half.
        decay: mean of the first quarter of the frames minus mean of the last quarter.
    """

    mean: float
    recall: float
    decay: float


@dataclass(frozen=True)
class ObjectScore:
    """One object of the ground truth and its matched proposal.

    Attributes:
        sequence: name of the sequence.
        object_id: number of the object in the labels.
        proposal: number of the proposal, from 1; where there are fewer proposals than objects, it
            may be one without pixels.
        J, F: statistics over the frames.
    """

    sequence: str
    object_id: int
    proposal: int
    J: FrameStatistics
    F: FrameStatistics


@dataclass(frozen=True)
class DavisMetrics:
    """Means over all objects of all sequences, percent.

    Attributes:
        JF: mean of `J` and `F`.
        J, J_recall, J_decay: region similarity.
        F, F_recall, F_decay: contour accuracy.
    """

    JF: float
    J: float
    J_recall: float
    J_decay: float
    F: float
    F_recall: float
    F_decay: float


def score_sequence(
    labels: NDArray[np.uint8], proposals: NDArray[np.uint8], sequence: str = ""
) -> tuple[ObjectScore, ...]:
    """Match proposals with objects for the highest sum of J + F, and score every object.

    The objects are those of the first frame, as in the benchmark; pixels with another number in
    later frames are background.

    Args:
        labels: (T, H, W) uint8 ground truth, `VOID` where it is undecided.
        proposals: (T, H, W) uint8, 0 or the number of a proposal, 1 to `MAX_PROPOSALS`.

    Raises:
        GboptError: shapes differ, the first frame has no object, or there are too many proposals.
    """
    numbers, tracks = _counts(labels, proposals, sequence)
    objects, places = len(numbers), np.zeros(VOID + 1, np.uint8)
    places[numbers] = np.arange(1, objects + 1)
    j = np.empty((tracks, objects, len(labels)))
    f = np.empty_like(j)
    for t, (label, proposal) in enumerate(zip(labels, proposals, strict=True)):
        truth = places[label]
        masked = np.where(label == VOID, 0, proposal).astype(np.uint8)
        j[:, :, t] = region_similarity(masked, truth, tracks, objects)
        f[:, :, t] = contour_accuracy(masked, truth, tracks, objects)
    rows, columns = linear_sum_assignment((j.mean(axis=2) + f.mean(axis=2)) / 2, maximize=True)
    scores = [
        ObjectScore(
            sequence,
            int(numbers[g]),
            int(p) + 1,
            frame_statistics(j[p, g]),
            frame_statistics(f[p, g]),
        )
        for p, g in zip(rows, columns, strict=True)
    ]
    return tuple(sorted(scores, key=lambda score: score.object_id))


def _counts(
    labels: NDArray[np.uint8], proposals: NDArray[np.uint8], sequence: str
) -> tuple[NDArray[np.uint8], int]:
    """(G,) numbers of the objects, and P, at least G: missing proposals count as empty ones."""
    if labels.shape != proposals.shape or labels.ndim != 3 or len(labels) == 0:
        raise GboptError(
            f"{sequence}: expected labels and proposals of one shape (frames, height, width), got "
            f"{labels.shape} and {proposals.shape}"
        )
    numbers = np.setdiff1d(labels[0], np.array([0, VOID], np.uint8))
    if len(numbers) == 0:
        raise GboptError(f"{sequence}: no object in the first frame of its labels")
    tracks = int(proposals.max())
    if tracks > MAX_PROPOSALS:
        raise GboptError(
            f"{sequence}: a proposal has the number {tracks}; at most {MAX_PROPOSALS} proposals "
            "are allowed, numbered from 1"
        )
    return numbers, max(tracks, len(numbers))


def region_similarity(
    proposals: LabelImage, objects: LabelImage, p: int, g: int
) -> NDArray[np.float64]:
    """J: intersection over union of every pair, 1 where both masks are empty.

    Args:
        proposals: (H, W) numbers up to `p`.
        objects: (H, W) numbers up to `g`.

    Returns:
        (P, G) in [0, 1].
    """
    pairs = proposals.ravel().astype(np.int64) * (g + 1) + objects.ravel()
    table = np.bincount(pairs, minlength=(p + 1) * (g + 1)).reshape(p + 1, g + 1)
    intersection = table[1:, 1:]
    union = table.sum(axis=1)[1:, None] + table.sum(axis=0)[None, 1:] - intersection
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))


def contour_accuracy(
    proposals: LabelImage, objects: LabelImage, p: int, g: int
) -> NDArray[np.float64]:
    """F: harmonic mean of precision and recall of the contour pixels of every pair.

    A contour pixel counts as found if the other contour has a pixel within `BOUNDARY_TOLERANCE`.
    1 where both contours are empty, 0 where one is.

    Args:
        proposals: (H, W) numbers up to `p`.
        objects: (H, W) numbers up to `g`.

    Returns:
        (P, G) in [0, 1].
    """
    radius = int(np.ceil(BOUNDARY_TOLERANCE * np.hypot(*objects.shape)))
    found = [_Contour.of(proposals == i, radius) for i in range(1, p + 1)]
    true = [_Contour.of(objects == i, radius) for i in range(1, g + 1)]
    return np.array([[_f_measure(a, b) for b in true] for a in found])


@dataclass(frozen=True)
class _Contour:
    """The contour of a mask.

    Attributes:
        pixels: (C,) positions in the flattened image.
        near: (H W,) bool, within the tolerance of a contour pixel.
    """

    pixels: NDArray[np.int64]
    near: NDArray[np.bool_]

    @classmethod
    def of(cls, mask: BoolMask, radius: int) -> _Contour:
        edge = contour(mask)
        pixels, near = np.flatnonzero(edge), np.zeros(mask.shape, bool)
        if len(pixels):
            x, y, width, height = cv2.boundingRect(edge.astype(np.uint8))
            window = (
                slice(max(0, y - radius), y + height + radius),
                slice(max(0, x - radius), x + width + radius),
            )
            near[window] = cv2.dilate(edge[window].astype(np.uint8), _disc(radius)) > 0
        return cls(pixels, near.ravel())


def contour(mask: BoolMask) -> BoolMask:
    """(H, W) bool: pixels that differ from their right, lower or lower right neighbour."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge


def _disc(radius: int) -> NDArray[np.uint8]:
    """All offsets of at most `radius` pixels, as a structuring element."""
    offset = np.arange(-radius, radius + 1)
    return (offset[:, None] ** 2 + offset**2 <= radius**2).astype(np.uint8)


def _f_measure(found: _Contour, true: _Contour) -> float:
    if len(found.pixels) == 0 or len(true.pixels) == 0:
        return float(len(found.pixels) == len(true.pixels))
    precision = np.count_nonzero(true.near[found.pixels]) / len(found.pixels)
    recall = np.count_nonzero(found.near[true.pixels]) / len(true.pixels)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def frame_statistics(values: NDArray[np.float64]) -> FrameStatistics:
    """Mean, recall and decay of the values of a measure in T frames, given in [0, 1].

    Consecutive quarters share the frame at their bound. A bound between two frames is rounded to
    the nearest, halves up.
    """
    bounds = np.linspace(1, len(values), _QUARTERS + 1)
    index = np.floor(bounds + 0.5).astype(int) - 1
    first, last = values[: index[1] + 1], values[index[-2] :]
    return FrameStatistics(
        100 * float(values.mean()),
        100 * float((values > _RECALL_THRESHOLD).mean()),
        100 * float(first.mean() - last.mean()),
    )


def summarise(scores: Iterable[ObjectScore]) -> DavisMetrics:
    """Means over all objects, which have equal weights.

    Raises:
        GboptError: there is no object.
    """
    rows = np.array([[*score.J, *score.F] for score in scores])
    if len(rows) == 0:
        raise GboptError("no object was scored; nothing can be averaged")
    j, j_recall, j_decay, f, f_recall, f_decay = (float(v) for v in rows.mean(axis=0))
    return DavisMetrics((j + f) / 2, j, j_recall, j_decay, f, f_recall, f_decay)
