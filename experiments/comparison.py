"""The paper's tables on Tabletop (1, 2, 5; 4 with --terms): what a network learns from whose masks.

    python benchmarks/experiment.py --out learning --jobs 2
    python benchmarks/experiment.py --out learning --jobs 2 --world-seed 7 --kinds duck,mug,teddy
    python benchmarks/experiment.py --out learning --jobs 2 --world-seed 9 --clips 128
    python benchmarks/experiment.py --out learning --jobs 2 --environment 101
    python benchmarks/experiment.py --out learning --jobs 2 --environment 101 --rounds 2

Every row starts from the seed network and takes the same number of steps on batches of the same
size; the control fills its batches with rehearsal data alone. With --rounds every row learns in so
many rounds of so many steps, each but the first from masks that the network of the one before
selects. Two rounds are what `gbopt demo` does, which has a gate as well. Every row and seed is kept
below OUT/cache under a hash of its inputs: started again, a run goes on where it stopped. Writes
OUT/NAME.json, .md and .svg, NAME from the world, the split, the rounds and a hash of the settings.
What each row is: docs/learning.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import tables
from experiments.cache import Cache, digest
from experiments.methods import (
    CHOOSING,
    LABELS,
    LIMITS,
    ROWS,
    TERMS,
    MaskMaker,
    TrainingMasks,
    masks_with,
)
from experiments.tabletop import CLIPS, STILLS, Tabletop, bundled, cores, environment, few, rendered
from experiments.training import Cell, Result, exit_status, folder_of, machine, run_stored, seeds_of
from gbopt_ros.config import Config, load_config
from gbopt_ros.io.files import write_text
from gbopt_ros.io.selection_format import versions

_QUICK = (
    "learning.iterations=1",
    "learning.batch_size=4",
    "adapt.rounds=1",
    "adapt.iterations=1",
    "clip.length=8",
)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/learning"))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(LABELS))
    parser.add_argument("--limits", action="store_true", help="ours with its errors mended by GT")
    parser.add_argument("--terms", action="store_true", help="the rows of Table 4 as well")
    parser.add_argument("--rounds", type=int, default=1, help="of selecting and learning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--world-seed", type=int, help="another world, rendered where missing")
    parser.add_argument(
        "--environment",
        type=int,
        metavar="SEED",
        help="the few things and tables of one environment",
    )
    parser.add_argument("--kinds", default="", help="comma-separated unseen kinds of that world")
    parser.add_argument("--clips", type=int, default=CLIPS, help="scenes of that world's recording")
    parser.add_argument(
        "--rehearsal", type=int, default=STILLS["rehearsal"], help="its labelled stills"
    )
    parser.add_argument(
        "--on", choices=["test", "val"], default="test", help="unseen stills; tune on val"
    )
    parser.add_argument("--config", type=Path, help="YAML profile (default: none)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="a smoke test of all rows")
    args = parser.parse_args(arguments)
    args.kinds = tuple(name.strip() for name in args.kinds.split(",") if name.strip())
    size = args.clips, args.rehearsal
    if args.world_seed is None and (args.kinds or size != (CLIPS, STILLS["rehearsal"])):
        parser.error("--kinds, --clips and --rehearsal are of another world: give --world-seed too")
    if args.environment is not None and (args.world_seed is not None or args.on != "test"):
        parser.error("--environment: a world of its own, with test stills alone")
    if min(size) < 1:
        parser.error(f"--clips, --rehearsal: expected 1 or more, got {size[0]} and {size[1]}")
    if args.rounds < 1:
        parser.error(f"--rounds: expected 1 or more, got {args.rounds}")
    if args.jobs < 1:
        parser.error(f"--jobs: expected 1 or more, got {args.jobs}")
    more = [*(LIMITS if args.limits else ()), *(TERMS if args.terms else ())]
    args.rows = list(dict.fromkeys([*args.rows, *more]))
    if args.quick:
        args.seeds, args.set = [0], [*args.set, *_QUICK]
    return args


def run(args: argparse.Namespace) -> None:
    """Make the masks of every row, train what is not there yet, write the tables."""
    config = load_config(args.config, args.set)
    tabletop = data(args)
    stored = Cache(folder_of(args.out))
    sources = [tabletop.train], tabletop.validation, tabletop.rehearsal
    maker = MaskMaker(*sources, config, stored)
    masks = {row: maker.masks_of(row) for row in tqdm(args.rows, "masks", unit="row")}
    for row, made in masks.items():
        if made.quality is not None:
            print(f"{LABELS[row]}: " + ", ".join(f"{k} {v:.1f}" for k, v in made.quality.items()))
    select = partial(masks_with, *sources, stored)
    cells = plan(args.rows, masks, config, args.seeds, rounds=args.rounds, select=select)

    def report(done: dict[str, list[Result]]) -> None:
        write_tables(args, config, tabletop, masks, done)

    run_stored(cells, tabletop, stored, args.jobs, report)
    print(result_path(args, config).with_suffix(".md").read_text(encoding="utf-8"))


def data(args: argparse.Namespace) -> Tabletop:
    if args.quick:
        return few()
    choose = not set(CHOOSING).isdisjoint(args.rows)
    if args.environment is not None:
        return environment(args.out, args.environment, cores(), choose)
    if args.world_seed is None:
        return bundled(args.out, args.on, cores(), choose)
    size = args.clips, args.rehearsal
    return rendered(args.out, args.world_seed, args.kinds, args.on, cores(), choose, *size)


def plan(
    rows: Sequence[str],
    masks: dict[str, TrainingMasks],
    config: Config,
    seeds: Sequence[int],
    **same: Any,
) -> list[Cell]:
    """The cells, all rows of the first seed first; the network before learning has no seed.

    Args:
        same: what is the same for all, by the names of `Cell`.
    """
    return [
        Cell(row, seed, masks[row], seeded, learns=row != "before", **same)
        for number, (seed, seeded) in enumerate(zip(seeds, seeds_of(config, seeds), strict=True))
        for row in rows
        if row != "before" or number == 0
    ]


def result_path(args: argparse.Namespace, config: Config) -> Path:
    """Where the tables go, without suffix."""
    world = "bundled" if args.world_seed is None else f"world-{args.world_seed}"
    if args.environment is not None:
        world = f"environment-{args.environment}"
    settings = digest([config, args.kinds, args.clips, args.rehearsal, args.quick])[:6]
    rounds = f"-{args.rounds}-rounds" if args.rounds > 1 else ""
    return args.out / f"{world}-{args.on}{rounds}-{settings}"


def write_tables(
    args: argparse.Namespace,
    config: Config,
    tabletop: Tabletop,
    masks: dict[str, TrainingMasks],
    done: dict[str, list[Result]],
) -> None:
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(config),
        "world": tabletop.name,
        "kinds": args.kinds,
        "unseen_split": args.on,
        "seeds": args.seeds,
        "rounds": args.rounds,
        "statements": tables.statements(done),
        "rows": tables.to_dict(done, masks),
        "config": config.to_dict(),
        "versions": versions(),
    }
    path = result_path(args, config)
    write_text(path.with_suffix(".json"), json.dumps(result, indent=2) + "\n")
    write_text(path.with_suffix(".md"), tables.markdown(done, masks))
    tables.figure(done, path.with_suffix(".svg"))


if __name__ == "__main__":
    sys.exit(exit_status(run, parse_arguments()))
