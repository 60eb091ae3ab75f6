"""Seconds of two rounds of learning, part by part.

    python -m benchmarks.learning_round
    python -m benchmarks.learning_round --against ../before     # another checkout, in the same run

Both rounds learn from the masks selected in the bundled recording, with the bundled network, the
rehearsal data and the validation set of `gbopt demo`, and its settings. The parts: checking that
the masks belong to their images, recalibrating their confidence, the optimiser steps, the gate, and
the rest. With --against the checkouts take turns, each in a process of its own. Writes
OUT/learning_round.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.stages import median_and_noise

PARTS = {
    "check_agreement": "check of the masks",
    "confident_masks": "confidence",
    "fine_tune": "optimiser steps",
    "compare_on_validation": "gate",
}
ROUNDS = 2
_HERE = Path(__file__).resolve().parents[1]


def select(out: Path) -> None:
    """Select the masks of the bundled recording with this package."""
    from gbopt_ros.config import Config
    from gbopt_ros.io.resources import find_resource
    from gbopt_ros.io.selection_format import SelectionWriter
    from gbopt_ros.io.sources import open_source
    from gbopt_ros.pipeline import Pipeline

    with SelectionWriter(out, "learning_round") as writer:
        for selection in Pipeline(Config()).run(open_source(find_resource("demo/recording"))):
            writer.add(selection)
        writer.finish()


def measure(masks: Path, iterations: int) -> list[dict[str, float]]:
    """Seconds of every part of each round, with the package that this process imports."""
    from gbopt_ros.config import Config, LearningConfig
    from gbopt_ros.demo.data import REHEARSAL, VALIDATION
    from gbopt_ros.io.resources import find_resource
    from gbopt_ros.learning import round as rounds
    from gbopt_ros.learning.store.store import Store

    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **options)
            seconds[PARTS[name]] = time.perf_counter() - start
            return result

        return call

    for name in PARTS:
        setattr(rounds, name, timed(name, getattr(rounds, name)))
    config = Config(learning=LearningConfig(iterations=iterations))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        store.add(masks)
        for number in range(ROUNDS):
            seconds.clear()
            start = time.perf_counter()
            store.learn(
                rounds.config_of_round(config, number),
                rehearsal=find_resource(REHEARSAL), validation=find_resource(VALIDATION),
            )  # fmt: skip
            whole = time.perf_counter() - start
            found.append({**seconds, "rest": whole - sum(seconds.values()), "round": whole})
    return found


def measure_in(checkout: Path, masks: Path, iterations: int) -> list[dict[str, float]]:
    """`measure` with the package of a checkout, in a new process."""
    done = subprocess.run(
        [sys.executable, __file__, "--masks", str(masks), "--iterations", str(iterations)],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    found: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(seconds: dict[str, list[list[dict[str, float]]]]) -> str:
    """Markdown: a row for every part, a column for every round and checkout.

    Args:
        seconds: by name of the checkout, of every repetition, the rounds.
    """
    columns = [(name, number) for number in range(ROUNDS) for name in seconds]
    lines = [
        "| seconds | " + " | ".join(f"round {n + 1}, {name}" for name, n in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for part in (*PARTS.values(), "rest", "round"):
        cells = (
            median_and_noise([rounds[n].get(part, 0.0) for rounds in seconds[name]], 1)
            for name, n in columns
        )
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/learning-round"))
    parser.add_argument("--iterations", type=int, default=90, help="optimiser steps of a round")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measured in turn")
    parser.add_argument("--masks", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    checkouts = {"now": _HERE}
    if args.against:
        checkouts = {"before": args.against.resolve(), **checkouts}
    seconds: dict[str, list[list[dict[str, float]]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        masks = Path(folder) / "masks"
        select(masks)
        for _ in range(args.repetitions):
            for name, checkout in checkouts.items():
                seconds[name].append(measure_in(checkout, masks, args.iterations))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "learning_round.json").write_text(json.dumps(seconds, indent=2) + "\n")
    (args.out / "learning_round.md").write_text(table(seconds))
    print(table(seconds))


if __name__ == "__main__":
    arguments = parse_arguments()
    if arguments.masks:
        print(json.dumps(measure(arguments.masks, arguments.iterations)))
    else:
        run(arguments)
