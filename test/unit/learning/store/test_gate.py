"""The decisions of the gate, computed by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from support.fakes import make_proposals
from support.networks import tiny_mask_rcnn

from gbopt_ros.config import Config, LearningConfig
from gbopt_ros.learning.data.datasets import SelectedDataset
from gbopt_ros.learning.store import gate_checks
from gbopt_ros.learning.store.gate import all_passed, check_forgetting, check_masks
from gbopt_ros.structures import Image, LabelledImage, Proposals

CONFIG = LearningConfig(gate_margin=1.0, gate_worst=5.0, gate_agreement=0.5)


@pytest.mark.parametrize(
    ("parent", "child", "error", "passed"),
    [
        (40.0, 40.0, 0.5, True),
        (40.0, 45.0, 0.5, True),
        (40.0, 39.5, 0.0, True),
        (40.0, 39.0, 0.0, True),  # exactly the margin
        (40.0, 38.99, 0.0, False),
        (40.0, 38.5, 0.9, False),  # 1.5 points are 1.67 standard errors: significant
        (40.0, 38.5, 0.95, True),  # 1.58 standard errors: may be noise
        (40.0, 39.5, 2.8, False),  # 0.5 + 1.645 * 2.8 = 5.1 points may be lost
        (40.0, 39.5, 2.7, True),  # 4.9
        (0.0, 0.0, 0.0, True),
        (40.0, math.nan, 0.5, False),
        (40.0, math.inf, 0.5, False),
        (math.nan, 40.0, 0.5, False),
        (40.0, 40.0, math.nan, False),
        (40.0, 45.0, math.inf, False),  # a validation set of one image
    ],
)
def test_check_forgetting_by_hand(parent: float, child: float, error: float, passed: bool) -> None:
    decision = check_forgetting(parent, child, error, CONFIG)
    assert decision.passed is passed
    assert f"seen AP {child:.2f} against {parent:.2f}" in decision.reason
    assert "allowed loss 1.00" in decision.reason


@pytest.mark.parametrize(
    ("child", "error", "words"),
    [
        (30.0, 0.5, "forgot too much"),
        (40.0, 9.0, "more validation images"),
        (math.nan, 1.0, "cannot"),
    ],
)
def test_check_forgetting_says_which_limit_failed(child: float, error: float, words: str) -> None:
    assert words in check_forgetting(40.0, child, error, CONFIG).reason


def test_check_forgetting_with_gate_margin_zero() -> None:
    strict = LearningConfig(gate_margin=0.0)
    assert check_forgetting(40.0, 40.0, 0.0, strict).passed
    assert not check_forgetting(40.0, 39.999, 0.0, strict).passed


@pytest.mark.parametrize(("agreement", "passed"), [(1.0, True), (0.5, True), (0.49, False)])
def test_check_masks_needs_agreement_with_the_parent(agreement: float, passed: bool) -> None:
    decision = check_masks(agreement, CONFIG)
    assert decision.passed is passed
    assert decision.agreement == agreement
    assert f"{100 * agreement:.0f} % of the selected masks" in decision.reason


def test_gate_decision_to_dict_is_json() -> None:
    decision = check_forgetting(40.0, 38.0, 0.5, CONFIG)
    assert json.loads(json.dumps(decision.to_dict())) == {
        "passed": False,
        "reason": "forgot too much: seen AP 38.00 against 40.00 of its parent, -2.00 ± 0.50, "
        "allowed loss 1.00",
        "agreement": None,
        "parent_ap": 40.0,
        "child_ap": 38.0,
        "standard_error": 0.5,
        "first_ap": None,
    }


def test_all_passed_compares_with_the_first_network_too() -> None:
    of_parent = check_forgetting(40.0, 39.2, 0.3, CONFIG)
    of_first = check_forgetting(41.0, 39.2, 0.3, CONFIG, "the first")
    assert of_parent.passed
    decision = all_passed([of_parent, of_first])
    assert not decision.passed
    assert decision.reason == of_first.reason
    assert "seen AP 39.20 against 41.00 of the first" in decision.reason
    assert (decision.parent_ap, decision.child_ap, decision.first_ap) == (40.0, 39.2, 41.0)
    assert not all_passed([of_first, of_parent]).passed


def test_all_passed_joins_the_reasons() -> None:
    decisions = [check_forgetting(40.0, 40.5, 0.3, CONFIG, name) for name in ("this", "that")]
    assert all_passed(decisions).passed
    assert all_passed(decisions).reason == f"{decisions[0].reason}; {decisions[1].reason}"
    assert all_passed(decisions[:1]) == decisions[0]


def test_agreement_of_parts_is_that_of_the_worst_with_parent_and_teacher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The parent proposes what is on the left, the teacher what is on the right."""
    left, right = np.zeros((2, 1, 12, 16), bool)
    left[:, 2:10, :8], right[:, 2:10, 8:] = True, True
    image = np.zeros((12, 16, 3), np.uint8)

    class Proposing:
        version = ""

        def __init__(self, masks: np.ndarray) -> None:
            self._found = make_proposals(masks)

        def propose(self, images: Sequence[Image]) -> list[Proposals]:
            return [self._found for _ in images]

    class Selected(SelectedDataset):
        def __getitem__(self, index: int) -> LabelledImage:
            return LabelledImage(image, make_proposals(left if index < 6 else right).rles)

    monkeypatch.setattr(gate_checks, "evaluated_proposals", lambda *_: Proposing(left))
    parts = np.arange(6), np.arange(6, 12)
    arguments = tiny_mask_rcnn(), Selected(()), parts, Config()
    assert gate_checks.agreement_of_parts(*arguments) == (0.0, [*range(6, 12)])
    assert gate_checks.agreement_of_parts(*arguments, teacher=Proposing(right))[0] == 1.0
