"""How far confidences hold, and the coefficients that make them hold; not in the paper."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from gbopt_ros import masks as mask_ops
from gbopt_ros.selection.confidence import confidence_features
from gbopt_ros.structures import Calibration, FrameSelection, GboptError, Rle

log = logging.getLogger(__name__)

BINS = 10  # of the calibration error
_RIDGE = 1e-3  # keeps the coefficients finite where right and wrong masks can be told apart
_RIGHT_IOU = 0.5  # smallest IoU of a right mask with an instance
_IN_CROWD = 0.5  # share of a mask inside of a crowd, from which on it is of the crowd
_FEW = 30  # right or wrong masks, from which on a fit is taken to be reliable


@dataclass(frozen=True)
class LabelledMasks:
    """S selected masks and whether they are right.

    Attributes:
        margins: (S,) float64, as in `FrameSelection`.
        scores: (S,) float32, of the network.
        correct: (S,) bool, the mask has an IoU of at least 0.5 with an object.
    """

    margins: NDArray[np.float64]
    scores: NDArray[np.float32]
    correct: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.correct)

    @classmethod
    def joined(cls, parts: Sequence[LabelledMasks]) -> LabelledMasks:
        """The masks of several recordings, at least one, as one set."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


_NO_MASKS = LabelledMasks(np.zeros(0), np.zeros(0, np.float32), np.zeros(0, bool))


class CalibrationQuality(NamedTuple):
    """How far probabilities hold.

    Attributes:
        masks: their number.
        correct: share of right masks.
        ece: expected calibration error over 10 bins of equal width (0 is best).
        brier: Brier score, the mean squared error of the probabilities (0 is best).
        auc: area under the ROC curve (1 is best); NaN where all masks are right, or all wrong.
        diagram: mean probability, share of right masks and number of masks of each bin with any.
    """

    masks: int
    correct: float
    ece: float
    brier: float
    auc: float
    diagram: tuple[tuple[float, float, int], ...]


def label_masks(
    frames: Iterable[FrameSelection],
    instances_by_frame: Mapping[int, Sequence[Rle]],
    crowds_by_frame: Mapping[int, Sequence[Rle]] | None = None,
) -> LabelledMasks:
    """Compare selected masks with the ground truth.

    A mask that shows no instance and is at least half inside of a crowd is left out: as in COCO's
    evaluation it is neither right nor wrong.

    Args:
        frames: frames that are not in the ground truth are left out.
        instances_by_frame: instances of every labelled frame index, () where there is none.
        crowds_by_frame: `iscrowd` regions by frame index; None: there is none.

    Raises:
        GboptError: instances or crowds of another size than their frame.
    """
    parts = []
    for frame in frames:
        index = frame.frame.index
        if index not in instances_by_frame:
            continue
        instances = list(instances_by_frame[index])
        crowds = list((crowds_by_frame or {}).get(index, ()))
        size = list(frame.frame.size)
        other = [rle["size"] for rle in (*instances, *crowds) if list(rle["size"]) != size]
        if other:
            raise GboptError(f"frame {index}: expected labels of its size, {size}, got {other[0]}")
        best = mask_ops.iou_matrix(frame.rles, instances).max(axis=1, initial=0)
        inside = mask_ops.inside_matrix(frame.rles, crowds).max(axis=1, initial=0)
        correct = best >= _RIGHT_IOU
        known = correct | (inside < _IN_CROWD)
        parts.append(LabelledMasks(frame.margins[known], frame.scores[known], correct[known]))
    return LabelledMasks.joined(parts) if parts else _NO_MASKS


def fit_calibration(masks: LabelledMasks) -> Calibration:
    """Logistic regression of whether a mask is right on its margin and its score.

    A larger margin never makes a mask less probable: the coefficient of the margin is at least 0.

    Returns:
        Coefficients, rounded to three digits.

    Raises:
        GboptError: there is no right mask, or no wrong one.
    """
    right, wrong = int(masks.correct.sum()), int((~masks.correct).sum())
    counts = f"{right} right and {wrong} wrong masks"
    if min(right, wrong) == 0:
        raise GboptError(f"a calibration needs right and wrong masks, got {counts}")
    if min(right, wrong) < _FEW:
        log.warning("the calibration rests on %s only; use more recordings", counts)
    features = confidence_features(masks.margins, masks.scores)
    design = np.column_stack([np.ones(len(masks)), features])  # (S, 3)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Negative log-likelihood with a small ridge, and its gradient."""
        logits = design @ weights
        value = np.logaddexp(0, logits).sum() - logits[masks.correct].sum()
        gradient = design.T @ (expit(logits) - masks.correct)
        return value + _RIDGE / 2 * weights @ weights, gradient + _RIDGE * weights

    bounds = [(None, None), (0.0, None), (None, None)]
    options = {"ftol": 1e-14, "gtol": 1e-8, "maxiter": 1000}
    found = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return Calibration(*(round(float(weight), 3) for weight in found.x))


def calibration_quality(
    probabilities: NDArray[np.floating], correct: NDArray[np.bool_]
) -> CalibrationQuality:
    """How far the probabilities of S masks hold.

    Args:
        probabilities: (S,) in [0, 1], that a mask is right: confidences or scores.
        correct: (S,) whether it is.

    Raises:
        GboptError: there is no mask.
    """
    if len(probabilities) == 0:
        raise GboptError("the quality of a calibration cannot be measured without masks")
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    diagram = tuple(
        (float(probabilities[bins == b].mean()), float(correct[bins == b].mean()), int(n))
        for b in range(BINS)
        if (n := (bins == b).sum())
    )
    error = sum(n * abs(said - was) for said, was, n in diagram) / len(probabilities)
    return CalibrationQuality(
        masks=len(probabilities),
        correct=float(correct.mean()),
        ece=error,
        brier=float(((probabilities - correct) ** 2).mean()),
        auc=roc_auc(probabilities, correct),
        diagram=diagram,
    )


def roc_auc(values: NDArray[np.floating], correct: NDArray[np.bool_]) -> float:
    """The probability that a right mask has a higher value than a wrong one; ties count half.

    Args:
        values: (S,) any numbers.
        correct: (S,) whether the mask is right.

    Returns:
        NaN where all masks are right, or all wrong.
    """
    right, wrong = int(correct.sum()), int((~correct).sum())
    if min(right, wrong) == 0:
        return float("nan")
    above = rankdata(values)[correct].sum() - right * (right + 1) / 2  # Mann-Whitney U
    return float(above / (right * wrong))
