"""Milliseconds a frame, stage by stage: the networks, and all that runs beside them on the CPU.

    python -m benchmarks.stages                              # the demo recording at three sizes
    python -m benchmarks.stages my_video.mp4 --frames 60
    python -m benchmarks.stages --against ../before          # another checkout, in the same run
    python -m benchmarks.stages --set proposal.weights=learnt.onnx

The stages of `gbopt replay`, one after the other in one thread: decoding, the bundled networks,
motion, the selection, the flow of its composites, outlines, and writing. Times are CPU times: what
other processes take does not count. The first clip is run once before, so that compiled code and
memory are there, as on a robot that has seen a clip. With --against the checkouts take turns, each
in a process of its own, so that a machine that slows down slows both. Values are medians of the
rounds, with half the range between the quartiles as noise. Writes OUT/stages.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIZES = ((320, 240), (640, 480), (1280, 720))
NETWORKS = ("proposals", "background", "flow")
BESIDE = ("motion", "selection", "composite flow", "outlines", "tracks")
STAGES = ("decoding", *NETWORKS, *BESIDE, "writing")
_HERE = Path(__file__).resolve().parents[1]


def measure(
    source: Path, size: tuple[int, int], frames: int, overrides: Sequence[str] = ()
) -> dict[str, float]:
    """Milliseconds a frame of every stage, in this process and with the package it imports."""
    time.perf_counter = time.process_time  # the clock of `Pipeline.seconds`
    import cv2
    import torch

    from gbopt_ros.config import load_config
    from gbopt_ros.io.selection_format import SelectionWriter
    from gbopt_ros.io.sources import open_source
    from gbopt_ros.perception.flow import DisFlow
    from gbopt_ros.pipeline import Pipeline
    from gbopt_ros.structures import Frame

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pipeline = Pipeline(load_config(None, overrides))
    clips: list[list[Frame]] = []
    read, start = 0, time.perf_counter()
    for clip in pipeline.clips(open_source(source, resize=size)):
        clips.append(list(clip.frames)[: frames - read])
        read += len(clip)
        if read >= frames:
            break
    decoding = (time.perf_counter() - start) / read
    list(pipeline.run(clips[0], prefetch=False))
    pipeline.seconds.clear()
    flow, composites = DisFlow.flow, [0.0]

    def timed_flow(network: Any, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = flow(network, *arguments)
        if network._preset != cv2.DISOPTICAL_FLOW_PRESET_MEDIUM:  # that of motion
            composites[0] += time.perf_counter() - start
        return result

    DisFlow.flow = timed_flow  # type: ignore[method-assign]
    selections = [done for clip in clips for done in pipeline.run(clip, prefetch=False)]
    count = sum(map(len, clips))
    seconds = {**pipeline.seconds, "decoding": decoding * count}
    seconds["composite flow"] = composites[0] - seconds["flow"]
    seconds["selection"] -= seconds["composite flow"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with SelectionWriter(Path(folder) / "out", "stages") as writer:
            for selection in selections:
                writer.add(selection)
            writer.finish()
        seconds["writing"] = time.perf_counter() - start
    # A checkout of before may not have all stages.
    return {stage: 1e3 * seconds.get(stage, 0.0) / count for stage in STAGES}


def measure_in(
    checkout: Path, source: Path, size: tuple[int, int], frames: int, overrides: Sequence[str]
) -> Any:
    """`measure` with the package of a checkout, in a new process with one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": str(checkout)}
    width, height = map(str, size)
    done = subprocess.run(
        [
            sys.executable, __file__, str(source), "--frames", str(frames), "--one", width, height,
            "--set", *overrides,
        ],
        env=environment, stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def table(rounds: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Markdown: a column for every size and checkout.

    Args:
        rounds: by size and name of the checkout, the milliseconds of every round.
    """
    sums = {
        "**networks**": NETWORKS,
        "**beside them**": BESIDE,
        "**all**": STAGES,
    }
    columns = [(size, name) for size, by_name in rounds.items() for name in by_name]
    lines = [
        "| ms a frame | " + " | ".join(f"{size}, {name}" for size, name in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for title, parts in {**{stage: (stage,) for stage in STAGES}, **sums}.items():
        cells = []
        for size, name in columns:
            values = [sum(found[part] for part in parts) for found in rounds[size][name]]
            cells.append(median_and_noise(values, 1))
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def median_and_noise(values: Sequence[float], digits: int) -> str:
    """The median, and half the range between the quartiles (0 for one value)."""
    low = high = 0.0
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{statistics.median(values):.{digits}f} ± {(high - low) / 2:.{digits}f}"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, nargs="?", default=_HERE / "demo/recording")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/stages"))
    parser.add_argument("--frames", type=int, default=30, help="of the first clips")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measured in turn")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings")
    parser.add_argument("--quick", action="store_true", help="a smoke test: small, one round")
    parser.add_argument("--one", type=int, nargs=2, metavar=("W", "H"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    source = args.source.resolve()
    sizes, count, frames = SIZES, args.rounds, args.frames
    if args.quick:
        sizes, count, frames = ((160, 120),), 1, 4
    checkouts = {"now": _HERE}
    if args.against:
        checkouts = {"before": args.against.resolve(), **checkouts}
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {
        f"{width}x{height}": {name: [] for name in checkouts} for width, height in sizes
    }
    for _ in range(count):
        for size, by_name in zip(sizes, rounds.values(), strict=True):
            for name, checkout in checkouts.items():
                by_name[name].append(measure_in(checkout, source, size, frames, args.set))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "stages.json").write_text(json.dumps(rounds, indent=2) + "\n")
    (args.out / "stages.md").write_text(table(rounds))
    print(table(rounds))


if __name__ == "__main__":
    arguments = parse_arguments()
    if arguments.one:
        options = arguments.source, arguments.one, arguments.frames, arguments.set
        print(json.dumps(measure(*options)))
    else:
        run(arguments)
