"""Turn a video, a folder of images or a topic of another bag into a rosbag2."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from gbopt_ros.cli.options import SOURCE_HELP, add_source_arguments, source_from_args
from gbopt_ros.io.rosbag_writer import STORAGES, write_rosbag
from gbopt_ros.io.sources.images import COMPRESSIONS

DEFAULT_TOPIC = "/camera/color/image_raw"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help=SOURCE_HELP)
    parser.add_argument("out", type=Path, help="folder of the new rosbag2; must not exist")
    parser.add_argument(
        "--storage",
        choices=tuple(STORAGES),
        default="mcap",
        help="storage plugin (default: %(default)s)",
    )
    parser.add_argument(
        "--topic",
        metavar="T",
        help=f"topic to write (default: {DEFAULT_TOPIC}; --compressed appends /compressed)",
    )
    parser.add_argument(
        "--compressed",
        nargs="?",
        choices=COMPRESSIONS,
        const="jpeg",
        help="write sensor_msgs/CompressedImage: jpeg (default) or png, which is lossless",
    )
    add_source_arguments(parser, topic_flag="--input-topic")


def run(args: argparse.Namespace) -> None:
    topic = args.topic or DEFAULT_TOPIC + ("/compressed" if args.compressed else "")
    source = source_from_args(args, args.source)
    with tqdm(source, total=source.count, unit="frame", desc=source.name) as frames:
        count = write_rosbag(
            frames, args.out, storage=args.storage, topic=topic, compressed=args.compressed
        )
    skipped = f", {source.skipped} undecodable skipped" if source.skipped else ""
    print(f"{args.out}: {count} messages on {topic}{skipped}")
