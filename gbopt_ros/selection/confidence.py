"""The confidence of a selected mask: how probable it is that the mask shows an object.

Not in the paper.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.structures import Calibration


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
        return scores.astype(np.float32)
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
