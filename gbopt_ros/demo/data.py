"""The data of the demo: what it learns from, and what it is measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gbopt_ros.config import Config
from gbopt_ros.evaluation.coco_metrics import InstanceMetrics
from gbopt_ros.evaluation.evaluate import evaluate_network, evaluation_config
from gbopt_ros.evaluation.results import CocoResult
from gbopt_ros.io.datasets.coco import ANNOTATIONS_NAME, CocoDataset, load_coco, load_coco_dir
from gbopt_ros.io.resources import find_resource
from gbopt_ros.models.device import resolve_device
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.simulation.dataset import RECORDING_NAME

QUICK_STILLS = 30
QUICK_SECONDS = 25.0  # of the recording


@dataclass(frozen=True)
class DemoData:
    """The recording and the labelled images.

    Attributes:
        name: "environment" or "bundled".
        recording: rosbag2 of unseen objects, learnt from without labels.
        end: seconds of the recording to use, None for all.
        recording_truth: its labels, for the report alone.
        unseen, seen: stills that the networks are measured on.
        rehearsal: labelled stills of seen objects, mixed into every batch.
        validation: labelled stills of seen objects, for the gate.
    """

    name: str
    recording: Path
    end: float | None
    recording_truth: CocoDataset
    unseen: CocoDataset
    seen: CocoDataset
    rehearsal: CocoDataset
    validation: CocoDataset

    @classmethod
    def load(cls, quick: bool, environment: Path | None) -> DemoData:
        """The seen data are always the bundled ones.

        Args:
            quick: only a part of the recording and of the stills.
            environment: folder of a rendered environment; None takes the bundled recording.
        """
        if environment is None:
            recording = find_resource("demo/recording")
            labels, unseen = recording.with_suffix(".json"), find_resource("demo/unseen-test")
        else:
            recording = environment / "unseen-train" / RECORDING_NAME
            labels, unseen = recording.with_name(ANNOTATIONS_NAME), environment / "unseen-test"
        names = ("seen-test", "rehearsal", "validation")
        seen, rehearsal, validation = (load_coco_dir(find_resource(f"demo/{n}")) for n in names)

        def few(dataset: CocoDataset) -> CocoDataset:
            return replace(dataset, images=dataset.images[:QUICK_STILLS]) if quick else dataset

        return cls(
            name="bundled" if environment is None else "environment",
            recording=recording,
            end=QUICK_SECONDS if quick else None,
            recording_truth=load_coco(labels),
            unseen=few(load_coco_dir(unseen)),
            seen=few(seen),
            rehearsal=rehearsal,
            validation=few(validation),
        )


@dataclass(frozen=True)
class Evaluation:
    """Metrics and detections of a network on both splits."""

    unseen: InstanceMetrics
    seen: InstanceMetrics
    unseen_results: list[CocoResult]
    seen_results: list[CocoResult]


def evaluate_on(data: DemoData, weights: Path, config: Config) -> Evaluation:
    network = MaskRcnnProposals.from_file(
        weights, evaluation_config(config).proposal, resolve_device(config.device)
    )
    unseen, unseen_results = evaluate_network(network, data.unseen)
    seen, seen_results = evaluate_network(network, data.seen)
    return Evaluation(unseen, seen, unseen_results, seen_results)
