"""How probable it is that a selected mask shows an object; not in the paper."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.structures import Calibration


def confidence(
    margins: NDArray[np.float64], scores: NDArray[np.floating], calibration: Calibration | None
) -> NDArray[np.float32]:
    """The probability that a selected mask has an IoU of at least 0.5 with an object.

    A logistic model of the margin and the network score. Its coefficients are fitted on recordings
    with ground truth (`gbopt calibrate`) and hold for the network that they were fitted for.

    Args:
        margins: (S,) >= 0, what the best path without the mask costs more.
        scores: (S,) in [0, 1], of the network.
        calibration: of the network; None takes the scores as they are.

    Returns:
        (S,) float32 in [0, 1].
    """
    if calibration is None:
        return scores.astype(np.float32)
    weights = np.array([calibration.margin, calibration.score])
    logit = calibration.bias + confidence_features(margins, scores) @ weights
    probability: NDArray[np.float32] = (1.0 / (1.0 + np.exp(-logit))).astype(np.float32)
    return probability


def confidence_features(
    margins: NDArray[np.float64], scores: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(S, 2) float64: log(1 + 10,000 margin) and logit(score), what `confidence` is a model of."""
    clipped = np.clip(scores.astype(np.float64), 1e-3, 1 - 1e-3)
    return np.column_stack([np.log1p(1e4 * margins), np.log(clipped / (1 - clipped))])
