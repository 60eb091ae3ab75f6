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
    parser.add_argument("--quick", action="store_true", help="use a small part of the data")
    parser.add_argument(
        "--recording",
        choices=["auto", "environment", "bundled"],
        default="auto",
        help="environment: a simulated environment with recurring objects, rendered (extra sim); "
        "bundled: the bundled recording, with new objects in every clip; auto: environment, but "
        "bundled with --quick or without the simulator (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the learning (default: %(default)s)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a single setting, such as selection.k=5; may be repeated",
    )


def run(args: argparse.Namespace) -> None:
    from gbopt_ros.demo.report import describe_rounds, format_change
    from gbopt_ros.demo.run import ENVIRONMENT_SEED, demo_config, run_demo
    from gbopt_ros.evaluation.coco_metrics import METRICS
    from gbopt_ros.simulation.simulator import has_pybullet

    config = demo_config(args.quick, args.seed, args.set)
    recording = args.recording
    if recording == "auto":
        recording = "environment" if has_pybullet() and not args.quick else "bundled"
        if recording == "bundled" and not args.quick:
            print(
                "no simulator (extra sim): using the bundled recording, without recurring objects"
            )
    environment = ENVIRONMENT_SEED if recording == "environment" else None
    results = run_demo(args.out, config, quick=args.quick, environment=environment)
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
    if args.quick:
        print("--quick only shows that everything works: its data are too few for a result")
    print(*describe_rounds(results["rounds"]), sep="\n")
    print(f"report: {args.out / 'report.html'}   overlay: {args.out / 'overlay.mp4'}")
