"""How others choose training masks among proposals: what `comparison` compares selection with.

Pure functions on proposals. Each method gives every mask a score, and one number, chosen on a
validation recording or from labelled data, says which scores are kept.

- Score threshold: the network's own score.
- Data Distillation (Radosavovic et al. 2018): proposals of several views, merged
  (`test_time_augmentation`), thresholded so that an image has as many masks as a labelled image
  has objects.
- Selected using ground truth: the upper bound of all that choose among these proposals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from gbopt_ros import masks as mask_ops
from gbopt_ros.evaluation.mask_quality import PrecisionRecallCurve
from gbopt_ros.structures import GboptError, Proposals, Rle

_SAME_IOU = 0.5  # smallest IoU of a mask with the instance that it shows


def best_threshold(curve: PrecisionRecallCurve) -> float:
    """The threshold with the highest F1, the highest one of equally good ones.

    Raises:
        GboptError: no proposal of the curve is right.
    """
    total = curve.precision + curve.recall
    if not total.any():
        raise GboptError("no proposal on the validation recording is right: nothing to choose by")
    f1 = 2 * curve.precision * curve.recall / np.where(total > 0, total, 1)
    return float(curve.thresholds[f1.argmax()])


def expected_number_threshold(scores: Sequence[NDArray[np.floating]], objects: float) -> float:
    """The threshold that keeps as many masks as expected, or the nearest number that ties allow.

    Args:
        scores: of the proposals of each frame.
        objects: expected number of objects of a frame.
    """
    joined = np.sort(np.concatenate([np.zeros(0), *scores]))[::-1]
    if not len(joined):
        return np.inf
    thresholds, counts = np.unique(-joined, return_counts=True)
    kept = np.concatenate([[0], np.cumsum(counts)])
    nearest = int(np.abs(kept - objects * len(scores)).argmin())
    return float(-thresholds[nearest - 1]) if nearest else np.inf


def above(proposals: Proposals, threshold: float) -> Proposals:
    """The proposals with at least this score."""
    n = int(np.count_nonzero(proposals.scores >= threshold))
    return Proposals(proposals.size, proposals.rles[:n], proposals.scores[:n], proposals.boxes[:n])


def agreeing_with(proposals: Proposals, instances: Sequence[Rle]) -> Proposals:
    """The proposals of the one-to-one matching with the largest sum of IoUs (Hungarian method).

    Pairs below an IoU of 0.5 count nothing and are left out.
    """
    chosen = [i for i, _ in closest_pairs(proposals.rles, instances)]
    return Proposals(
        proposals.size,
        tuple(proposals.rles[i] for i in chosen),
        proposals.scores[chosen],
        proposals.boxes[chosen],
    )


def closest_pairs(masks: Sequence[Rle], instances: Sequence[Rle]) -> list[tuple[int, int]]:
    """Mask and instance of the one-to-one matching that `agreeing_with` chooses by."""
    overlap = mask_ops.iou_matrix(masks, instances)  # (N, M)
    overlap[overlap < _SAME_IOU] = 0.0
    pairs = zip(*linear_sum_assignment(overlap, maximize=True), strict=True)
    return sorted((int(i), int(j)) for i, j in pairs if overlap[i, j] > 0)


def objects_an_image(instances: Mapping[int, Sequence[Rle]]) -> float:
    """The mean number of instances of a labelled image."""
    return float(np.mean([len(rles) for rles in instances.values()]))
