"""The data of a demo: what it learns from, and what it is measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gbopt_ros.config import Config
from gbopt_ros.evaluation.coco_metrics import InstanceMetrics
from gbopt_ros.evaluation.evaluate import evaluate_network, evaluation_config
from gbopt_ros.evaluation.results import CocoResult
from gbopt_ros.io.datasets.coco import CocoDataset, load_coco, load_coco_dir
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources import Source, open_source
from gbopt_ros.models.device import resolve_device
from gbopt_ros.perception.load import read_proposals
from gbopt_ros.structures import ProposalNetwork

QUICK_STILLS = 30
QUICK_SECONDS = 25.0  # of the recording
REHEARSAL, VALIDATION = "demo/rehearsal", "demo/validation"


@dataclass(frozen=True)
class SeenData:
    """The bundled images of seen classes, with labels.

    Attributes:
        seen: stills that the networks are measured on.
        rehearsal: stills that are mixed into every batch.
        validation: stills for the gate.
    """

    seen: CocoDataset
    rehearsal: CocoDataset
    validation: CocoDataset

    @classmethod
    def bundled(cls, quick: bool) -> SeenData:
        """The images that come with the package.

        Args:
            quick: only the first of those that networks are measured on.
        """
        return cls(
            seen=_few(load_coco_dir(find_resource("demo/seen-test")), quick),
            rehearsal=load_coco_dir(find_resource(REHEARSAL)),
            validation=_few(load_coco_dir(find_resource(VALIDATION)), quick),
        )


@dataclass(frozen=True)
class OwnData(SeenData):
    """A recording of the user's own, and the bundled images of seen classes.

    Attributes:
        source: the recording.
    """

    source: Source

    @classmethod
    def load(cls, source: Source, quick: bool) -> OwnData:
        return cls(**vars(SeenData.bundled(quick)), source=source)

    def open(self) -> Source:
        """The frames to learn from."""
        return self.source

    @property
    def labels(self) -> CocoDataset | None:
        """Nobody knows what is right in them."""
        return None


@dataclass(frozen=True)
class DemoData(SeenData):
    """The recording of the demo, its labels, and labelled images of seen and unseen classes.

    Attributes:
        recording: rosbag2 of unseen objects, learnt from without labels.
        end: seconds of the recording to use, None for all.
        recording_truth: its labels, for the report alone.
        unseen: stills that the networks are measured on, too.
    """

    recording: Path
    end: float | None
    recording_truth: CocoDataset
    unseen: CocoDataset

    @classmethod
    def load(cls, quick: bool) -> DemoData:
        """The data that come with the package.

        Args:
            quick: only a part of the recording and of the stills.
        """
        recording = find_resource("demo/recording")
        return cls(
            **vars(SeenData.bundled(quick)),
            recording=recording,
            end=QUICK_SECONDS if quick else None,
            recording_truth=load_coco(recording.with_suffix(".json")),
            unseen=_few(load_coco_dir(find_resource("demo/unseen-test")), quick),
        )

    def open(self) -> Source:
        """The frames to learn from."""
        return open_source(self.recording, end=self.end)

    @property
    def labels(self) -> CocoDataset | None:
        """What is right in them, by frame index."""
        return self.recording_truth


def _few(dataset: CocoDataset, quick: bool) -> CocoDataset:
    return replace(dataset, images=dataset.images[:QUICK_STILLS]) if quick else dataset


@dataclass(frozen=True)
class SeenEvaluation:
    """Metrics and detections of a network on the seen split."""

    seen: InstanceMetrics
    seen_results: list[CocoResult]


@dataclass(frozen=True)
class Evaluation(SeenEvaluation):
    """Metrics and detections of a network on both splits."""

    unseen: InstanceMetrics
    unseen_results: list[CocoResult]


def evaluate_on_seen(data: SeenData, weights: Path, config: Config) -> SeenEvaluation:
    return SeenEvaluation(*evaluate_network(_network(weights, config), data.seen))


def evaluate_on(data: DemoData, weights: Path, config: Config) -> Evaluation:
    network = _network(weights, config)
    unseen, unseen_results = evaluate_network(network, data.unseen)
    seen, seen_results = evaluate_network(network, data.seen)
    return Evaluation(seen, seen_results, unseen, unseen_results)


def _network(weights: Path, config: Config) -> ProposalNetwork:
    proposal = evaluation_config(config).proposal
    return read_proposals(weights, proposal, resolve_device(config.device))
