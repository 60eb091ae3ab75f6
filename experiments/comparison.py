"""The paper's tables on Tabletop (1, 2, 5; 4 with --ablation): what is learnt from whose masks.

    python -m experiments.comparison --out learning --jobs 2
    python -m experiments.comparison --out learning --jobs 2 --world-seed 7 --kinds duck,mug,teddy
    python -m experiments.comparison --out learning --jobs 2 --world-seed 9 --clips 128
    python -m experiments.comparison --out learning --jobs 2 --rounds 2 --environment 104

The recording is the demo's environment, another environment, or another world, where no object
recurs. Every method starts from the seed network and takes the same number of steps on batches of
the same size; the control fills its batches with rehearsal data alone. With --rounds every method
learns in that number of rounds, each but the first from masks that the network of the round before
selects. Two rounds are what `gbopt demo` does, which has a gate as well. Results are cached in
OUT/cache by their inputs: a run that is started again goes on where it stopped. Writes
OUT/NAME.json, .md and .svg, NAME from the world, the split, the rounds and a hash of the settings.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import tables
from experiments.cache import cache_of, digest
from experiments.command_line import (
    add_training_arguments,
    config_of,
    make_parser,
    positive,
    run_facts,
    start,
)
from experiments.tabletop import (
    CLIPS,
    ENVIRONMENT_SEED,
    STILLS,
    Stills,
    Tabletop,
    environment,
    few,
    rendered,
)
from experiments.training import Cell, Result, run_cached, seeds_of
from experiments.training_masks import (
    ABLATION,
    CHOOSING,
    COMPARED,
    LIMITS,
    METHODS,
    MaskMaker,
    Sources,
    TrainingMasks,
    label_of,
    masks_with,
)
from gbopt_ros.config import Config
from gbopt_ros.io.datasets.coco import CocoImage
from gbopt_ros.io.files import write_text

_QUICK = ("learning.iterations=1", "learning.batch_size=4", "clip.length=8")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "benchmark-output/learning")
    add_training_arguments(parser, METHODS, COMPARED)
    parser.add_argument(
        "--limits", action="store_true", help="ours with its errors corrected by ground truth too"
    )
    parser.add_argument("--ablation", action="store_true", help="the methods of Table 4 as well")
    parser.add_argument("--world-seed", type=int, help="a world, rendered where missing")
    parser.add_argument(
        "--environment",
        type=int,
        metavar="SEED",
        help="a fixed environment with recurring objects "
        f"(default: {ENVIRONMENT_SEED}, that of the demo)",
    )
    parser.add_argument("--kinds", default="", help="comma-separated unseen kinds of that world")
    parser.add_argument(
        "--clips", type=positive, default=CLIPS, help="scenes of that world's recording"
    )
    parser.add_argument(
        "--rehearsal", type=positive, default=STILLS["rehearsal"], help="its labelled stills"
    )
    parser.add_argument(
        "--on", choices=["test", "val"], default="test", help="its unseen stills; tune on val"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test of all methods")
    args = parser.parse_args(arguments)
    args.kinds = tuple(name.strip() for name in args.kinds.split(",") if name.strip())
    size = args.clips, args.rehearsal
    own = args.kinds or args.on != "test" or size != (CLIPS, STILLS["rehearsal"])
    if args.world_seed is None and own:
        parser.error("--kinds, --clips, --rehearsal and --on are of a world: give --world-seed too")
    if args.world_seed is not None and args.environment is not None:
        parser.error("--environment and --world-seed: give one of the two")
    if args.world_seed is None and args.environment is None:
        args.environment = ENVIRONMENT_SEED
    more = [*(LIMITS if args.limits else ()), *(ABLATION if args.ablation else ())]
    args.methods = list(dict.fromkeys([*args.methods, *more]))
    if args.quick:
        args.seeds, args.set = [0], [*args.set, *_QUICK]
    return args


def run(args: argparse.Namespace) -> None:
    """Make the masks of every method, train what is not there yet, write the tables."""
    config, tabletop = config_of(args), data(args)
    sources: Sources = [tabletop.train], tabletop.validation, tabletop.rehearsal

    def report(masks: dict[str, TrainingMasks], done: dict[str, list[Result]]) -> None:
        result: dict[str, Any] = run_facts(config) | {
            "world": tabletop.name,
            "kinds": args.kinds,
            "unseen_split": args.on,
            "seeds": args.seeds,
            "rounds": args.rounds,
            "statements": tables.statements(done),
            "methods": tables.to_dict(done, masks),
        }
        path = result_path(args, config)
        write_text(path.with_suffix(".json"), json.dumps(result, indent=2) + "\n")
        write_text(path.with_suffix(".md"), tables.markdown(done, masks))
        tables.figure(done, path.with_suffix(".svg"))

    compare(args, config, sources, tabletop, report)
    print(result_path(args, config).with_suffix(".md").read_text(encoding="utf-8"))


def compare(
    args: argparse.Namespace,
    config: Config,
    sources: Sources,
    stills: Stills,
    report: Callable[[dict[str, TrainingMasks], dict[str, list[Result]]], None],
    shown: Sequence[CocoImage] = (),
) -> None:
    """Make the masks of every method, and train every cell that is not cached yet.

    Args:
        args: methods, seeds, rounds, jobs and out.
        sources: data that masks are made of.
        report: gets the masks and the results by method, after each new one and at the end.
        shown: unseen stills whose detections the results keep.
    """
    cache = cache_of(args.out)
    maker = MaskMaker(*sources, config, cache)
    masks = {method: maker.masks_of(method) for method in tqdm(args.methods, "masks")}
    for method, made in masks.items():
        if made.quality is not None:
            numbers = ", ".join(f"{name} {value:.1f}" for name, value in made.quality.items())
            print(f"{label_of(method)}: {numbers}")
    cells = plan(
        args.methods,
        masks,
        config,
        args.seeds,
        shown=tuple(image.id for image in shown),
        rounds=args.rounds,
        select=partial(masks_with, *sources, cache),
    )
    run_cached(cells, stills, cache, args.jobs, partial(report, masks))


def data(args: argparse.Namespace) -> Tabletop:
    if args.quick:
        return few()
    choose = not set(CHOOSING).isdisjoint(args.methods)
    if args.environment is not None:
        return environment(args.out, args.environment, choose)
    size = args.clips, args.rehearsal
    return rendered(args.out, args.world_seed, args.kinds, args.on, choose, *size)


def plan(
    methods: Sequence[str],
    masks: dict[str, TrainingMasks],
    config: Config,
    seeds: Sequence[int],
    **same: Any,
) -> list[Cell]:
    """The cells, all methods of the first seed first; the network before learning has no seed.

    Args:
        same: other fields of `Cell`, the same for all.
    """
    return [
        Cell(method, seed, masks[method], seeded, learns=method != "before", **same)
        for number, (seed, seeded) in enumerate(zip(seeds, seeds_of(config, seeds), strict=True))
        for method in methods
        if method != "before" or number == 0
    ]


def result_path(args: argparse.Namespace, config: Config) -> Path:
    """Where the tables go, without suffix."""
    world = f"world-{args.world_seed}"
    if args.environment is not None:
        world = f"environment-{args.environment}"
    settings = digest([config, args.kinds, args.clips, args.rehearsal, args.quick])[:6]
    rounds = f"-{args.rounds}-rounds" if args.rounds > 1 else ""
    return args.out / f"{world}-{args.on}{rounds}-{settings}"


if __name__ == "__main__":
    sys.exit(start(run, parse_arguments()))
