"""Command-line arguments that choose frames of a recording, the same for every verb."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from gbopt_ros.io.sources.base import Source
from gbopt_ros.io.sources.detect import open_source


def add_source_arguments(parser: argparse.ArgumentParser, *, topic_flag: str = "--topic") -> None:
    """Add the topic, --stride, --start, --end and --resize; `source_from_args` reads them.

    `topic_flag` renames the topic's flag for a verb that also names an output topic.
    """
    parser.add_argument(
        topic_flag,
        dest="source_topic",
        metavar="T",
        help="image topic of a rosbag2; needed where it has several",
    )
    parser.add_argument(
        "--stride", type=_positive, default=1, metavar="N", help="take every N-th frame"
    )
    parser.add_argument(
        "--start", type=_seconds, metavar="S", help="begin S seconds after the first frame"
    )
    parser.add_argument(
        "--end", type=_seconds, metavar="S", help="stop S seconds after the first frame"
    )
    parser.add_argument(
        "--resize", type=_size, metavar="WxH", help="scale every frame, for example 640x480"
    )


def source_from_args(args: argparse.Namespace, path: Path) -> Source:
    """Open the recording at `path` as the arguments say.

    Raises:
        GboptError: as `open_source`.
    """
    return open_source(
        path,
        topic=args.source_topic,
        stride=args.stride,
        start=args.start,
        end=args.end,
        resize=args.resize,
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds from the first frame, got {text}")
    return value


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT such as 640x480, got {text}")
    return int(match[1]), int(match[2])
