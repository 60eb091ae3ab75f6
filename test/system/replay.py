"""Replays of recordings and of rosbags made of them: same masks, bounded memory, time a stage.

    python benchmarks/replay.py                              # the demo recording
    python benchmarks/replay.py video.mp4 folder_of_images   # yours
    python benchmarks/replay.py video.mp4 --resize 640x360   # smaller frames, several times faster

For every SOURCE: `gbopt bag` to mcap and to sqlite3, `gbopt replay` of all three and of the first
half, each in a process of its own, so that its peak memory is its own. Exit status 1 if the masks
of a bag differ from those of its source.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources import open_source


def gbopt(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "gbopt_ros.cli", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def replay(source: Path, out: Path, extra: list[str]) -> dict[str, Any]:
    """Replay and return the run's facts."""
    gbopt("replay", source, "--out", out, *extra)
    return json.loads((out / "run.json").read_text(encoding="utf-8"))


def masks(out: Path) -> list[tuple[int, str]]:
    content = json.loads((out / "selected.json").read_text(encoding="utf-8"))
    return [(a["image_id"], a["segmentation"]["counts"]) for a in content["annotations"]]


def report(name: str, run: dict[str, Any]) -> None:
    frames, seconds = run["counts"]["frames"], run["seconds"]
    total = sum(seconds.values())
    shares = ", ".join(f"{stage} {100 * s / total:.0f} %" for stage, s in seconds.items())
    print(
        f"{name}: {frames} frames, {run['counts']['masks']} masks, {frames / total:.1f} frames/s, "
        f"peak {run['peak_memory_bytes'] / 1e6:.0f} MB; {shares}"
    )


def check(source: Path, extra: list[str], scratch: Path) -> bool:
    """Whether the source and its bags give the same masks."""
    frames = [frame.stamp_ns for frame in open_source(source)]
    half = (frames[len(frames) // 2] - frames[0]) / 1e9
    run = replay(source, scratch / "half", [*extra, f"--end={half}"])
    report(f"{source.name}, first half", run)
    run = replay(source, scratch / "whole", extra)
    report(f"{source.name}, whole", run)
    expected, same = masks(scratch / "whole"), True
    for storage in ("mcap", "sqlite3"):
        gbopt("bag", source, scratch / storage, "--storage", storage)
        report(storage, replay(scratch / storage, scratch / f"{storage}-out", extra))
        equal = masks(scratch / f"{storage}-out") == expected
        print(f"{storage}: masks {'identical' if equal else 'DIFFER'}")
        same = same and equal
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", type=Path, nargs="*")
    parser.add_argument("--quick", action="store_true", help="only the first 4 s of the demo")
    parser.add_argument("--resize", metavar="WxH", help="of every replay, as of `gbopt replay`")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    extra = [f"--set={override}" for override in args.set]
    if args.resize:
        extra += ["--resize", args.resize]
    same = True
    with tempfile.TemporaryDirectory() as folder:
        sources = args.sources
        if not sources:
            bag = Path(folder) / "demo"
            end = ["--end", "4"] if args.quick else []
            gbopt("bag", find_resource("demo/recording"), bag, *end)
            sources = [bag]
        for number, source in enumerate(sources):
            scratch = Path(folder) / str(number)
            scratch.mkdir()
            same = check(source, extra, scratch) and same
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
