"""One round of learning: check the selected masks, fine-tune on them, pass the gate, publish."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torchvision.models.detection import MaskRCNN

from gbopt_ros.config import Config
from gbopt_ros.evaluation.coco_metrics import evaluate_network, paired_difference
from gbopt_ros.learning.batches import Pool
from gbopt_ros.learning.finetune import fine_tune
from gbopt_ros.learning.gate import GateDecision, check_forgetting, check_masks
from gbopt_ros.learning.model_store import ModelStore, ModelVersion
from gbopt_ros.learning.pools import CocoPool
from gbopt_ros.learning.trainer import OnStep, TrainingLog
from gbopt_ros.learning.training_set import TrainingSet
from gbopt_ros.learning.two_class import two_class
from gbopt_ros.masks import iou_matrix
from gbopt_ros.perception.best_class import class_count
from gbopt_ros.perception.device import resolve_device
from gbopt_ros.perception.mask_rcnn import CLASSES
from gbopt_ros.perception.proposals import MaskRcnnProposals, load_mask_rcnn
from gbopt_ros.perception.weights import sha256_of
from gbopt_ros.pipeline import evaluation_config, proposal_weights
from gbopt_ros.sources.coco import CocoDataset
from gbopt_ros.structures import GboptError

if TYPE_CHECKING:
    from gbopt_ros.perception.proposals import DetectionNetwork

log = logging.getLogger(__name__)

# Where the parent must propose the selected masks: parts of the training set, frames that a part
# has at least, and how many of them are looked at.
CHECKED_PARTS, FEWEST_OF_PART, CHECKED_IMAGES = 8, 3, 6
# On which the heads of a network with classes are fitted before it learns; on a few images the fit
# was worse than the averages that need none.
FEWEST_INITIAL_IMAGES, INITIAL_IMAGES = 16, 32


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
        store: the parent is its current version, or `proposal_weights` before the first. A network
            that the configuration names must be that first one or a version of the store.
        rehearsal: labelled seen data, mixed into every batch.
        probe: labelled seen data for the gate, not learnt from.
        on_step: called after every optimiser step, in place of progress bars; what it raises ends
            the training, with nothing published.

    Raises:
        GboptError: there is nothing to learn from, a loss was not finite, or the store was begun
            with another network.
    """
    device = resolve_device(config.device)
    check_origin(store, config)
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
    agreement, part = proposed_share(parent, selected, config)
    decision = check_masks(agreement, config.learning, selected.recordings(part))
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
    decision = GateDecision(True, "no probe set to compare on")
    if probe is not None:
        decision = _compare(parent, network, probe, config, progress=on_step is None)
    decision = replace(decision, agreement=agreement)
    if not decision.passed:
        return _refused(decision, training)
    facts = {
        "gate": decision.to_dict(),
        "frames": len(selected),
        "instances": selected.instance_count,
        "origin": current.manifest.get("origin") if current else sha256_of(path),
        "final_loss": training.total[-1],
        "learning": config.to_dict()["learning"],
    }
    version = store.publish(network, info.architecture, info.version, facts, info.config)
    log.info("published %s: %s", version.version, decision.reason)
    return Learnt(decision, training, version)


def _refused(decision: GateDecision, training: TrainingLog) -> Learnt:
    log.warning("new version refused: %s", decision.reason)
    return Learnt(decision, training, None)


def check_origin(store: ModelStore, config: Config) -> None:
    """Raises GboptError if the store was begun with another network than the one that is named."""
    current = store.current()
    origin = current.manifest.get("origin") if current is not None else None
    if origin is None or not config.proposal.weights:
        return
    path = proposal_weights(config)
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise GboptError(f"{path}: cannot be read ({error.strerror})") from error
    if digest != origin and digest not in store.digests():
        raise GboptError(
            f"{path}: the versions of the store {store.root} were learnt from another network; "
            "give each network a store of its own"
        )


def proposed_share(
    parent: DetectionNetwork, selected: Pool, config: Config
) -> tuple[float, list[int]]:
    """The share of selected masks that the parent proposes, where it is lowest, and where that is.

    The pool is cut into parts of consecutive frames, so that one bad round among good ones shows.
    In each part the masks of some images, spread evenly, are compared with the parent's proposals
    for these images; a mask is proposed where their IoU is at least 0.5.

    Returns:
        The share, in [0, 1], and the indices of the frames of that part.
    """
    proposer = _for_evaluation(parent, config)
    parts = max(1, min(CHECKED_PARTS, len(selected) // FEWEST_OF_PART))
    shares: list[tuple[float, list[int]]] = []
    for part in np.array_split(np.arange(len(selected)), parts):
        chosen = part[np.linspace(0, len(part) - 1, min(len(part), CHECKED_IMAGES)).astype(int)]
        proposed: list[bool] = []
        for index in chosen:
            labelled = selected[int(index)]
            (proposals,) = proposer.propose([labelled.image])
            overlap = iou_matrix(proposals.rles, labelled.rles)  # (N, M)
            proposed += [bool(column.max(initial=0.0) >= 0.5) for column in overlap.T]
        shares.append((float(np.mean(proposed)), part.tolist()))
    return min(shares)


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
