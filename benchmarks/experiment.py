"""The paper's tables on Tabletop (1, 2, 5; 4 with --terms): what a network learns from whose masks.

    python benchmarks/experiment.py --out learning --jobs 2
    python benchmarks/experiment.py --out learning --jobs 2 --world-seed 7 --kinds duck,mug,teddy
    python benchmarks/experiment.py --out learning --jobs 2 --world-seed 9 --clips 128

Every row starts from the seed network and takes the same number of steps on batches of the same
size; the control fills its batches with rehearsal data alone. Every row and seed is kept below
OUT/cache under a hash of its inputs: started again, a run goes on where it stopped. Writes
OUT/NAME.json, .md and .svg, NAME from the world, the split and a hash of the settings. What each
row is: docs/learning.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tables
from rows import CHOOSING, LABELS, ROWS, TERMS, MaskMaker, TrainingMasks, inputs_of
from stored import Stored, digest
from tabletop import CLIPS, STILLS, Tabletop, bundled, cores, few, rendered
from tqdm import tqdm
from training import Cell, Result, exit_status, folder_of, run_cells, seeds_of

from gbopt_ros.config import Config, load_config
from gbopt_ros.evaluation.files import write_text
from gbopt_ros.outputs import versions
from gbopt_ros.resources import find_resource

_QUICK = ("learning.iterations=1", "learning.batch_size=4", "clip.length=8")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/learning"))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=[*ROWS, *TERMS])
    parser.add_argument("--terms", action="store_true", help="the rows of Table 4 as well")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--world-seed", type=int, help="another world, rendered where missing")
    parser.add_argument("--kinds", default="", help="comma-separated unseen kinds of that world")
    parser.add_argument("--clips", type=int, default=CLIPS, help="scenes of that world's recording")
    parser.add_argument(
        "--rehearsal", type=int, default=STILLS["rehearsal"], help="its labelled stills"
    )
    parser.add_argument(
        "--on", choices=["test", "val"], default="test", help="unseen stills; tune on val"
    )
    parser.add_argument("--config", type=Path, default=find_resource("config/demo.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="a smoke test of all rows")
    args = parser.parse_args(arguments)
    args.kinds = tuple(name.strip() for name in args.kinds.split(",") if name.strip())
    size = args.clips, args.rehearsal
    if args.world_seed is None and (args.kinds or size != (CLIPS, STILLS["rehearsal"])):
        parser.error("--kinds, --clips and --rehearsal are of another world: give --world-seed too")
    if min(size) < 1:
        parser.error(f"--clips, --rehearsal: expected 1 or more, got {size[0]} and {size[1]}")
    if args.jobs < 1:
        parser.error(f"--jobs: expected 1 or more, got {args.jobs}")
    if args.terms:
        args.rows = list(dict.fromkeys([*args.rows, *TERMS]))
    if args.quick:
        args.seeds, args.set = [0], [*args.set, *_QUICK]
    return args


def run(args: argparse.Namespace) -> None:
    """Make the masks of every row, train what is not there yet, write the tables."""
    config = load_config(args.config, args.set)
    tabletop = data(args)
    stored = Stored(folder_of(args.out))
    maker = MaskMaker(tabletop, config, stored)
    masks = {row: maker.masks_of(row) for row in tqdm(args.rows, "masks", unit="row")}
    for row, made in masks.items():
        if made.quality is not None:
            print(f"{LABELS[row]}: " + ", ".join(f"{k} {v:.1f}" for k, v in made.quality.items()))
    cells, stills = plan(args.rows, masks, config, args.seeds), inputs_of(tabletop)
    keys = {(cell.row, cell.seed): cell.inputs(stills) for cell in cells}

    def result_of(cell: Cell) -> Result | None:
        return stored.get("cell", keys[cell.row, cell.seed])

    def report() -> None:
        found = [(cell.row, result) for cell in cells if (result := result_of(cell))]
        done = {row: [result for name, result in found if name == row] for row in args.rows}
        done = {row: results for row, results in done.items() if results}
        write_tables(args, config, tabletop, masks, done)

    def on_done(cell: Cell, result: Result) -> None:
        stored.put("cell", keys[cell.row, cell.seed], result)
        tqdm.write(
            f"{LABELS[cell.row]}, seed {cell.seed}: unseen AP {result['unseen']['AP']:.2f}, "
            f"seen AP {result['seen']['AP']:.2f}, {result['seconds']:.0f} s"
        )
        report()

    missing: dict[str, Cell] = {}  # rows of equal masks are trained once
    for cell in cells:
        if result_of(cell) is None:
            missing.setdefault(digest(keys[cell.row, cell.seed]), cell)
    print(outlook(list(missing.values()), cells, [result_of(c) for c in cells], args.jobs))
    run_cells(list(missing.values()), tabletop, args.jobs, on_done)
    report()
    print(result_path(args, config).with_suffix(".md").read_text(encoding="utf-8"))


def data(args: argparse.Namespace) -> Tabletop:
    if args.quick:
        return few()
    choose = not set(CHOOSING).isdisjoint(args.rows)
    if args.world_seed is None:
        return bundled(args.out, args.on, cores(), choose)
    size = args.clips, args.rehearsal
    return rendered(args.out, args.world_seed, args.kinds, args.on, cores(), choose, *size)


def plan(
    rows: Sequence[str], masks: dict[str, TrainingMasks], config: Config, seeds: Sequence[int]
) -> list[Cell]:
    """The cells, all rows of the first seed first; the network before learning has no seed."""
    return [
        Cell(row, seed, masks[row], seeded, learns=row != "before")
        for number, (seed, seeded) in enumerate(zip(seeds, seeds_of(config, seeds), strict=True))
        for row in rows
        if row != "before" or number == 0
    ]


def outlook(
    missing: Sequence[Cell], cells: Sequence[Cell], results: Sequence[Result | None], jobs: int
) -> str:
    """What is left to do and how long it takes, where results of this run say so."""
    steps = sum(cell.steps for cell in missing)
    text = f"{len(missing)} of {len(cells)} cells left, {steps} steps"
    known = [r["seconds"] for c, r in zip(cells, results, strict=True) if r and c.learns]
    if missing and known:
        minutes = len(missing) * tables.mean(known) / min(jobs, len(missing)) / 60
        text += f", about {minutes:.0f} minutes in {jobs} process{'es' if jobs > 1 else ''}"
    return text


def result_path(args: argparse.Namespace, config: Config) -> Path:
    """Where the tables go, without suffix."""
    world = "bundled" if args.world_seed is None else f"world-{args.world_seed}"
    settings = digest([config, args.kinds, args.clips, args.rehearsal, args.quick])[:6]
    return args.out / f"{world}-{args.on}-{settings}"


def write_tables(
    args: argparse.Namespace,
    config: Config,
    tabletop: Tabletop,
    masks: dict[str, TrainingMasks],
    done: dict[str, list[Result]],
) -> None:
    quality = {row: masks[row].quality for row in done}
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {cores()} cores, {platform.system()}",
        "world": tabletop.name,
        "kinds": args.kinds,
        "unseen_split": args.on,
        "seeds": args.seeds,
        "statements": tables.statements(done),
        "rows": {
            row: {
                "label": LABELS[row],
                "masks": quality[row],
                "chosen": masks[row].facts,
                "cells": results,
            }
            for row, results in done.items()
        },
        "config": config.to_dict(),
        "versions": versions(),
    }
    path = result_path(args, config)
    write_text(path.with_suffix(".json"), json.dumps(result, indent=2) + "\n")
    write_text(path.with_suffix(".md"), tables.markdown(done, quality))
    tables.figure(done, path.with_suffix(".svg"))


if __name__ == "__main__":
    sys.exit(exit_status(run, parse_arguments()))
