"""Learn unseen objects from a recording, with a report before and after."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-output"),
        help="result folder (default: %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="a small part of it, in minutes")
    parser.add_argument(
        "--recording",
        choices=["auto", "environment", "bundled"],
        default="auto",
        help="environment: of the few things and tables of one environment, rendered (extra sim); bundled: what "
        "comes with the package, other things in every clip; auto: environment, but bundled with --quick "
        "and where the simulator is not installed (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the learning (default: %(default)s)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="such as selection.k=5"
    )


def run(args: argparse.Namespace) -> None:
    from gbopt_ros.demo import (
        ENVIRONMENT_SEED,
        change_in_words,
        demo_config,
        run_demo,
        told_of_rounds,
    )
    from gbopt_ros.evaluation.coco_metrics import METRICS
    from gbopt_ros.simulation.simulator import has_pybullet

    config = demo_config(args.quick, args.seed, tuple(args.set))
    recording = args.recording
    if recording == "auto":
        recording = "environment" if has_pybullet() and not args.quick else "bundled"
        if recording == "bundled" and not args.quick:
            print("no simulator (extra sim): the bundled recording, in which nothing comes again")
    environment = ENVIRONMENT_SEED if recording == "environment" else None
    results = run_demo(args.out, config, quick=args.quick, environment=environment)
    print(f"\n{'':16}" + "".join(f"{name:>8}" for name in METRICS))
    for split in ("unseen", "seen"):
        for when in ("before", "after"):
            row = results[split][when]
            print(f"{split:7}{when:9}" + "".join(f"{row[name]:8.1f}" for name in METRICS))
    changes = {split: change_in_words(change) for split, change in results["ap_change"].items()}
    print(
        f"\nchange of AP: unseen {changes['unseen']}, seen {changes['seen']} "
        "(± standard error over the stills, not over seeds)"
    )
    if args.quick:
        print("--quick shows that everything works; so few frames, stills and steps tell no more")
    print(*told_of_rounds(results["rounds"]), sep="\n")
    print(f"report: {args.out / 'report.html'}   overlay: {args.out / 'overlay.mp4'}")
