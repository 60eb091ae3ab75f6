"""The gate: a new version is published only if it is sound and has forgotten nothing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from gbopt_ros.config import LearningConfig


@dataclass(frozen=True)
class GateDecision:
    """Whether a new version may be published, and why.

    Attributes:
        passed: it may.
        reason: one sentence with the numbers that decided.
        parent_ap, child_ap: mask AP on the seen probe split, percent; None where the decision
            was made before it was measured or no probe split was given.
    """

    passed: bool
    reason: str
    parent_ap: float | None = None
    child_ap: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_losses(losses: dict[str, list[float]]) -> GateDecision:
    """Refuse a training run in which any loss was not finite."""
    for name, values in losses.items():
        for step, value in enumerate(values):
            if not math.isfinite(value):
                return GateDecision(False, f"loss {name} was {value} at step {step}")
    return GateDecision(True, "all losses were finite")


def check_forgetting(
    parent_ap: float | None, child_ap: float | None, config: LearningConfig
) -> GateDecision:
    """Refuse a version that lost more than `gate_margin` AP points on the seen probe split.

    Args:
        parent_ap, child_ap: percent; both None where there is no probe split.
    """
    if parent_ap is None or child_ap is None:
        return GateDecision(True, "losses were finite; no probe split of seen data was given")
    numbers = (
        f"seen AP {child_ap:.2f} against {parent_ap:.2f} of its parent, "
        f"margin {config.gate_margin:.2f}"
    )
    passed = math.isfinite(child_ap) and child_ap >= parent_ap - config.gate_margin
    return GateDecision(
        passed, numbers if passed else f"forgot too much: {numbers}", parent_ap, child_ap
    )
