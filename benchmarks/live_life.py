"""Life of the live graph: start, idle time, age of its masks, memory and end, of two checkouts.

`python -m benchmarks.live_graph --against CHECKOUT` prints the table of `compare`. Both checkouts
need `make setup`, and take turns, so that a machine that slows down slows both. Since the messages
of the package change, only topics with messages of ROS itself are read: `/diagnostics`, which come
once in a second, and the label images.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image

from benchmarks.graph_processes import (
    COMPOSED,
    SEPARATE,
    Participant,
    checkout_environment,
    cpu_seconds,
    graph_processes,
    proportional_bytes,
    resident_bytes,
)
from benchmarks.stages import median_and_noise
from gbopt_ros.io.files import write_text
from gbopt_ros.nodes.base import RESULT_QOS
from gbopt_ros.nodes.messages import stamp_ns
from gbopt_ros.structures import Frame, GboptError

IDLE_S = 10.0
EARLY_S = (0.5, 1.0)  # from the start to Ctrl-C
SCENE, CLIP = 10, 30  # frames of a scene of the demo recording, and of a clip by default
TAIL_S = 8.0  # for the last masks
LEARNER = "learner"

Measures = dict[str, float | str]
_HERE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Variant:
    """A checkout, and the profile (relative to it) that its nodes take."""

    checkout: Path
    profile: str = ""


class LifeObserver(Participant):
    """Records the diagnostics of all nodes, and when the label image of a frame came.

    Attributes:
        values: last diagnostics of each node.
        active: nodes that were active.
        latencies: mean latency of the last clips, seconds, in every diagnostics of the selector.
        sent, arrived: times of each frame and of its label image, by stamp.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, dict[str, str]] = {}
        self.active: set[str] = set()
        self.latencies: list[float] = []
        self.sent: dict[int, float] = {}
        self.arrived: dict[int, float] = {}
        subscribe = self.node.create_subscription
        subscribe(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        subscribe(Image, "selector/output/label_image", self._on_labels, RESULT_QOS)

    def wait_until_active(self, nodes: set[str]) -> None:
        """Wait until all of these nodes have been active.

        Raises:
            GboptError: after two minutes they are not.
        """
        self.spin_until(lambda: nodes <= self.active, 120)
        if not nodes <= self.active:
            raise GboptError(f"not active after two minutes: {', '.join(nodes - self.active)}")

    def play(self, frames: Sequence[Frame], hz: float) -> None:
        """Publish frames at a rate, whatever becomes of them."""
        start = time.monotonic()
        for index, frame in enumerate(frames):
            self.spin_for(start + index / hz - time.monotonic())
            self.sent[frame.stamp_ns] = time.monotonic()
            self.send(frame)

    def _on_labels(self, message: Any) -> None:
        self.arrived[stamp_ns(message.header.stamp)] = time.monotonic()

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            self.values[status.name] = values
            if values.get("state") == "active":
                self.active.add(status.name)
            if status.name == "selector" and values.get("latency mean (s)"):
                self.latencies.append(float(values["latency mean (s)"]))


def continuous(frames: Sequence[Frame], hz: float) -> list[Frame]:
    """The demo recording without gaps: each scene forth, back and forth, which fills a clip."""
    period_ns = round(1e9 / hz)
    scenes = [frames[start : start + SCENE] for start in range(0, len(frames), SCENE)]
    stream = itertools.chain.from_iterable([*s, *reversed(s), *s] for s in scenes)
    return [
        replace(frame, index=index, stamp_ns=(index + 1) * period_ns)
        for index, frame in enumerate(stream)
    ]


def life(modules: tuple[str, ...]) -> Measures:
    """Start, idle time and end of the graph of this checkout with no camera."""
    with LifeObserver() as observer:
        start = time.monotonic()
        with graph_processes(modules) as processes:
            observer.wait_until_active(set(SEPARATE))
            row: Measures = {"start to active, s": time.monotonic() - start}
            pids = [process.pid for process in processes]
            row |= {"idle, % of a core": _idle_percent(pids)}
            row |= {"memory, MB": sum(map(resident_bytes, pids)) / 1e6}
            end = time.monotonic()
        row |= {"Ctrl-C to end, s": time.monotonic() - end}
    return {name: round(value, 2) for name, value in row.items() if not isinstance(value, str)}


def measure(variant: Variant, frames: Sequence[Frame], hz: float) -> Measures:
    """One whole life of the composed graph with the learner, and two that end early.

    Args:
        frames: three clips or more. The ages of the masks are those of all but the first and the
            last clip.

    Raises:
        GboptError: a node did not start, or no masks came.
    """
    row: Measures = {}
    start = time.monotonic()
    with LifeObserver() as observer, _graph(variant, row) as pids:
        observer.wait_until_active(set(SEPARATE))
        row |= {"start to active, s": time.monotonic() - start}
        observer.wait_until_active({LEARNER})
        row |= {"start to active with the learner, s": time.monotonic() - start}
        row |= {"idle, % of a core": _idle_percent(pids)}
        row |= _memory(pids, "after the start")
        observer.play(frames, hz)
        latencies = list(observer.latencies)  # not those of a clip that silence ended
        observer.spin_for(TAIL_S)
        stamps = [frame.stamp_ns for frame in frames[CLIP:-CLIP]]
        ages = [observer.arrived[s] - observer.sent[s] for s in stamps if s in observer.arrived]
        if not ages or not latencies:
            raise GboptError(f"no masks came out of the graph of {variant.checkout}")
        row |= {"age of masks, median, s": statistics.median(ages)}
        row |= {"age of masks, 95th percentile, s": float(np.percentile(ages, 95))}
        row |= {"last frame of a clip to its masks, s": statistics.median(latencies)}
        dropped = float(observer.values["clip_buffer"].get("dropped", 0))
        row |= {"frames dropped, %": 100 * dropped / len(frames)}
        row |= _memory(pids, "after the run")
    for seconds in EARLY_S:
        with _graph(variant, row, f" {seconds:g} s after the start"):
            time.sleep(seconds)
    return row


@contextmanager
def _graph(variant: Variant, row: Measures, when: str = "") -> Iterator[list[int]]:
    """Processes of the composed graph and the learner; their end goes into the row.

    What they wrote is shown where the block fails.
    """
    with tempfile.TemporaryDirectory() as store, tempfile.TemporaryFile() as log:
        options: dict[str, Any] = {"checkout": variant.checkout, "log": log, "store": store}
        if variant.profile:
            options |= {"profile": variant.checkout / variant.profile}
        try:
            with graph_processes((*COMPOSED, LEARNER), **options) as processes:
                yield [process.pid for process in processes]
                end = time.monotonic()
        except GboptError:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
        row |= {f"Ctrl-C{when} to end, s": time.monotonic() - end}
        log.seek(0)
        traceback = " with traceback" if b"Traceback" in log.read() else ""
        statuses = " and ".join(str(process.returncode) for process in processes)
        row |= {f"exit statuses of Ctrl-C{when}": statuses + traceback}


def _idle_percent(pids: Sequence[int]) -> float:
    before = sum(map(cpu_seconds, pids))
    time.sleep(IDLE_S)
    return 100 * (sum(map(cpu_seconds, pids)) - before) / IDLE_S


def _memory(pids: Sequence[int], when: str) -> Measures:
    composed, learner = (resident_bytes(pid) / 1e6 for pid in pids)
    return {
        f"memory {when}, composed, MB": composed,
        f"memory {when}, learner, MB": learner,
        f"memory {when}, PSS of both, MB": sum(map(proportional_bytes, pids)) / 1e6,
    }


def table(rounds: Mapping[str, Sequence[Measures]]) -> str:
    """Markdown: a row for every measure, a column for every variant and for its ratio.

    Args:
        rounds: by name of the variant, the measures of every round. The ratio is to the first
            variant in the same round.

    Returns:
        Medians of the rounds, with half the range between the quartiles; texts once each.
    """
    first, *others = rounds
    head = [first, *itertools.chain.from_iterable((name, "ratio") for name in others)]
    lines = ["| | " + " | ".join(head) + " |", "|---|" + "---:|" * len(head)]
    for measured in rounds[first][0]:
        columns = {name: [row[measured] for row in rows] for name, rows in rounds.items()}
        cells = [_cell(columns[first])]
        for name in others:
            cells += [_cell(columns[name]), _ratio(columns[first], columns[name])]
        lines.append(f"| {measured} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[Any]) -> str:
    if isinstance(values[0], str):
        return "; ".join(dict.fromkeys(values))
    median = statistics.median(values)
    return median_and_noise(values, 0 if median >= 100 else 1 if median >= 10 else 2)


def _ratio(before: Sequence[Any], now: Sequence[Any]) -> str:
    if isinstance(before[0], str) or not all(before):
        return ""
    return median_and_noise([b / a for a, b in zip(before, now, strict=True)], 2)


def check_checkout(checkout: Path) -> None:
    """Check that the processes of a checkout run its own package.

    Raises:
        GboptError: they run another one, or the checkout has no environment.
    """
    python, environment = checkout_environment(checkout)
    done = subprocess.run(
        [python, "-c", "import gbopt_ros.msg; print(gbopt_ros.__file__)"],
        cwd=checkout, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    found = done.stdout.strip() or (done.stderr.strip().splitlines() or ["nothing"])[-1]
    if Path(found) != checkout / "gbopt_ros" / "__init__.py":
        raise GboptError(f"{checkout} should run its own gbopt_ros with messages, not: {found}")


def compare(
    before: Path, frames: Sequence[Frame], count: int, hz: float, out: Path | None = None
) -> str:
    """The table of a checkout and of this one, as robots run them and by whole clips.

    Args:
        before: the other checkout, with its own defaults.
        frames: of the demo recording.
        count: number of rounds.
        hz: frames per second.
        out: JSON file for the measures of all rounds.

    Raises:
        GboptError: a checkout cannot run its own package, or a graph does not work.
    """
    variants = {
        "before": Variant(before.resolve()),
        "now": Variant(_HERE, "config/robot.yaml"),
        "now, by whole clips": Variant(_HERE),
    }
    for variant in variants.values():
        check_checkout(variant.checkout)
    stream = continuous(frames, hz)[: 5 * CLIP]
    rounds: dict[str, list[Measures]] = {name: [] for name in variants}
    for _ in range(count):
        for name, variant in variants.items():
            rounds[name].append(measure(variant, stream, hz))
            if out:  # what is measured is kept
                write_text(out, json.dumps(rounds, indent=2) + "\n")
    return table(rounds)
