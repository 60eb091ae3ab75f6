"""Fine-tune the proposal network on selected masks and publish it through the gate."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from gbopt_ros.config import load_config
from gbopt_ros.structures import GboptError

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("replays", type=Path, nargs="*", help="output folders of gbopt replay")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("gbopt-store"),
        help="store of versions and training set (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        help="network that the store's versions start from (default: the bundled seed network)",
    )
    parser.add_argument(
        "--rehearse", type=Path, help="COCO folder of labelled seen data for every batch"
    )
    parser.add_argument(
        "--validation", type=Path, help="COCO folder of labelled seen data for the gate"
    )
    parser.add_argument(
        "--forget", action="append", default=[], metavar="RECORDING",
        help="take it out of the training set first, such as one whose masks the gate refused; "
        "with no replay, nothing else is done",
    )  # fmt: skip
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML file with overrides, such as config/robot.yaml (default: none)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="such as learning.iterations=500",
    )


def run(args: argparse.Namespace) -> None:
    from gbopt_ros.io.datasets.coco import load_coco_dir
    from gbopt_ros.io.selection_format import read_replay
    from gbopt_ros.learning.data.training_set import TrainingSet
    from gbopt_ros.learning.round import learn
    from gbopt_ros.learning.store.model_store import ModelStore

    if not args.replays and not args.forget:
        raise GboptError("nothing to do: name output folders of `gbopt replay`, or use --forget")
    config = load_config(args.config, args.set)
    if args.weights:
        config = replace(config, proposal=replace(config.proposal, weights=args.weights))
    rehearsal = load_coco_dir(args.rehearse) if args.rehearse else None
    validation = load_coco_dir(args.validation) if args.validation else None
    if rehearsal is None and args.replays:
        log.warning("no --rehearse data: the network may forget the classes that it knows")
    learning = config.learning
    with TrainingSet(args.out / "training", learning.max_bytes, learning.policy) as training_set:
        for recording in args.forget:
            log.info("%s: %d frames forgotten", recording, training_set.remove(recording))
        if not args.replays:
            return
        for folder in args.replays:
            added = training_set.add(read_replay(folder))
            log.info("%s: %d frames with masks", folder, added)
        learnt = learn(
            training_set, ModelStore(args.out), config, rehearsal=rehearsal, validation=validation
        )
    if learnt.version is None:
        raise GboptError(f"the new version was refused by the gate: {learnt.decision.reason}")
    print(learnt.version.path)
