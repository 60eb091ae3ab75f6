"""The whole flow: frames to clips to selections, and selections to a better network.

Replays, the demo, benchmarks and the ROS nodes all call this module, so they agree mask for mask.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models.detection import MaskRCNN

from gbopt_ros.config import Config, ProposalConfig
from gbopt_ros.evaluation.coco_metrics import evaluate_network, paired_difference
from gbopt_ros.learning.batches import Pool
from gbopt_ros.learning.finetune import fine_tune
from gbopt_ros.learning.gate import GateDecision, check_forgetting, check_losses, check_masks
from gbopt_ros.learning.model_store import ModelStore, ModelVersion
from gbopt_ros.learning.pools import CocoPool
from gbopt_ros.learning.trainer import OnStep, TrainingLog
from gbopt_ros.learning.training_set import TrainingSet
from gbopt_ros.learning.two_class import two_class
from gbopt_ros.masks import iou_matrix
from gbopt_ros.perception.background import FpnBackground
from gbopt_ros.perception.best_class import class_count
from gbopt_ros.perception.catalogue import find_weights
from gbopt_ros.perception.device import has_idle_core, resolve_device
from gbopt_ros.perception.ensemble import load_proposals
from gbopt_ros.perception.flow import make_flow
from gbopt_ros.perception.mask_rcnn import CLASSES
from gbopt_ros.perception.proposals import MaskRcnnProposals, load_mask_rcnn
from gbopt_ros.resources import SEED_BACKGROUND, SEED_PROPOSALS, find_resource
from gbopt_ros.selection import FixedLagSelector, select_clip
from gbopt_ros.sources.ahead import one_ahead
from gbopt_ros.sources.clips import cut_clips, interruption
from gbopt_ros.sources.coco import CocoDataset
from gbopt_ros.structures import (
    BackgroundNetwork,
    Clip,
    FlowNetwork,
    Frame,
    FrameSelection,
    GboptError,
    ProposalNetwork,
    Proposals,
    Selection,
)

if TYPE_CHECKING:
    from gbopt_ros.perception.proposals import DetectionNetwork

log = logging.getLogger(__name__)

# On which the heads of a network with classes are fitted before it learns; on a few images the fit
# was worse than the averages that need none.
FEWEST_INITIAL_IMAGES, INITIAL_IMAGES = 16, 32


@dataclass(frozen=True)
class Cues:
    """What the three networks say of a clip.

    Attributes:
        proposals: T times the candidates of a frame.
        backgrounds: T arrays (H, W) float32, probability that a pixel belongs to no object.
        flows: T - 1 arrays (H, W, 2) float32, pixels, between consecutive frames.
    """

    proposals: list[Proposals]
    backgrounds: list[NDArray[np.float32]]
    flows: NDArray[np.float32]


class Pipeline:
    """Clips in, selections out.

    Args:
        config: of all stages.
        proposal_network, background_network, flow_network: in place of those that the
            configuration names.

    Attributes:
        seconds: wall time spent in each stage so far.

    Raises:
        GboptError: weights are missing, corrupt or of another network, or there is no such GPU.
    """

    def __init__(
        self,
        config: Config,
        *,
        proposal_network: ProposalNetwork | None = None,
        background_network: BackgroundNetwork | None = None,
        flow_network: FlowNetwork | None = None,
    ) -> None:
        self.config = config
        self.proposal_network = proposal_network or load_proposal_network(config)
        self.background_network = background_network or load_background_network(config)
        self.flow_network = flow_network or load_flow_network(config)
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def run(self, source: Iterable[Frame], ahead: bool | None = None) -> Iterator[Selection]:
        """The selection of every clip of a stream, the same in both ways of running.

        Args:
            ahead: read the next clip and run the networks on it, in a thread, while the masks of
                this one are selected and used. Two clips are in memory then, else one. Unless
                given, that is done where the networks leave a core idle.
        """
        if ahead is None:
            ahead = has_idle_core(resolve_device(self.config.device))
        perceived = ((clip, self.perceive(clip)) for clip in self.clips(source))
        for clip, cues in one_ahead(perceived) if ahead else perceived:
            yield self.select(clip, cues)

    def stream(self, source: Iterable[Frame], lag: int | None) -> Iterator[FrameSelection]:
        """What is selected on every frame, at most `lag` frames after it came.

        Where the stream is interrupted, as between two clips of `clips`, all frames before are
        decided; clips have no length otherwise. A frame that repeats the last stamp is dropped.
        """
        selector = FixedLagSelector(self.flow_network, self.config.selection, lag)
        last: Frame | None = None
        try:
            for frame in source:
                if last is not None and frame.stamp_ns == last.stamp_ns:
                    continue
                if last is not None and interruption(last, frame, self.config.clip.max_gap_s):
                    yield from selector.finish()
                    last = None
                pair = (frame,) if last is None else (last, frame)
                cues = self._perceive(pair, new=1)
                with self._timed("selection"):
                    decided = selector.add(
                        frame,
                        cues.proposals[0],
                        cues.backgrounds[0],
                        None if last is None else cues.flows[0],
                    )
                yield from decided
                last = frame
        except GboptError:
            yield from selector.finish()
            raise
        yield from selector.finish()

    def clips(self, source: Iterable[Frame]) -> Iterator[Clip]:
        """Cut a stream into clips."""
        config = self.config.clip
        return cut_clips(source, config.length, max_gap_s=config.max_gap_s, overlap=config.overlap)

    def perceive(self, clip: Clip) -> Cues:
        """Run the three networks on a clip."""
        return self._perceive(clip.frames, new=len(clip))

    def _perceive(self, frames: Sequence[Frame], new: int) -> Cues:
        """Candidates and background of the last `new` frames, flow between all of them."""
        images = [frame.image for frame in frames]
        with self._timed("proposals"):
            proposals = self.proposal_network.propose(images[-new:])
        with self._timed("background"):
            backgrounds = self.background_network.background(images[-new:])
        with self._timed("flow"):
            flows = self.flow_network.flow(images[:-1], images[1:])
        return Cues(proposals, backgrounds, flows)

    def select(self, clip: Clip, cues: Cues) -> Selection:
        """Choose the masks of a clip jointly."""
        with self._timed("selection"):
            return select_clip(
                clip,
                cues.proposals,
                cues.backgrounds,
                list(cues.flows),
                self.flow_network,
                self.config.selection,
                self.proposal_network.version,
            )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - start


def load_proposal_network(config: Config) -> ProposalNetwork:
    """The proposal network that the configuration names, on its device.

    Raises:
        GboptError: weights are missing, corrupt or of another network, or there is no such GPU.
    """
    device = resolve_device(config.device)
    return load_proposals(proposal_weights(config), config.proposal, device)


def load_background_network(config: Config) -> BackgroundNetwork:
    """The background network that the configuration names; raises as `load_proposal_network`."""
    device = resolve_device(config.device)
    return FpnBackground.from_file(background_weights(config), config.background, device)


def load_flow_network(config: Config) -> FlowNetwork:
    """The flow network that the configuration names; raises as `load_proposal_network`."""
    return make_flow(config.flow, resolve_device(config.device))


def proposal_weights(config: Config) -> Path:
    """The weights file of the proposal network, the bundled seed network where none is named.

    Raises:
        GboptError: it is named by its name in the catalogue, and was not pulled.
    """
    return find_weights(config.proposal.weights or find_resource(SEED_PROPOSALS))


def background_weights(config: Config) -> Path:
    """The weights file of the background network, the bundled one where none is named."""
    return Path(config.background.weights or find_resource(SEED_BACKGROUND))


@dataclass(frozen=True)
class Learnt:
    """The outcome of one round of learning.

    Attributes:
        decision: of the gate.
        log: losses of every step; empty where the gate refused the masks.
        version: the published version, None where the gate refused it.
    """

    decision: GateDecision
    log: TrainingLog
    version: ModelVersion | None


def learn(
    training_set: TrainingSet,
    store: ModelStore,
    config: Config,
    *,
    rehearsal: CocoDataset | None = None,
    probe: CocoDataset | None = None,
    on_step: OnStep | None = None,
) -> Learnt:
    """Fine-tune on the training set, pass the gate, publish.

    Args:
        training_set: selected masks.
        store: the parent is its current version, or `proposal_weights` before the first.
        rehearsal: labelled seen data, mixed into every batch.
        probe: labelled seen data for the gate, not learnt from.
        on_step: called after every optimiser step, in place of progress bars; what it raises ends
            the training, with nothing published.

    Raises:
        GboptError: there is nothing to learn from, or a loss was not finite.
    """
    device = resolve_device(config.device)
    current = store.current()
    if current is not None:
        store.verify(current)
    path = current.path if current is not None else proposal_weights(config)
    parent, info = load_mask_rcnn(path, config.proposal.detectron2_config)
    selected = training_set.labelled_images(config.learning.min_confidence)
    if len(selected) == 0:
        raise GboptError(
            "no selected mask to learn from: the training set is empty "
            f"at confidence {config.learning.min_confidence}"
        )
    agreement = proposed_share(parent, selected, config)
    decision = check_masks(agreement, config.learning)
    if not decision.passed:
        return _refused(decision, TrainingLog())
    network, training = fine_tune(
        _start(parent, selected, device),
        selected,
        CocoPool(rehearsal) if rehearsal else None,
        config.learning,
        device,
        on_step,
    )
    decision = check_losses(training.losses)
    if decision.passed and probe is not None:
        decision = _compare(parent, network, probe, config, progress=on_step is None)
    decision = replace(decision, agreement=agreement)
    if not decision.passed:
        return _refused(decision, training)
    facts = {
        "gate": decision.to_dict(),
        "frames": len(selected),
        "instances": training_set.instance_count,
        "final_loss": training.total[-1],
        "learning": config.to_dict()["learning"],
    }
    version = store.publish(network, info.architecture, info.version, facts, info.config)
    log.info("published %s: %s", version.version, decision.reason)
    return Learnt(decision, training, version)


def _refused(decision: GateDecision, training: TrainingLog) -> Learnt:
    log.warning("new version refused: %s", decision.reason)
    return Learnt(decision, training, None)


def proposed_share(parent: DetectionNetwork, selected: Pool, config: Config) -> float:
    """The share of selected masks that the parent proposes at an IoU of at least 0.5.

    Measured on at most 32 images, spread evenly over the pool.
    """
    proposer = _for_evaluation(parent, config)
    covered: list[bool] = []
    for index in np.unique(np.linspace(0, len(selected) - 1, _CHECKED_IMAGES).round().astype(int)):
        labelled = selected[int(index)]
        (proposals,) = proposer.propose([labelled.image])
        overlap = iou_matrix(proposals.rles, labelled.rles)  # (N, M)
        covered += [bool(column.size) and column.max() >= 0.5 for column in overlap.T]
    return float(np.mean(covered))


def _compare(
    parent: DetectionNetwork,
    child: DetectionNetwork,
    probe: CocoDataset,
    config: Config,
    progress: bool,
) -> GateDecision:
    """The gate's decision on two networks by their masks on the probe set."""
    (parent_metrics, parent_results), (child_metrics, child_results) = (
        evaluate_network(_for_evaluation(network, config), probe, progress=progress)
        for network in (parent, child)
    )
    _, standard_error = paired_difference(probe, parent_results, child_results)
    return check_forgetting(parent_metrics.AP, child_metrics.AP, standard_error, config.learning)


def _for_evaluation(network: DetectionNetwork, config: Config) -> MaskRcnnProposals:
    device = resolve_device(config.device)
    return MaskRcnnProposals(network, "", evaluation_config(config).proposal, device)


def _start(parent: DetectionNetwork, pool: Pool, device: torch.device) -> DetectionNetwork:
    """The parent; one with classes gets heads for two, fitted on images spread over the pool."""
    if not isinstance(parent, MaskRCNN) or class_count(parent) == CLASSES:
        return parent  # detectron2's learns with the classes that it has
    count = min(len(pool), INITIAL_IMAGES) if len(pool) >= FEWEST_INITIAL_IMAGES else 0
    images = [pool[number * len(pool) // count].image for number in range(count)]
    return two_class(parent, images, device)


_CHECKED_IMAGES = 32
EVALUATION_DETECTIONS = 100  # COCO's number of detections an image


def evaluation_config(config: Config) -> Config:
    """The configuration of the network alone, with as many detections as COCO's AP takes."""
    proposal = replace(
        config.proposal, max_proposals=EVALUATION_DETECTIONS, ensemble=ProposalConfig.ensemble
    )
    return replace(config, proposal=proposal)
