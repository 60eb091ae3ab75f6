"""Generate the Tabletop benchmark: labelled stills and a recording, from a seed."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from gbopt_ros.simulation.dataset import SPLITS, WorldConfig, generate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder for the splits")
    parser.add_argument(
        "--splits", default=",".join(SPLITS), help="comma-separated (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="number of processes (default: one for each core)",
    )
    parser.add_argument(
        "--count", type=int, help="number of stills in each split of stills (default: its own)"
    )
    for flag, meaning in (
        ("--seed", "seed of all random numbers"),
        ("--clips", "number of scenes in the recording"),
        ("--frames-per-clip", "number of frames of each scene, 10 a second"),
        ("--jpeg-quality", "quality of stills and video, 1 to 100"),
    ):
        default = getattr(WorldConfig, flag[2:].replace("-", "_"))
        parser.add_argument(
            flag, type=int, default=default, help=f"{meaning} (default: %(default)s)"
        )
    parser.add_argument(
        "--kinds",
        default="",
        help="comma-separated unseen kinds, such as duck,mug (default: all)",
    )
    parser.add_argument(
        "--environment",
        action="store_true",
        help="show unseen objects in a fixed environment: the same few objects, tables and walls "
        "recur in every scene",
    )


def run(args: argparse.Namespace) -> None:
    config = WorldConfig(
        args.seed,
        args.jobs,
        args.count,
        args.clips,
        args.frames_per_clip,
        args.jpeg_quality,
        tuple(_names(args.kinds)),
        args.environment,
    )
    generate(args.out, _names(args.splits), config)


def _names(listed: str) -> list[str]:
    """The names of a comma-separated list, each once."""
    return list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
