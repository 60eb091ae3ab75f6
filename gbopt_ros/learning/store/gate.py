"""The gate: a new version is published only if its masks were sound and it forgot nothing.

Before training, the selected masks must agree with the parent's proposals. Masks that belong to
other images, or are shifted or corrupt, would teach nonsense.

After training, the new version is compared on the validation set, labelled images of seen classes
that are not learnt from. It is compared with its parent and with the first network, since small
losses would add up. The standard error of the difference counts: a loss that may be noise does not
refuse a version, and a validation set too small to exclude a large loss does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from gbopt_ros.config import LearningConfig

Z_95 = 1.645  # standard errors of a one-sided test at 95 %


@dataclass(frozen=True)
class GateDecision:
    """Whether a new version may be published, and why.

    Attributes:
        passed: whether it may.
        reason: one sentence with the decisive numbers.
        agreement: share of the selected masks that the parent or the teacher proposes, in [0, 1],
            in the part of the training set with the lowest share.
        parent_ap, child_ap: mask AP on the validation set, percent.
        standard_error: standard error of child_ap - parent_ap by the choice of validation images,
            points.
        first_ap: mask AP of the first network, where that is not the parent, percent.

    Numbers that were not measured are None.
    """

    passed: bool
    reason: str
    agreement: float | None = None
    parent_ap: float | None = None
    child_ap: float | None = None
    standard_error: float | None = None
    first_ap: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_masks(
    agreement: float, config: LearningConfig, recordings: Sequence[str] = ()
) -> GateDecision:
    """Refuse selected masks that are not proposals of the parent, or of the teacher.

    Selection chooses among proposals and changes their outlines a little. So the parent proposes
    nearly every mask of an intact training set again, at an IoU of 0.5.

    Args:
        agreement: share of the selected masks that one of them proposes, in the worst part.
        recordings: names of the recordings of that part.
    """
    numbers = (
        f"in some part {100 * agreement:.0f} % of the selected masks are proposals of the parent, "
        f"at least {100 * config.gate_agreement:.0f} % expected"
    )
    if agreement >= config.gate_agreement:
        return GateDecision(True, numbers, agreement)
    return GateDecision(
        False,
        f"masks do not belong to their images: {numbers}; they are of {', '.join(recordings)} "
        "(`gbopt learn --forget RECORDING` takes one out)",
        agreement,
    )


def check_forgetting(
    parent_ap: float,
    child_ap: float,
    standard_error: float,
    config: LearningConfig,
    parent: str = "its parent",
) -> GateDecision:
    """Compare a version with an older one on the validation set.

    It is refused if it lost more than `gate_margin` points and the loss is significant at 95 %, or
    if a loss of `gate_worst` points cannot be excluded at 95 %.

    Args:
        parent_ap, child_ap: mask AP, percent.
        standard_error: standard error of their difference by a paired comparison, points.
        parent: name of the older one in the reason.
    """
    difference = child_ap - parent_ap
    uncertainty = Z_95 * standard_error
    numbers = (
        f"seen AP {child_ap:.2f} against {parent_ap:.2f} of {parent}, "
        f"{difference:+.2f} ± {standard_error:.2f}, allowed loss {config.gate_margin:.2f}"
    )
    measured = (parent_ap, child_ap, standard_error)
    if not all(math.isfinite(value) for value in measured):
        reason = f"cannot be compared, give more validation images: {numbers}"
        return GateDecision(False, reason, None, *measured)
    if difference < -config.gate_margin and difference + uncertainty < 0:
        return GateDecision(False, f"forgot too much: {numbers}", None, *measured)
    if difference - uncertainty < -config.gate_worst:
        reason = (
            f"may have lost more than {config.gate_worst:.2f} points, give more validation images: "
            f"{numbers}"
        )
        return GateDecision(False, reason, None, *measured)
    return GateDecision(True, numbers, None, *measured)


def all_passed(decisions: Sequence[GateDecision]) -> GateDecision:
    """Combine the decisions on the parent and, after the first round, on the first network."""
    parent, *others = decisions
    reasons = [d.reason for d in decisions if d.passed == all(each.passed for each in decisions)]
    return replace(
        parent,
        passed=all(decision.passed for decision in decisions),
        reason="; ".join(reasons),
        first_ap=others[0].parent_ap if others else None,
    )
