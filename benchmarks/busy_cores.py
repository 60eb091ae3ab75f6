"""The networks and the optimiser on a CPU that other programs use as well.

    python -m benchmarks.busy_cores
    python -m benchmarks.busy_cores --busy 0 1 --turns default 1000

Beside 0, 1 and 2 processes that never wait: milliseconds of the bundled networks for a frame of the
demo recording, and seconds of a step of learning; medians. In turn, each in a process of its own,
with the threads of torch as libgomp has them by default, which spin for 300,000 turns before they
sleep, and as the programs of this package have them (`gbopt_ros.process`). Writes
OUT/busy_cores.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from gbopt_ros.io.files import write_text
from gbopt_ros.process import SPIN_COUNT

_FRAMES = 4  # of a clip
_DEFAULT = "default"


@dataclass(frozen=True)
class Row:
    """What was measured, by name, with so many busy processes and turns of a waiting thread."""

    busy: int
    turns: str
    times: dict[str, float]


def measure(steps: int) -> dict[str, float]:
    """Wall times of the networks and of a step of learning on the CPU, in this process."""
    import torch

    from gbopt_ros import Pipeline
    from gbopt_ros.config import Config, LearningConfig
    from gbopt_ros.demo.data import REHEARSAL
    from gbopt_ros.io.datasets.coco import load_coco_dir
    from gbopt_ros.io.resources import SEED_PROPOSALS, find_resource
    from gbopt_ros.learning.data.datasets import CocoInstances
    from gbopt_ros.learning.training.fine_tuning import fine_tune
    from gbopt_ros.models.detection import load_mask_rcnn

    pipeline = Pipeline(Config(device="cpu"))
    clip = next(iter(pipeline.clips(find_resource("demo/recording"))))
    clip = replace(clip, frames=clip.frames[:_FRAMES])
    times = []
    for _ in range(1 + steps):
        pipeline.perceive(clip)
        times.append(time.perf_counter())
    parent, _ = load_mask_rcnn(find_resource(SEED_PROPOSALS))
    rehearsal = CocoInstances(load_coco_dir(find_resource(REHEARSAL)))
    learning = LearningConfig(iterations=1 + steps)
    ends: list[float] = []
    fine_tune(
        parent, None, rehearsal, learning, torch.device("cpu"),
        lambda *_: ends.append(time.perf_counter()),
    )  # fmt: skip
    return {
        "networks, ms a frame": 1000 * _median_interval(times) / _FRAMES,
        "a step of learning, s": _median_interval(ends),
    }


def _median_interval(times: Sequence[float]) -> float:
    return statistics.median(end - start for start, end in pairwise(times))


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Within it so many processes of one thread compute without a pause."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure_in_process(turns: str, steps: int) -> dict[str, float]:
    """`measure` in a new process whose threads spin for so many turns."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    if turns != _DEFAULT:
        environment["GOMP_SPINCOUNT"] = turns
    done = subprocess.run(
        [sys.executable, __file__, "--measure", "--steps", str(steps)],
        env=environment, stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(rows: Sequence[Row]) -> str:
    """Markdown: a row for every number of busy processes and of turns."""
    names = list(rows[0].times)
    lines = [
        "| busy processes | turns | " + " | ".join(names) + " |",
        "|---:|---:|" + "---:|" * len(names),
    ]
    for row in rows:
        cells = (f"{row.times[name]:.{0 if row.times[name] >= 10 else 2}f}" for name in names)
        lines.append(f"| {row.busy} | {row.turns} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/busy-cores"))
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="processes")
    parser.add_argument("--turns", nargs="+", default=[_DEFAULT, SPIN_COUNT], help="of a thread")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    rows = []
    for count in args.busy:
        for turns in args.turns:
            with busy(count):
                rows.append(Row(count, turns, measure_in_process(turns, args.steps)))
    args.out.mkdir(parents=True, exist_ok=True)
    write_text(args.out / "busy_cores.json", json.dumps(list(map(asdict, rows)), indent=2) + "\n")
    write_text(args.out / "busy_cores.md", table(rows))
    print(table(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_arguments(arguments)
    if args.measure:
        print(json.dumps(measure(args.steps)))
    else:
        run(args)


if __name__ == "__main__":
    main()
