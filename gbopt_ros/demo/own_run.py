"""`run_on_recording`: the whole loop on a recording of the user's own, without ground truth."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gbopt_ros.config import Config
from gbopt_ros.demo.before_after import Replay, write_overlay
from gbopt_ros.demo.data import OwnData, evaluate_on_seen
from gbopt_ros.demo.outcome import Outcome, results_of_outcome
from gbopt_ros.demo.own_recording import OwnRecording, tell_plan, too_short
from gbopt_ros.demo.own_report import own_report
from gbopt_ros.demo.rounds import (
    ROUNDS,
    Clock,
    Round,
    learn_in_rounds,
    replay_of_round,
    select_with_current,
)
from gbopt_ros.demo.run import prepare, run_facts
from gbopt_ros.evaluation.report import write_report
from gbopt_ros.io.files import write_text
from gbopt_ros.io.json_file import to_json
from gbopt_ros.learning.store.store import Store
from gbopt_ros.learning.student import has_teacher
from gbopt_ros.perception.load import proposal_weights


def run_on_recording(
    out: Path, config: Config, recording: OwnRecording, *, quick: bool = False, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Learn from a recording; write the same files as `run_demo`.

    Args:
        out: output folder; that of an earlier demo is replaced.
        config: from `demo_config`.
        quick: measure on fewer labelled images.
        rounds: maximum number of rounds, at least 1. A teacher that is no student itself, such as
            an ONNX network, would select the same masks again, so there is one round with it.

    Returns:
        The content of `results.json`, see `results_of_outcome` and `run_facts`.

    Raises:
        GboptError: `out` holds something else or cannot be written, weights are missing, or the
            recording cannot be opened, holds no image, or breaks off.
    """
    # An unreadable recording fails before an earlier demo is replaced.
    data = OwnData.load(recording.open(config.clip.length), quick)
    rounds = 1 if has_teacher(config) else rounds
    shortage = too_short(data.source, config)
    prepare(out)
    tell_plan(recording, data, config, rounds, shortage)
    clock, store = Clock(), Store(out / "store")
    with clock.step("evaluate the seed network"):
        seen_before = evaluate_on_seen(data, proposal_weights(config), config)
    done = [] if shortage else learn_in_rounds(out, config, data, clock, rounds)
    learnt = store.models.current()
    first, last = (replay_of_round(out, number) for number in (1, 1 + _published(done)))
    if not last.exists():
        step = "after learning" if learnt is not None else "nothing is learnt"
        select_with_current(last, store, config, data, clock, step)
    seen_after, before, after = seen_before, Replay.read(first), None
    if learnt is not None:
        after = Replay.read(last)
        with clock.step("evaluate the new network"):
            seen_after = evaluate_on_seen(data, learnt.path, config)
    if before.masks == 0:
        shortage = shortage or "no mask was selected"
    outcome = Outcome(done, rounds, learnt, before, after, seen_before, seen_after, shortage)
    with clock.step("compare before and after"):
        results = results_of_outcome(outcome, data)
        if after is None:
            shutil.copyfile(first / "overlay.mp4", out / "overlay.mp4")
        else:
            write_overlay(out / "overlay.mp4", first, last)
    results = run_facts(config, clock, done) | results
    write_report(out / "report.html", own_report(out, config, recording, outcome, results))
    write_text(out / "results.json", to_json(results, indent=2))
    return results


def _published(rounds: list[Round]) -> int:
    """Number of rounds whose version passed the gate."""
    return sum(each.learnt.version is not None for each in rounds)
