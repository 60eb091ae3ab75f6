"""Teach the background network a place, from what moves in a recording of it."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from tqdm import tqdm

from gbopt_ros.config import load_config
from gbopt_ros.files import make_folder
from gbopt_ros.sources.options import add_source_arguments, source_from_args
from gbopt_ros.structures import GboptError

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="rosbag2 folder, .mcap, .db3, video or folder")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("background.safetensors"),
        help="weights file, for background.weights (default: %(default)s)",
    )
    parser.add_argument(
        "--rehearse", type=Path, help="COCO folder of labelled seen data for every batch"
    )
    parser.add_argument("--probe", type=Path, help="COCO folder of labelled seen data for the gate")
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML file with overrides, such as config/demo.yaml (default: none)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="such as adapt.rounds=3"
    )
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> None:
    config = load_config(args.config, args.set)
    source = source_from_args(args, args.source)
    make_folder(args.out.parent)  # not after minutes of training

    from gbopt_ros.perception.weights import save_weights
    from gbopt_ros.rounds import adapt
    from gbopt_ros.sources.coco import load_coco_dir

    rehearsal = load_coco_dir(args.rehearse) if args.rehearse else None
    probe = load_coco_dir(args.probe) if args.probe else None
    if rehearsal is None:
        log.warning("no --rehearse data: the network may forget the objects that it knows")
    frames = tqdm(source, "look", source.count, unit="frame", dynamic_ncols=True)
    adapted = adapt(frames, config, rehearsal=rehearsal, probe=probe)
    if adapted.entropies is not None:
        before, after = adapted.entropies
        log.info("cross-entropy on the probe set: %.3f before, %.3f after", before, after)
        if not adapted.passed:
            raise GboptError(
                f"the adapted network was refused: it lost {after - before:.3f} nats a pixel on "
                f"the probe set, adapt.gate_margin is {config.adapt.gate_margin}"
            )
    save_weights(args.out, adapted.network, adapted.info)
    log.info("%s: taught with %d views", args.out, adapted.views)
    print(args.out)
