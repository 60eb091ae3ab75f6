"""Measure a network, or masks that were saved, against labelled images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gbopt_ros.config import Config, load_config
from gbopt_ros.evaluation.coco_metrics import AP_DETECTIONS, InstanceMetrics, evaluate_instances
from gbopt_ros.evaluation.evaluate import evaluate_network
from gbopt_ros.evaluation.results import CocoResult, load_results
from gbopt_ros.evaluation.tables import markdown_table, metric_rows, text_table
from gbopt_ros.io.datasets.coco import IMAGES_NAME, CocoDataset, load_coco
from gbopt_ros.io.files import make_folder, write_text
from gbopt_ros.structures import GboptError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gt",
        type=Path,
        required=True,
        metavar="COCO.json",
        help="labelled images, COCO instances",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help=f"folder of the image files (default: the folder `{IMAGES_NAME}` beside --gt)",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--weights", type=Path, metavar="W", help="weights of a proposal network")
    what.add_argument(
        "--results",
        type=Path,
        metavar="R.json",
        help="COCO result list, or a COCO dataset with scores such as a replay's selected.json",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write metrics.json, metrics.md and results.json"
    )
    parser.add_argument("--config", type=Path, metavar="YAML", help="YAML file with overrides")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"such as proposal.max_proposals=15 (default here: {AP_DETECTIONS}, as AP is defined)",
    )


def run(args: argparse.Namespace) -> None:
    images = args.images if args.images is not None else args.gt.parent / IMAGES_NAME
    gt = load_coco(args.gt, images)
    if args.out is not None:
        make_folder(args.out)
    if args.weights is not None:
        if not images.is_dir():
            raise GboptError(f"{images}: no such folder; give the folder of the images: --images")
        metrics, results, version = _measure_network(args, gt)
        subject = f"{args.weights.stem} ({version})"
    else:
        results = load_results(args.results, gt)
        metrics = evaluate_instances(gt, results)
        subject = args.results.stem
    rows = metric_rows({subject: [metrics]})
    print(text_table(rows), end="")
    if args.out is not None:
        _write(args.out, subject, gt, metrics, results, markdown_table(rows))


def _measure_network(
    args: argparse.Namespace, gt: CocoDataset
) -> tuple[InstanceMetrics, list[CocoResult], str]:
    from gbopt_ros.models.device import resolve_device
    from gbopt_ros.perception.ensemble import load_proposals

    config = _load_config(args.config, args.set)
    device = resolve_device(config.device)
    network = load_proposals(args.weights, config.proposal, device)
    metrics, results = evaluate_network(network, gt, batch=config.proposal.batch_size)
    return metrics, results, network.version


def _load_config(path: Path | None, overrides: Sequence[str]) -> Config:
    """The configuration, with as many proposals as AP counts unless the user sets a number."""
    config = load_config(path, overrides)
    chosen: Any = OmegaConf.from_dotlist(list(overrides))
    if path is not None:
        chosen = OmegaConf.merge(OmegaConf.load(path), chosen)
    if OmegaConf.select(chosen, "proposal.max_proposals") is not None:
        return config
    return replace(config, proposal=replace(config.proposal, max_proposals=AP_DETECTIONS))


def _write(
    out: Path,
    subject: str,
    gt: CocoDataset,
    metrics: InstanceMetrics,
    results: Sequence[CocoResult],
    table: str,
) -> None:
    counts = {
        "images": len(gt),
        "instances": sum(len(rles) for rles in gt.rles_by_image.values()),
        "results": len(results),
    }
    summary = {"subject": subject, "metrics": metrics.to_dict(), **counts}
    write_text(out / "results.json", json.dumps(results, separators=(",", ":")))
    write_text(out / "metrics.md", table)
    write_text(out / "metrics.json", json.dumps(summary, indent=2) + "\n")
