"""Select masks in a recording: rosbag2, video or folder of images."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from tqdm import tqdm

from gbopt_ros.cli.options import (
    SOURCE_HELP,
    add_config_arguments,
    add_source_arguments,
    config_from_args,
    source_from_args,
)

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help=SOURCE_HELP)
    parser.add_argument(
        "--out", type=Path, help="result folder, must not exist (default: replay-NAME)"
    )
    add_config_arguments(parser, weights=True)
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> None:
    config = config_from_args(args)
    source = source_from_args(args, args.source)

    from gbopt_ros.io.selection_format import SelectionWriter
    from gbopt_ros.pipeline import Pipeline

    pipeline = Pipeline(config)
    out = args.out or Path(f"replay-{source.name}")
    with (
        SelectionWriter(out, source.name) as writer,
        tqdm(total=source.count, desc=source.name, unit="frame", dynamic_ncols=True) as progress,
    ):
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
    summary = {
        "out": str(out),
        "frames": writer.frames,
        "masks": writer.masks,
        "skipped": source.skipped,
        "seconds": {name: round(s, 2) for name, s in pipeline.seconds.items()},
    }
    print(json.dumps(summary))
