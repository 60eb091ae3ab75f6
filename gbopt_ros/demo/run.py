"""`run_demo`: evaluate, select and learn in rounds, evaluate again, report."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gbopt_ros.config import Config, load_config
from gbopt_ros.demo.data import DemoData, Evaluation, evaluate_on
from gbopt_ros.demo.report import demo_report
from gbopt_ros.demo.rounds import Clock, Round, learn_in_rounds, replay_of_round
from gbopt_ros.evaluation.coco_metrics import paired_difference
from gbopt_ros.evaluation.report import write_report
from gbopt_ros.io.files import write_text
from gbopt_ros.io.json_file import to_json
from gbopt_ros.io.selection_format import peak_memory, versions
from gbopt_ros.learning.store.store import Store
from gbopt_ros.perception.load import proposal_weights
from gbopt_ros.structures import GboptError

_MARK = ".gbopt-demo"  # an empty file in the output folder of a demo
_OUTPUTS = re.compile(r"environment|replay-\d+|store|overlay\.mp4|report\.html|results\.json")
_QUICK = ("learning.iterations=15",)


def demo_config(
    quick: bool,
    seed: int,
    overrides: Sequence[str] = (),
    *,
    profile: Path | None = None,
    weights: str | None = None,
) -> Config:
    """The configuration of a demo: the defaults, the profile, the seed, overrides, the weights."""
    own = [f"learning.seed={seed}", *(_QUICK if quick else ())]
    config = load_config(profile, [*own, *overrides], option="--set")
    if not weights:
        return config
    return replace(config, proposal=replace(config.proposal, weights=weights))


def run_demo(out: Path, config: Config, *, quick: bool = False) -> dict[str, Any]:
    """Run the demo and write `report.html`, `overlay.mp4`, `results.json`, replays and the store.

    Args:
        out: output folder; that of an earlier demo is replaced.
        config: from `demo_config`.
        quick: use a part of the data; shows that everything works, its numbers mean little.

    Returns:
        The content of `results.json`.

    Raises:
        GboptError: `out` holds something else or cannot be written, or no mask is selected.
    """
    prepare(out)
    clock, data = Clock(), DemoData.load(quick)
    with clock.step("evaluate the seed network"):
        before = evaluate_on(data, proposal_weights(config), config)
    rounds = learn_in_rounds(out, config, data, clock)
    if not rounds:
        raise GboptError("no selected mask to learn from: the settings may select nothing")
    shutil.copyfile(replay_of_round(out, len(rounds)) / "overlay.mp4", out / "overlay.mp4")
    learnt = Store(out / "store").models.current()
    with clock.step("evaluate the new network"):
        after = evaluate_on(data, learnt.path, config) if learnt is not None else before
    results = _results(config, data, before, after, rounds, clock)
    write_report(out / "report.html", demo_report(config, data, before, after, rounds, results))
    write_text(out / "results.json", to_json(results, indent=2))
    return results


def prepare(out: Path) -> None:
    """Make an empty folder; the output of an earlier demo is removed.

    Raises:
        GboptError: it holds anything else, or cannot be used.
    """
    try:
        names = {path.name for path in out.iterdir()} if out.exists() else set()
        visible = {name for name in names if not name.startswith(".")}
        if names and (_MARK not in names or not all(map(_OUTPUTS.fullmatch, visible))):
            raise GboptError(f"{out}: holds something else than a demo; choose another --out")
        if names:
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / _MARK).touch()
    except OSError as error:
        raise GboptError(f"{out}: cannot be used ({error.strerror})") from error


def _results(
    config: Config,
    data: DemoData,
    before: Evaluation,
    after: Evaluation,
    rounds: Sequence[Round],
    clock: Clock,
) -> dict[str, Any]:
    changes = {
        "unseen": paired_difference(data.unseen, before.unseen_results, after.unseen_results),
        "seen": paired_difference(data.seen, before.seen_results, after.seen_results),
    }
    return run_facts(config, clock, rounds) | {
        "unseen": {"before": before.unseen.to_dict(), "after": after.unseen.to_dict()},
        "seen": {"before": before.seen.to_dict(), "after": after.seen.to_dict()},
        "ap_change": {
            split: {"difference": difference, "standard_error": error}
            for split, (difference, error) in changes.items()
        },
        "counts": {
            "frames": len(rounds[-1].replayed.selected),
            "unseen_stills": len(data.unseen),
            "seen_stills": len(data.seen),
        },
    }


def run_facts(config: Config, clock: Clock, rounds: Sequence[Round]) -> dict[str, Any]:
    """The entries of `results.json` that all demos have."""
    return {
        "seconds": clock.seconds | {"total": round(sum(clock.seconds.values()), 2)},
        "rounds": [each.to_dict() for each in rounds],
        "seed": config.learning.seed,
        "peak_memory_bytes": peak_memory(),
        "versions": versions(),
    }
