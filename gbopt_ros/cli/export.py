"""Export images and masks for an annotation tool, as a COCO or a YOLO dataset.

The masks are those of a store's training set or of an output of `gbopt replay`. Change them in a
tool that reads COCO (CVAT, Datumaro, FiftyOne, ...) or YOLO, and `gbopt import` takes them back.
Keep the names of the images: labels find their image by them. FiftyOne has a format of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gbopt_ros.cli.options import check_has_frames
from gbopt_ros.structures import GboptError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from gbopt_ros.learning.data.labels import FORMATS

    parser.add_argument(
        "source", type=Path, metavar="STORE|REPLAY",
        help="--out folder of gbopt learn or gbopt replay",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=FORMATS, default=FORMATS[0], help="layout (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder; must not exist")


def run(args: argparse.Namespace) -> None:
    from gbopt_ros.io.selection_format import SELECTION_NAME
    from gbopt_ros.learning.data.labels import export_labels, replay_frames
    from gbopt_ros.learning.store.store import Store

    if (args.source / SELECTION_NAME).is_file():
        check_has_frames(args.source)
        exported = export_labels(replay_frames(args.source), args.out, args.format)
    else:
        if not (args.source / "training").is_dir():
            raise GboptError(
                f"{args.source}: neither an output of `gbopt replay` nor a store of `gbopt learn`"
            )
        exported = Store(args.source).export(args.out, args.format)
    print(f"{args.out}: {exported.masks} masks in {exported.images} images")
