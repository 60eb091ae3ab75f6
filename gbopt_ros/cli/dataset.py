"""Build a benchmark from a public dataset: the paper's Unseen-VIS from YouTube-VIS."""

from __future__ import annotations

import argparse
from pathlib import Path

from gbopt_ros.io.datasets.unseen_vis import MANIFEST_NAME, UnseenVisConfig, build_unseen_vis


def add_arguments(parser: argparse.ArgumentParser) -> None:
    datasets = parser.add_subparsers(title="datasets", metavar="DATASET", required=True)
    unseen_vis = datasets.add_parser(
        "unseen-vis",
        help="videos and labelled stills of 16 classes that COCO does not have",
        description="Unseen-VIS (Section 4.1 of the paper) from the training part of YouTube-VIS "
        "2019, whose labels are public. Images are linked: keep YouTube-VIS, or use --copy.",
    )
    defaults = UnseenVisConfig()
    unseen_vis.add_argument(
        "source", type=Path, help="YouTube-VIS folder: instances.json and JPEGImages/"
    )
    unseen_vis.add_argument("--out", type=Path, required=True, help="folder; must not exist")
    unseen_vis.add_argument(
        "--seed", type=int, default=defaults.seed, help="seed of the split (default: %(default)s)"
    )
    for split in ("train", "test"):
        unseen_vis.add_argument(
            f"--{split}-videos",
            type=int,
            default=getattr(defaults, f"{split}_videos"),
            metavar="N",
            help=f"number of videos of the {split} split (default: %(default)s, as in the paper)",
        )
    unseen_vis.add_argument(
        "--all-frames",
        type=Path,
        metavar="DIR",
        help="folder with all frames of the training videos (train_all_frames/JPEGImages); without "
        "it they have the annotated frames alone, one in five",
    )
    unseen_vis.add_argument(
        "--mixed",
        action="store_true",
        help="also take videos with seen and unseen classes; seen objects become ignore regions",
    )
    unseen_vis.add_argument("--copy", action="store_true", help="copy the images")


def run(args: argparse.Namespace) -> None:
    config = UnseenVisConfig(
        args.train_videos, args.test_videos, args.seed, args.mixed, args.all_frames, args.copy
    )
    manifest = build_unseen_vis(args.source, args.out, config)
    for name, split in manifest["splits"].items():
        print(
            f"{args.out / name}: {split['videos']} videos, {split['labelled_images']} labelled "
            f"images, {split['instances']} instances"
        )
    print(f"{args.out / MANIFEST_NAME}: {len(manifest['unused_videos'])} videos are left over")
