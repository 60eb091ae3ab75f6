"""The outcome of a demo on a recording of the user's own, and its `results.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbopt_ros.demo.before_after import Replay, unmatched
from gbopt_ros.demo.data import OwnData, SeenEvaluation
from gbopt_ros.demo.rounds import Round
from gbopt_ros.evaluation.coco_metrics import paired_difference
from gbopt_ros.learning.store.model_store import ModelVersion


@dataclass(frozen=True)
class Outcome:
    """What was selected before and after, and what was learnt in between.

    Attributes:
        rounds: the rounds in which something was learnt, or refused.
        planned: maximum number of rounds.
        learnt: the version in service, None where none passed the gate.
        before, after: the masks in the recording; no `after` where nothing was learnt.
        seen_before, seen_after: the networks on labelled images of seen classes.
        shortage: why nothing could be learnt, "" where the rounds ran.
    """

    rounds: Sequence[Round]
    planned: int
    learnt: ModelVersion | None
    before: Replay
    after: Replay | None
    seen_before: SeenEvaluation
    seen_after: SeenEvaluation
    shortage: str = ""

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.before.frames)

    @property
    def replays(self) -> dict[str, Replay]:
        """What was selected, by "before" and "after"."""
        after = {} if self.after is None else {"after": self.after}
        return {"before": self.before} | after


def results_of_outcome(outcome: Outcome, data: OwnData) -> dict[str, Any]:
    """The entries of `results.json` that `run_facts` does not have.

    `found_new` is None, and `after` is missing from the others, where nothing was learnt.
    """
    difference, error = paired_difference(
        data.seen, outcome.seen_before.seen_results, outcome.seen_after.seen_results
    )
    return {
        "recording": str(data.source.path),
        "source_options": vars(data.source.options),
        "counts": {
            "frames": outcome.frames,
            "masks": {name: replay.masks for name, replay in outcome.replays.items()},
            "seen_stills": len(data.seen),
        },
        "found_new": _found_new(outcome),
        "confidence": {
            name: _mean(replay.numbers.confidences) for name, replay in outcome.replays.items()
        },
        "energies": _energies(outcome),
        "seen": {
            "before": outcome.seen_before.seen.to_dict(),
            "after": outcome.seen_after.seen.to_dict(),
        },
        "ap_change": {"seen": {"difference": difference, "standard_error": error}},
        "model_version": outcome.learnt.version if outcome.learnt else None,
        "shortage": outcome.shortage,
        "planned_rounds": outcome.planned,
    }


def _found_new(outcome: Outcome) -> dict[str, int] | None:
    """Masks, and frames with such masks, that one network selects and the other does not."""
    if outcome.after is None:
        return None
    found = unmatched(outcome.after, outcome.before)
    lost = unmatched(outcome.before, outcome.after)
    return {
        "masks": len(found),
        "frames": len({mask.frame_index for mask in found}),
        "lost_masks": len(lost),
        "lost_frames": len({mask.frame_index for mask in lost}),
    }


def _energies(outcome: Outcome) -> list[dict[str, Any]]:
    """One entry a clip: the energies of both selections, and whether they were proven minimal."""
    clips = (replay.clips for replay in outcome.replays.values())
    return [
        {"clip_id": of_clip[0]["clip_id"], "frames": of_clip[0]["frames"]}
        | {
            name: {"energy": clip["energy"], "optimal": clip["optimal"]}
            for name, clip in zip(outcome.replays, of_clip, strict=True)
        }
        for of_clip in zip(*clips, strict=True)
    ]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
