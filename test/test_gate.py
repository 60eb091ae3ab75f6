"""The gate by hand."""

from __future__ import annotations

import json
import math

import pytest

from gbopt_ros.config import LearningConfig
from gbopt_ros.learning.gate import check_forgetting, check_losses

CONFIG = LearningConfig(gate_margin=1.0)


@pytest.mark.parametrize("losses", [{}, {"total": []}, {"mask": [0.0, 1e30], "total": [2.0, -3.0]}])
def test_finite_losses_pass(losses: dict[str, list[float]]) -> None:
    assert check_losses(losses).passed


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_loss_is_enough(bad: float) -> None:
    decision = check_losses({"box": [1.0, 1.0], "mask": [1.0, bad]})
    assert not decision.passed
    assert decision.reason == f"loss mask was {bad} at step 1"


@pytest.mark.parametrize(
    ("parent", "child", "passed"),
    [
        (40.0, 40.0, True),
        (40.0, 45.0, True),
        (40.0, 39.5, True),
        (40.0, 39.0, True),  # exactly the margin
        (40.0, 38.99, False),
        (0.0, 0.0, True),
        (0.5, 0.0, True),
        (40.0, math.nan, False),
        (40.0, math.inf, False),
        (math.nan, 40.0, False),
    ],
)
def test_forgetting(parent: float, child: float, passed: bool) -> None:
    decision = check_forgetting(parent, child, CONFIG)
    assert decision.passed is passed
    assert (decision.reason.startswith("forgot too much")) is not passed
    assert f"seen AP {child:.2f} against {parent:.2f}" in decision.reason
    assert "margin 1.00" in decision.reason


def test_no_margin() -> None:
    strict = LearningConfig(gate_margin=0.0)
    assert check_forgetting(40.0, 40.0, strict).passed
    assert not check_forgetting(40.0, 39.999, strict).passed


def test_no_probe_split() -> None:
    decision = check_forgetting(None, None, CONFIG)
    assert decision.passed
    assert "no probe split" in decision.reason


def test_decision_goes_into_a_manifest() -> None:
    decision = check_forgetting(40.0, 38.0, CONFIG)
    assert json.loads(json.dumps(decision.to_dict())) == {
        "passed": False,
        "reason": "forgot too much: seen AP 38.00 against 40.00 of its parent, margin 1.00",
        "parent_ap": 40.0,
        "child_ap": 38.0,
    }
