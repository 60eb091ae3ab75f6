"""Play a recording on a camera topic, at its own pace or in lockstep with the nodes."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from gbopt_ros.cli.options import SOURCE_HELP, add_source_arguments, source_from_args
from gbopt_ros.structures import GboptError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help=SOURCE_HELP)
    parser.add_argument(
        "--to",
        default="camera/image_raw",
        metavar="TOPIC",
        help="topic to publish on (default: %(default)s)",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=1.0,
        help="speed relative to the recording; no effect with --lockstep (default: %(default)s)",
    )
    parser.add_argument(
        "--lockstep",
        action="store_true",
        help="send a frame only when the nodes have finished the previous one; none is dropped",
    )
    parser.add_argument(
        "--finish",
        action="store_true",
        help="at the end, end the last clip and wait for its masks, as --lockstep always does",
    )
    parser.add_argument(
        "--subscribed",
        action="append",
        default=[],
        metavar="TOPIC",
        help="wait until somebody subscribes to TOPIC: selector/output/masks waits for the learner",
    )
    parser.add_argument(
        "--loop",
        type=int,
        default=1,
        metavar="N",
        help="play the recording N times; 0: for ever (default: %(default)s)",
    )
    parser.add_argument("--namespace", default="", help="namespace of the nodes (default: none)")
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        metavar="S",
        help="maximum time to wait for the nodes, seconds (default: %(default)s)",
    )
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> None:
    if not 0 < args.rate < float("inf"):
        raise GboptError(f"--rate: expected a positive number, got {args.rate}")
    if args.loop < 0:
        raise GboptError(f"--loop: expected 0 or more, got {args.loop}")
    if not 0 < args.patience < float("inf"):
        raise GboptError(f"--patience: expected a positive number, got {args.patience}")
    source = source_from_args(args, args.source)

    from gbopt_ros.nodes.player import looped, player

    total = source.count * args.loop if source.count is not None and args.loop else None
    options = {
        "lockstep": args.lockstep,
        "finish": args.finish,
        "subscribed": args.subscribed,
        "patience_s": args.patience,
    }
    with (
        player(args.to, namespace=args.namespace, **options) as playing,
        tqdm(total=total, desc=source.name, unit="frame", dynamic_ncols=True) as progress,
    ):
        frames = looped(source, args.loop)
        count = playing.play(frames, args.rate, lambda frame: progress.update())
    print(f"{count} frames published on {args.to}, {source.skipped} undecodable ones skipped")
