"""Select masks in a recording: rosbag2, video or folder of images.

A run that was cut, even by kill -9 or a loss of power, goes on after its last whole clip when it is
started again with --resume. Configuration, weights and recording must be the same; `selected.json`
is then what an uncut run writes.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gbopt_ros.cli.options import (
    SOURCE_HELP,
    add_config_arguments,
    add_output_arguments,
    add_source_arguments,
    config_from_args,
    source_from_args,
)
from gbopt_ros.config import Config
from gbopt_ros.io.sources import Source, files_of_recording
from gbopt_ros.structures import GboptError

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help=SOURCE_HELP)
    parser.add_argument(
        "--out", type=Path, help="result folder, must not exist (default: replay-NAME)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run that was cut, if any; if this one is cut, keep what is done",
    )
    add_output_arguments(parser)
    parser.add_argument(
        "--rerun",
        type=Path,
        metavar="FILE.rrd",
        help="also write a recording for the Rerun viewer (extra `rerun`)",
    )
    add_config_arguments(parser, weights=True)
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> None:
    if args.resume and args.no_frames:
        raise GboptError("--resume: a run goes on from its frames; leave out --no-frames")
    if args.rerun is not None:
        from gbopt_ros.io.rerun_file import check_new

        if args.no_frames:
            raise GboptError("--rerun: it shows the frames; leave out --no-frames")
        check_new(args.rerun)
    config = config_from_args(args)
    source = source_from_args(args, args.source, config.clip.max_pixels)

    from gbopt_ros.io.selection_format import SelectionWriter
    from gbopt_ros.pipeline import Pipeline

    pipeline = Pipeline(config)
    out = args.out or Path(f"replay-{source.name}")
    writing = SelectionWriter(
        out,
        source.name,
        frames=not args.no_frames,
        overlay=not args.no_overlay,
        identity=None if args.no_frames else _identity(args, config, source),
        resume=args.resume,
        linker=config.tracks.linker(),
    )
    with (
        writing as writer,
        tqdm(total=source.count, desc=source.name, unit="frame", dynamic_ncols=True) as progress,
    ):
        if writer.clips:
            log.info("%s: goes on after %d clips, %d frames", out, writer.clips, writer.frames)
        progress.update(writer.frames)
        for selection in pipeline.run(source, first_clip=writer.clips):
            writer.add(selection)
            progress.update(len(selection))
        writer.finish(
            source=str(args.source),
            config=config.to_dict(),
            seconds=dict(pipeline.seconds),
            skipped_frames=source.skipped,
        )
    if args.rerun is not None:
        from gbopt_ros.io.rerun_file import write_rerun

        write_rerun(out, args.rerun)
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


def _identity(args: argparse.Namespace, config: Config, source: Source) -> dict[str, Any]:
    """All that decides the result, with digests of the files of the configuration."""
    from gbopt_ros.models.device import resolve_device
    from gbopt_ros.pipeline import identity

    return {
        "source": files_of_recording(args.source),
        "frames": asdict(source.options) | {"topic": args.source_topic},
        "overlay": not args.no_overlay,
        "device": str(resolve_device(config.device)),
    } | identity(config)
