"""Throughput of `gbopt bulk` against the number of workers, on 20 small bags, and equal masks.

    python -m benchmarks.bulk [--workers 1 2] [--frames 30] [--quick]

The bags show a moving disc, 128x96 pixels. The bundled networks select masks in them, with one
thread a worker. Exits with 1 if a mask differs from that of its bag selected by itself.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.io.selection_format import read_selection
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import Frame

BAGS = 20
QUICK_BAGS, QUICK_FRAMES = 2, 4
SIZE = (96, 128)

Masks = dict[int, list[str]]
"""Run lengths of the masks of every frame, by its stamp."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--frames", type=int, default=30, help="frames of a bag")
    parser.add_argument("--quick", action="store_true", help="few bags and frames")
    args = parser.parse_args()
    bags, count = (QUICK_BAGS, QUICK_FRAMES) if args.quick else (BAGS, args.frames)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in range(bags):
            bag = root / "bags" / f"{number:02d}"
            write_rosbag(disc_frames(count, seed=number), bag, topic="/image")
        print(f"{bags} bags of {count} frames, {SIZE[1]}x{SIZE[0]}")
        for workers in args.workers:
            seconds, frames = run(root / "bags", root / f"out-{workers}", workers)
            print(f"{workers:3} workers {seconds:8.1f} s {frames / seconds:8.2f} frames a second")
        alone = {bag.name: masks_alone(bag) for bag in sorted((root / "bags").iterdir())}
        differ = 0
        for workers in args.workers:
            together = masks_by_bag(root / f"out-{workers}")
            equal = sum(together[name] == masks for name, masks in alone.items())
            differ += bags - equal
            print(f"{workers:3} workers: masks of {equal} of {bags} bags equal those of each alone")
    sys.exit(differ > 0)


def run(bags: Path, out: Path, workers: int) -> tuple[float, int]:
    """Seconds of a run, from the start of its workers to the merged dataset, and its frames."""
    command = ["-m", "gbopt_ros.cli", "bulk", str(bags), f"--out={out}", f"--workers={workers}"]
    shown = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if shown.returncode:
        sys.exit(re.sub(r".*\r", "", shown.stderr))
    done = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return done["seconds"], done["selected_frames"]


def masks_by_bag(out: Path) -> dict[str, Masks]:
    """The run lengths of every frame of a bulk run, by its bag."""
    found: dict[str, Masks] = defaultdict(dict)
    for frame in read_selection(out):
        bag = frame.recording.rsplit("/", 1)[-1]
        found[bag][frame.stamp_ns] = [rle["counts"] for rle in frame.rles]
    return found


def masks_alone(bag: Path) -> Masks:
    """The run lengths of every frame of one bag, selected in this process."""
    return {
        frame.frame.stamp_ns: [rle["counts"] for rle in frame.rles]
        for selection in Pipeline().run(bag)
        for frame in selection.frames
    }


def disc_frames(count: int, seed: int) -> Iterator[Frame]:
    """A disc that moves over a textured table, at 10 Hz."""
    rng = np.random.default_rng(seed)
    table = rng.integers(30, 70, (*SIZE, 3), dtype=np.uint8)
    colour = [int(value) for value in rng.integers(120, 256, 3)]
    for t in range(count):
        image = table.copy()
        cv2.circle(image, (20 + 2 * t, SIZE[0] // 2), 16, colour, -1)
        yield Frame(image, 10**18 + 10**8 * t, t)


if __name__ == "__main__":
    main()
