"""Select masks in a recording: rosbag2, video or folder of images."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from gbopt_ros.cli.source_options import add_source_arguments, source_from_args
from gbopt_ros.config import load_config

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="rosbag2 folder, .mcap, .db3, video or folder")
    parser.add_argument(
        "--out", type=Path, help="result folder, must not exist (default: replay-NAME)"
    )
    parser.add_argument("--weights", help="proposal network (default: the bundled seed network)")
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML file with overrides, such as config/robot.yaml (default: none)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="such as selection.k=5"
    )
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> None:
    config = load_config(args.config, args.set)
    if args.weights:
        config = replace(config, proposal=replace(config.proposal, weights=args.weights))
    source = source_from_args(args, args.source)

    from gbopt_ros.io.selection_format import ReplayWriter
    from gbopt_ros.pipeline import Pipeline

    pipeline = Pipeline(config)
    out = args.out or Path(f"replay-{source.name}")
    with ReplayWriter(out, source.name) as writer:
        progress = tqdm(total=source.count, desc=source.name, unit="frame", dynamic_ncols=True)
        with progress:
            for selection in pipeline.run(source):
                writer.add(selection)
                progress.update(len(selection))
        writer.finish(
            source=str(args.source),
            config=config.to_dict(),
            seconds=dict(pipeline.seconds),
            skipped_frames=source.skipped,
        )
    if writer.masks == 0:
        log.warning("no mask was selected in %d frames", writer.frames)
    print(
        json.dumps(
            {
                "out": str(out),
                "frames": writer.frames,
                "masks": writer.masks,
                "skipped": source.skipped,
                "seconds": {name: round(s, 2) for name, s in pipeline.seconds.items()},
            }
        )
    )
