"""The constants of the plane residual, fitted to pixels."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.plane_residual import fit, quality
from gbopt_ros.perception.plane_residual import BIAS, FLOOR, SLOPE


def test_fit_finds_the_bias_and_slope_that_made_the_truth() -> None:
    rng = np.random.default_rng(0)
    x = np.log(rng.uniform(0, 8, 20_000) + FLOOR)
    network = rng.normal(0, 1, len(x)).astype(np.float32)
    is_object = rng.random(len(x)) < 1 / (1 + np.exp(-(network - 1.0 + 2.0 * x)))
    motion = (BIAS + SLOPE * x).astype(np.float32)
    unknown = np.zeros(1000, np.float32)  # no evidence: such pixels do not count
    bias, slope = fit(
        np.append(network, unknown), np.append(motion, unknown), np.append(is_object, unknown > 0)
    )
    assert (bias, slope) == pytest.approx((-1.0, 2.0), abs=0.15)


def test_quality_tells_cross_entropy_and_iou() -> None:
    logits = np.array([0.1, 0.1, -0.1, -0.1], np.float32)
    text = quality(logits, np.array([True, False, True, False]))
    assert text == "cross-entropy 0.6944, IoU 0.333"
