"""Learn unseen objects from a recording, with a report before and after.

With SOURCE the recording is your own: it has no ground truth, so the report shows what the network
selects in it before and after, and what is new. Without SOURCE the recording comes with the
package, with labels that are not learnt from, and the gain is measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gbopt_ros.cli.options import (
    SOURCE_HELP,
    add_config_arguments,
    add_source_arguments,
    positive,
    source_options_from_args,
    verified,
)
from gbopt_ros.config import Config
from gbopt_ros.structures import GboptError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, nargs="?", help=f"your own recording: {SOURCE_HELP} (default: none)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-output"),
        help="result folder; that of an earlier demo is replaced (default: %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="use a small part of the data")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the learning (default: %(default)s)"
    )
    add_config_arguments(parser, weights=True)
    own = parser.add_argument_group("with SOURCE")
    add_source_arguments(own)
    own.add_argument(
        "--frames",
        type=positive,
        metavar="N",
        help="use at most N frames, in clips that are spread evenly over the recording; with "
        "--start or --end the first ones (default: 300, with --quick 60)",
    )
    own.add_argument(
        "--rounds",
        type=positive,
        metavar="N",
        help="maximum number of rounds of selecting and learning (default: 2)",
    )


def run(args: argparse.Namespace) -> None:
    from gbopt_ros.demo.run import demo_config

    config = verified(
        demo_config(args.quick, args.seed, args.set, profile=args.config, weights=args.weights)
    )
    if args.source is not None:
        _run_on_own(args, config)
    else:
        _run_on_labelled(args, config)
    if args.quick:
        print("--quick only shows that everything works: its data are too few for a result")
    print(f"report: {args.out / 'report.html'}   overlay: {args.out / 'overlay.mp4'}")


def _run_on_own(args: argparse.Namespace, config: Config) -> None:
    from gbopt_ros.demo.own_recording import FRAMES, QUICK_FRAMES, OwnRecording
    from gbopt_ros.demo.own_report import describe_outcome
    from gbopt_ros.demo.own_run import run_on_recording
    from gbopt_ros.demo.rounds import ROUNDS

    options = source_options_from_args(args, config.clip.max_pixels)
    frames = args.frames or (QUICK_FRAMES if args.quick else FRAMES)
    recording = OwnRecording(args.source, args.source_topic, options, frames)
    results = run_on_recording(
        args.out, config, recording, quick=args.quick, rounds=args.rounds or ROUNDS
    )
    print("", *describe_outcome(results), sep="\n")


def _run_on_labelled(args: argparse.Namespace, config: Config) -> None:
    _refuse_options_of_source(args)

    from gbopt_ros.demo.report import describe_rounds, format_change
    from gbopt_ros.demo.run import run_demo
    from gbopt_ros.evaluation.coco_metrics import METRICS

    results = run_demo(args.out, config, quick=args.quick)
    print(f"\n{'':16}" + "".join(f"{name:>8}" for name in METRICS))
    for split in ("unseen", "seen"):
        for when in ("before", "after"):
            row = results[split][when]
            print(f"{split:7}{when:9}" + "".join(f"{row[name]:8.1f}" for name in METRICS))
    changes = {split: format_change(change) for split, change in results["ap_change"].items()}
    print(
        f"\nchange of AP: unseen {changes['unseen']}, seen {changes['seen']} "
        "(± standard error over the stills, not over seeds)"
    )
    print(*describe_rounds(results["rounds"]), sep="\n")


def _refuse_options_of_source(args: argparse.Namespace) -> None:
    """The recordings of the package are used as they are."""
    unset: dict[str, Any] = {
        "source_topic": None, "stride": 1, "start": None, "end": None, "resize": None,
        "frames": None, "rounds": None,
    }  # fmt: skip
    given = [name for name, value in unset.items() if getattr(args, name) != value]
    if given:
        flag = f"--{given[0].removeprefix('source_')}"
        raise GboptError(f"{flag} is for a recording of your own: name its SOURCE, too")
