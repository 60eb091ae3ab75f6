"""Precision and recall of sets of masks, and of proposals thresholded at every score.

Masks and instances are matched one to one at an IoU threshold, with as many pairs as possible
(maximum bipartite matching). Unlike COCO's greedy matching this needs no scores, and it gives
thresholded proposals the highest possible recall.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.masks import iou_matrix
from gbopt_ros.structures import GboptError, Proposals, Rle

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class MatchCounts:
    """The counts behind precision and recall.

    Attributes:
        matched: number of pairs of a mask and an instance.
        masks: number of masks.
        instances: number of instances of the ground truth.
        mean_iou: mean IoU of the pairs, 0 where there are none.
    """

    matched: int
    masks: int
    instances: int
    mean_iou: float


class MaskQuality(NamedTuple):
    """Precision and recall in [0, 1]; precision is 1 without masks, recall without instances."""

    precision: float
    recall: float
    counts: MatchCounts


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Proposals thresholded at every score that occurs, highest first.

    Attributes:
        thresholds: (P,) float64, strictly descending; proposals of at least that score are kept.
        precision, recall: (P,) float64 in [0, 1].
        instances: number of instances of the ground truth.
    """

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    instances: int


def mask_precision_recall(
    gt_by_frame: Mapping[Key, Sequence[Rle]],
    masks_by_frame: Mapping[Key, Sequence[Rle]],
    iou: float = 0.5,
) -> MaskQuality:
    """Precision and recall of masks over all frames of the ground truth.

    Args:
        gt_by_frame: instances of every labelled frame, () where there are none.
        masks_by_frame: masks of some or all of these frames.
        iou: smallest intersection over union of a pair.

    Raises:
        GboptError: masks on a frame that is not in the ground truth.
    """
    _check_frames(gt_by_frame, masks_by_frame, iou)
    matched_ious: list[float] = []
    for frame, instances in gt_by_frame.items():
        masks = masks_by_frame.get(frame, ())
        matching = _Matching(iou_matrix(masks, instances), iou)
        matching.pair_closest()
        for mask in range(len(masks)):
            matching.add(mask)
        matched_ious += matching.ious()
    counts = MatchCounts(
        matched=len(matched_ious),
        masks=sum(len(masks) for masks in masks_by_frame.values()),
        instances=sum(len(instances) for instances in gt_by_frame.values()),
        mean_iou=float(np.mean(matched_ious)) if matched_ious else 0.0,
    )
    return MaskQuality(
        precision=counts.matched / counts.masks if counts.masks else 1.0,
        recall=counts.matched / counts.instances if counts.instances else 1.0,
        counts=counts,
    )


def threshold_curve(
    gt_by_frame: Mapping[Key, Sequence[Rle]],
    proposals_by_frame: Mapping[Key, Proposals],
    iou: float = 0.5,
) -> PrecisionRecallCurve:
    """Precision and recall of the proposals of at least each score, over all frames.

    Every point equals `mask_precision_recall` of the kept proposals. The matching grows by at most
    one pair with each proposal, found as an augmenting path.

    Raises:
        GboptError: proposals on a frame that is not in the ground truth, or no instance.
    """
    _check_frames(gt_by_frame, proposals_by_frame, iou)
    instances = sum(len(found) for found in gt_by_frame.values())
    if instances == 0:
        raise GboptError("the ground truth has no instance; a recall cannot be measured")
    scores, gains = [np.zeros(0)], [np.zeros(0, bool)]
    for frame, proposals in proposals_by_frame.items():
        matching = _Matching(iou_matrix(proposals.rles, gt_by_frame[frame]), iou)
        gains.append(np.array([matching.add(mask) for mask in range(len(proposals))], bool))
        scores.append(proposals.scores.astype(np.float64))
    all_scores = np.concatenate(scores)
    order = np.argsort(-all_scores, kind="stable")
    matched = np.cumsum(np.concatenate(gains)[order])
    ordered = all_scores[order]
    last_of_tie = np.flatnonzero(np.append(np.diff(ordered) < 0, len(ordered) > 0))
    return PrecisionRecallCurve(
        thresholds=ordered[last_of_tie],
        precision=matched[last_of_tie] / (last_of_tie + 1),
        recall=matched[last_of_tie] / instances,
        instances=instances,
    )


def precision_at_recall(curve: PrecisionRecallCurve, recall: float) -> float:
    """The highest precision of any threshold that reaches a recall; 0 where none does."""
    reached = curve.precision[curve.recall >= recall - 1e-12]
    return float(reached.max()) if len(reached) else 0.0


def _check_frames(
    gt_by_frame: Mapping[Key, Sequence[Rle]], by_frame: Mapping[Key, object], iou: float
) -> None:
    if not 0 < iou <= 1:
        raise GboptError(f"iou: expected a number in (0, 1], got {iou}")
    unknown = [frame for frame in by_frame if frame not in gt_by_frame]
    if unknown:
        raise GboptError(
            f"frame {unknown[0]!r} has masks but no ground truth ({len(unknown)} such frames); "
            "leave out frames that are not labelled"
        )


class _Matching:
    """A one-to-one matching of masks with instances that grows by augmenting paths.

    Args:
        ious: (masks, instances) intersection over union.
        iou: smallest IoU of a pair.
    """

    def __init__(self, ious: NDArray[np.float64], iou: float) -> None:
        self._ious = ious
        self._candidates = [np.flatnonzero(row >= iou).tolist() for row in ious]
        self._mask_of = [-1] * ious.shape[1]
        self._paired: set[int] = set()

    def pair_closest(self) -> None:
        """Pair free masks and instances, highest IoU first."""
        allowed = [(m, g) for m, row in enumerate(self._candidates) for g in row]
        for mask, instance in sorted(allowed, key=lambda pair: -self._ious[pair]):
            if mask not in self._paired and self._mask_of[instance] < 0:
                self._mask_of[instance] = mask
                self._paired.add(mask)

    def add(self, mask: int) -> bool:
        """Add a mask; returns whether the matching grew by a pair."""
        if mask in self._paired or not self._augment(mask, set()):
            return False
        self._paired.add(mask)
        return True

    def ious(self) -> list[float]:
        """The IoU of every pair."""
        return [float(self._ious[m, g]) for g, m in enumerate(self._mask_of) if m >= 0]

    def _augment(self, mask: int, visited: set[int]) -> bool:
        for instance in self._candidates[mask]:
            if instance in visited:
                continue
            visited.add(instance)
            holder = self._mask_of[instance]
            if holder < 0 or self._augment(holder, visited):
                self._mask_of[instance] = mask
                return True
        return False
