"""`evaluate`: the metrics of a proposal network on labelled images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from gbopt_ros.config import Config
from gbopt_ros.evaluation.coco_metrics import (
    AP_DETECTIONS,
    InstanceMetrics,
    check_labels,
    evaluate_instances,
)
from gbopt_ros.evaluation.results import CocoResult, results_of
from gbopt_ros.io.datasets.coco import CocoDataset, load_coco_dir
from gbopt_ros.models.device import resolve_device
from gbopt_ros.perception.load import read_proposals
from gbopt_ros.structures import ProposalNetwork, Proposals

_AP_NMS_IOU = 0.5  # as in most detectors


def evaluate(
    weights: str | Path, dataset: CocoDataset | str | Path, config: Config | None = None
) -> InstanceMetrics:
    """Class-agnostic COCO metrics of a weights file on labelled images.

    Args:
        weights: file of a proposal network, or the name of pulled weights.
        dataset: labelled images, or a COCO folder (`annotations.json` and `images/`).
        config: its `proposal` and `device` are used; None is the recommended setting.

    Raises:
        GboptError: weights or dataset cannot be read, or no image has an instance.
    """
    config = evaluation_config(config or Config())
    device = resolve_device(config.device)
    network = read_proposals(Path(weights), config.proposal, device)
    if not isinstance(dataset, CocoDataset):
        dataset = load_coco_dir(dataset)
    return evaluate_network(network, dataset)[0]


def evaluation_config(config: Config) -> Config:
    """The configuration with as many proposals an image as COCO's AP takes, and no duplicates.

    Selection wants candidates that overlap; in AP each duplicate counts as an error.
    """
    nms_iou = min(config.proposal.nms_iou, _AP_NMS_IOU)
    proposal = replace(config.proposal, max_proposals=AP_DETECTIONS, nms_iou=nms_iou)
    return replace(config, proposal=proposal)


def evaluate_network(
    network: ProposalNetwork, dataset: CocoDataset, batch: int = 8, progress: bool = True
) -> tuple[InstanceMetrics, list[CocoResult]]:
    """The metrics of a network on the images of a dataset, and its proposals.

    Args:
        network: should propose 100 masks an image, as AP is defined.
        dataset: labels with their image folder.
        batch: number of images in memory.

    Raises:
        GboptError: no instance, or an image is missing or not as described.
    """
    check_labels(dataset)
    proposals: dict[int, Proposals] = {}
    with tqdm(total=len(dataset), desc="evaluate", unit="image", disable=not progress) as bar:
        for start in range(0, len(dataset), batch):
            entries = dataset.images[start : start + batch]
            found = network.propose([dataset.load_image(entry) for entry in entries])
            proposals |= {e.id: p for e, p in zip(entries, found, strict=True)}
            bar.update(len(entries))
    results = results_of(proposals)
    return evaluate_instances(dataset, results), results
