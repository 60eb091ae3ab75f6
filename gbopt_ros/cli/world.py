"""Generate the Tabletop benchmark: labelled stills and a recording, from a seed."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from gbopt_ros.simulation.dataset import SPLITS, WorldConfig, generate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = WorldConfig()
    parser.add_argument("--out", type=Path, required=True, help="folder for the splits")
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="of everything (default: %(default)s)"
    )
    parser.add_argument(
        "--splits", default=",".join(SPLITS), help="comma-separated (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)"
    )
    parser.add_argument(
        "--count", type=int, help="stills in each split of stills (default: the split's own)"
    )
    parser.add_argument(
        "--clips",
        type=int,
        default=defaults.clips,
        help="scenes of the recording (default: %(default)s)",
    )
    parser.add_argument(
        "--frames-per-clip",
        type=int,
        default=defaults.frames_per_clip,
        help="frames of each scene, 10 a second (default: %(default)s)",
    )
    parser.add_argument(
        "--jpeg-quality",
        type=int,
        default=defaults.jpeg_quality,
        help="of stills and video, 1 to 100 (default: %(default)s)",
    )
    parser.add_argument(
        "--kinds",
        default="",
        help="comma-separated unseen kinds, such as duck,mug (default: all)",
    )
    parser.add_argument(
        "--environment",
        action="store_true",
        help="unseen objects are always the same few, on the same few tables",
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
