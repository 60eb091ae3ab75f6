"""How far the outputs of two networks lie apart, and how far they may.

Masks are matched one to one, so that a mask that only one network finds counts with an IoU of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from gbopt_ros.masks import iou_matrix
from gbopt_ros.structures import Proposals

SAME_MASK = 0.9  # a near twin, which rounding may bring over non-maximum suppression, is another
"""Minimum IoU of two masks whose scores are compared."""


@dataclass(frozen=True)
class Tolerance:
    """How far two runs of one network may lie apart.

    Attributes:
        score: of the scores of one mask, absolute.
        iou: mean over the masks of one run of the IoU with their partner in the other; a minimum.
        background: mean over pixels of the difference of probabilities.
        flow: median over pixels of the length of the difference, pixels.
    """

    score: float
    iou: float
    background: float
    flow: float


# A GPU rounds convolutions to TF32, 11 bits, and may choose another algorithm the second time: an
# H200 was 7e-4 apart in scores and 2e-3 pixels in flow. Half precision keeps 11 bits of every
# number: what 50 layers make of it moves a score by some hundredths and the rim of a mask by some
# pixels.
TF32 = Tolerance(score=5e-3, iou=0.95, background=1e-3, flow=2e-2)
HALF = Tolerance(score=0.05, iou=0.9, background=0.01, flow=0.5)
EXACT = Tolerance(score=0.0, iou=1.0, background=0.0, flow=0.0)


@dataclass(frozen=True)
class Difference:
    """What was measured, by name, and the limits that hold for some of the names."""

    values: dict[str, float]
    at_least: dict[str, float]
    at_most: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether all limits hold; a value that is not finite breaks its limit."""
        return all(self.values[name] >= limit for name, limit in self.at_least.items()) and all(
            self.values[name] <= limit for name, limit in self.at_most.items()
        )


def compare_proposals(
    found: Sequence[Proposals], expected: Sequence[Proposals], within: Tolerance
) -> Difference:
    """The masks of the same images, all images together."""
    ious, apart = [], [0.0]
    for a, b in zip(found, expected, strict=True):
        iou = iou_matrix(a.rles, b.rles).reshape(len(a), len(b))
        rows, columns = linear_sum_assignment(-iou)
        matched = iou[rows, columns]
        alone = max(len(a), len(b)) - len(matched)
        ious += [*matched, *[0.0] * alone]
        scores = np.abs(a.scores[rows] - b.scores[columns])
        apart += scores[matched >= SAME_MASK].tolist()
    values = {
        "masks": float(len(ious)),
        "mean IoU": float(np.mean(ious)) if ious else 1.0,
        "same masks": float(np.mean(np.array(ious) >= SAME_MASK)) if ious else 1.0,
        "largest score difference": max(apart),
    }
    at_most = {"largest score difference": within.score}
    return Difference(values, {"mean IoU": within.iou}, at_most)


def compare_backgrounds(
    found: Sequence[NDArray[np.float32]],
    expected: Sequence[NDArray[np.float32]],
    within: Tolerance,
) -> Difference:
    """Background probabilities (H, W) of the same images, all pixels together."""
    apart = np.concatenate([np.abs(a - b).ravel() for a, b in zip(found, expected, strict=True)])
    values = {"mean difference": float(apart.mean()), "largest difference": float(apart.max())}
    return Difference(values, {}, {"mean difference": within.background})


def compare_flows(
    found: NDArray[np.float32], expected: NDArray[np.float32], within: Tolerance
) -> Difference:
    """Flows (B, H, W, 2) of the same pairs, pixels: end-point differences."""
    apart = np.linalg.norm(found - expected, axis=-1)
    values = {
        "median end-point difference": float(np.median(apart)),
        "mean end-point difference": float(apart.mean()),
        "99th percentile": float(np.percentile(apart, 99)),
    }
    return Difference(values, {}, {"median end-point difference": within.flow})
