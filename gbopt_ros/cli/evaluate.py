"""Measure a network, or saved masks, against labelled images.

Unless --config or --set says otherwise, the 100 best masks of an image count, and near duplicates,
which count as errors in AP, are dropped (proposal.max_proposals 100, proposal.nms_iou 0.5).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gbopt_ros.cli.options import add_config_arguments, check_weights
from gbopt_ros.config import Config, load_config
from gbopt_ros.config.load import profile_path
from gbopt_ros.evaluation.coco_metrics import InstanceMetrics, evaluate_instances
from gbopt_ros.evaluation.evaluate import evaluate_network, evaluation_config
from gbopt_ros.evaluation.results import CocoResult, load_results
from gbopt_ros.evaluation.tables import markdown_table, metric_rows, text_table
from gbopt_ros.io.datasets.coco import (
    ANNOTATIONS_NAME,
    IMAGES_NAME,
    CocoDataset,
    load_coco,
    load_coco_dir,
)
from gbopt_ros.io.files import make_folder, write_text
from gbopt_ros.io.json_file import to_json
from gbopt_ros.io.selection_format import SELECTION_NAME
from gbopt_ros.structures import GboptError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gt",
        type=Path,
        required=True,
        metavar="COCO",
        help=f"labelled images: a folder with `{ANNOTATIONS_NAME}` and `{IMAGES_NAME}`, or a JSON "
        "file of COCO instances",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help=f"folder of the image files (default: `{IMAGES_NAME}` in the folder of the labels)",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--weights", type=Path, metavar="W", help="weights of a proposal network")
    what.add_argument(
        "--results",
        type=Path,
        metavar="R.json",
        help=f"COCO result list, or COCO dataset with scores: {SELECTION_NAME} of gbopt replay",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write metrics.json, metrics.md and results.json"
    )
    add_config_arguments(parser, "proposal.max_proposals=50")


def run(args: argparse.Namespace) -> None:
    gt = _labelled_images(args.gt, args.images)
    if args.out is not None:
        make_folder(args.out)
    if args.weights is not None:
        images = gt.image_dir or args.gt / IMAGES_NAME
        if not images.is_dir():
            raise GboptError(f"{images}: no such folder; give the folder of the images: --images")
        metrics, results, version = _measure_network(args, gt)
        subject = f"{args.weights.stem} ({version})"
    else:
        if (args.results / SELECTION_NAME).is_file():
            raise GboptError(f"{args.results}: a folder; name the file {SELECTION_NAME} in it")
        results = load_results(args.results, gt)
        metrics = evaluate_instances(gt, results)
        subject = args.results.stem
    rows = metric_rows({subject: [metrics]})
    print(text_table(rows), end="")
    if args.out is not None:
        _write(args.out, subject, gt, metrics, results, markdown_table(rows))


def _labelled_images(gt: Path, images: Path | None) -> CocoDataset:
    if not gt.is_dir():
        return load_coco(gt, gt.parent / IMAGES_NAME if images is None else images)
    dataset = load_coco_dir(gt)
    return dataset if images is None else replace(dataset, image_dir=images)


def _measure_network(
    args: argparse.Namespace, gt: CocoDataset
) -> tuple[InstanceMetrics, list[CocoResult], str]:
    from gbopt_ros.models.device import resolve_device
    from gbopt_ros.perception.load import read_proposals

    check_weights(args.weights)
    config = _load_config(args.config, args.set)
    device = resolve_device(config.device)
    network = read_proposals(args.weights, config.proposal, device)
    metrics, results = evaluate_network(network, gt, batch=config.proposal.batch_size)
    return metrics, results, network.version


def _load_config(path: Path | None, overrides: Sequence[str]) -> Config:
    """The configuration, with that of `evaluation_config` where the user sets nothing."""
    config = load_config(path, overrides, option="--set")
    chosen: Any = OmegaConf.from_dotlist(list(overrides))
    if path is not None:
        chosen = OmegaConf.merge(OmegaConf.load(profile_path(path)), chosen)
    usual = evaluation_config(config).proposal
    left = {
        name: getattr(usual, name)
        for name in ("max_proposals", "nms_iou")
        if OmegaConf.select(chosen, f"proposal.{name}") is None
    }
    return replace(config, proposal=replace(config.proposal, **left))


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
    write_text(out / "results.json", to_json(results))
    write_text(out / "metrics.md", table)
    write_text(out / "metrics.json", to_json(summary, indent=2) + "\n")
