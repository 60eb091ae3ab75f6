"""Select masks in many recordings at once, on all cores, GPUs or machines, as one dataset.

A source is a recording, a folder of recordings, or a manifest: a YAML list of paths, or of mappings
with `source` and, as needed, `topic`, `start`, `end` and `name`. Started again after it was
killed, the same command does only what is missing. What fails is listed, the rest goes on.
`gbopt learn OUT` and `gbopt pretrain OUT` read the result.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from gbopt_ros.bulk import SHARD_FRAMES
from gbopt_ros.cli.options import (
    add_config_arguments,
    add_output_arguments,
    add_source_arguments,
    config_from_args,
    positive,
    source_options_from_args,
)
from gbopt_ros.config import Config
from gbopt_ros.io.json_file import Fields
from gbopt_ros.structures import GboptError

if TYPE_CHECKING:
    from gbopt_ros.bulk.workers import Make, Workers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        type=Path,
        nargs="+",
        metavar="SOURCE",
        help="recording (rosbag2, video, folder of images), folder of recordings, or manifest.yaml",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the dataset")
    parser.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="number of processes (default: one a GPU, else one a core)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on a cluster of Ray: its address, or auto, or local for one on this machine; all "
        "machines must see the sources and --out under the same paths",
    )
    add_output_arguments(parser)
    parser.add_argument(
        "--shard-frames",
        type=positive,
        metavar="N",
        default=SHARD_FRAMES,
        help="least number of frames of a shard, the unit of work (default: %(default)s)",
    )
    add_config_arguments(parser, weights=True)
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from gbopt_ros.bulk.recordings import find_recordings
    from gbopt_ros.bulk.run import BulkRun
    from gbopt_ros.bulk.shards import ShardWorker
    from gbopt_ros.pipeline import identity

    config = config_from_args(args)
    options = source_options_from_args(args, config.clip.max_pixels)
    out = Path(os.path.abspath(args.out))
    if _holds_something_else(out):
        raise GboptError(f"{args.out}: holds something else than a bulk run; choose another --out")
    recordings = find_recordings(args.sources, options, args.source_topic, out=out)
    frames, overlay = not args.no_frames, not args.no_overlay
    make = partial(ShardWorker, config, frames, overlay, Path.cwd())
    with tqdm(total=0, desc="bulk", unit="frame", dynamic_ncols=True) as progress:

        def on_frames(planned: int, done: int) -> None:
            progress.total = planned
            progress.update(done - progress.n)

        bulk = BulkRun(
            recordings,
            out,
            config,
            identity(config) | {"written": {"frames": frames, "overlay": overlay}},
            shard_frames=args.shard_frames,
            on_frames=on_frames,
        )
        outcome = bulk.run(partial(_workers, args, config, make))
    print(outcome.table())
    if outcome.failures:
        raise GboptError(
            f"failures: {len(outcome.failures)}, listed above and in {args.out / 'run.json'}; all "
            "else is done, and the same command tries again what failed"
        )


def _holds_something_else(out: Path) -> bool:
    """Whether a folder holds what no bulk run has written, such as one replay."""
    if not out.is_dir() or all(each.name.startswith(".") for each in out.iterdir()):
        return False
    if (out / "plans").is_dir():
        return False
    try:
        return "recordings" not in Fields.read(out / "run.json")
    except GboptError:
        return True


def _workers(args: argparse.Namespace, config: Config, make: Make) -> Workers:
    """The workers that the arguments ask for."""
    import torch

    from gbopt_ros.bulk.workers import ProcessWorkers, RayWorkers

    wants_gpu = config.device in ("auto", "cuda")
    if args.ray is not None:
        address = None if args.ray == "local" else args.ray
        return RayWorkers(args.workers, make, address, wants_gpu)
    gpus = torch.cuda.device_count() if wants_gpu else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ProcessWorkers(args.workers or gpus or cores or 1, make, gpus)
