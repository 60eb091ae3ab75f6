"""All that a machine with one NVIDIA GPU can tell, in at most 8 minutes, as a page with tables.

    python -m benchmarks.gpu --out docs/gpu.md           # JSON: docs/lab-notebook-data/gpu.json
    python -m benchmarks.gpu --parts onnx                # some parts
    python -m benchmarks.gpu --device cpu --quick        # a trial on any machine

Half against single precision, CUDA streams, speed, memory live and while learning, and exported
networks in onnxruntime. Each part has a time budget and runs in a process that is replaced after a
failure, so a part that fails, hangs or dies is written as failed with its reason, and the rest goes
on. Page and JSON are written after every part. The same command measures only what is missing;
`--again` measures everything. Without a GPU the page says that nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu_page import page
from benchmarks.gpu_setup import Setup
from benchmarks.isolated import FAILED, MEASURED, IsolatedProcess, Outcome
from gbopt_ros.io.files import write_text
from gbopt_ros.structures import GboptError

PARTS = {  # seconds; the most important ones first
    "conformance": 70,
    "streams": 45,
    "speed_random": 140,
    "speed_bundled": 60,
    "learning": 70,
    "onnx": 120,
}
_START_S = 60  # budget of the first part, which only imports and asks for the device


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="2 frames of 96x128, a few steps")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--frames", type=int, default=30, help="of a clip")
    parser.add_argument("--flow", default="", help="weights file of RAFT (default: random)")
    parser.add_argument("--minutes", type=float, default=8.0, help="of all parts together")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmark-output/gpu.md"), help="the page"
    )
    args = parser.parse_args(arguments)
    if args.quick:
        args.height, args.width, args.frames = 96, 128, 2
    return args


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts, write page and JSON, and return what the JSON holds.

    Raises:
        GboptError: the page holds measurements of another machine, version or size.
    """
    end = time.monotonic() + 60 * args.minutes
    process = IsolatedProcess()
    setup = Setup(args.device, args.quick, (args.height, args.width), args.frames, args.flow)
    try:
        found = process.run("benchmarks.gpu_parts:facts", _START_S, setup)
        facts = {"setup": asdict(setup), "machine": found.rows[0] if found.rows else None}
        facts = json.loads(json.dumps(facts))  # as they are read again
        results = {**facts, "parts": kept_parts(args, facts)}
        for part in args.parts:
            if results["parts"].get(part, {}).get("status") == MEASURED:
                print(f"{part:<14} measured before")
                continue
            budget = min(PARTS[part], end - time.monotonic())
            outcome = (
                Outcome(found.status, found.reason, [], 0.0)
                if found.status != MEASURED
                else process.run(f"benchmarks.gpu_parts:{part}", budget, setup)
                if budget > 0
                else Outcome(FAILED, f"the {args.minutes:g} minutes were over", [], 0.0)
            )
            results["parts"][part] = asdict(outcome)
            print(f"{part:<14} {outcome.status} in {outcome.seconds:.0f} s {outcome.reason}")
            write(args.out, results)
        return results
    finally:
        process.close()


def kept_parts(args: argparse.Namespace, facts: dict[str, Any]) -> dict[str, Any]:
    """The parts in the JSON of the page, if they are of the same machine and setup."""
    path = json_of(args.out)
    if args.again or not path.exists():
        return {}
    before = json.loads(path.read_text(encoding="utf-8"))
    if {name: before[name] for name in facts} == facts:
        return dict(before["parts"])
    if any(part["status"] == MEASURED for part in before["parts"].values()):
        device = before["machine"]["device"]
        raise GboptError(
            f"{path}: holds measurements of {device} with other settings or versions; name another "
            "--out, or give --again to replace them"
        )
    return {}


def json_of(page: Path) -> Path:
    """The JSON of a page: in `lab-notebook-data` where that is beside the page, else beside it."""
    raw = page.parent / "lab-notebook-data"
    return (raw if raw.is_dir() else page.parent) / page.with_suffix(".json").name


def write(out: Path, results: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(json_of(out), json.dumps(results, indent=2) + "\n")
    write_text(out, page(results))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 if a part failed or something is out of its tolerance."""
    try:
        results = run(parse_arguments(arguments))
    except GboptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    parts = results["parts"].values()
    beyond = [row for part in parts for row in part["rows"] if row.get("passed") is False]
    return int(bool(beyond) or any(part["status"] == FAILED for part in parts))


if __name__ == "__main__":
    sys.exit(main())
