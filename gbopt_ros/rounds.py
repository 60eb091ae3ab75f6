"""One round of learning: check the selected masks, fine-tune on them, pass the gate, publish.

And what can be done before it: `adapt` teaches the background network the place.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models.detection import MaskRCNN

from gbopt_ros.config import Config
from gbopt_ros.evaluation.coco_metrics import (
    CocoResult,
    InstanceMetrics,
    evaluate_network,
    paired_difference,
)
from gbopt_ros.learning.adapt import adapt_background, collect_views, foreground_entropy
from gbopt_ros.learning.batches import Pool
from gbopt_ros.learning.finetune import fine_tune, selected_in_batch
from gbopt_ros.learning.gate import GateDecision, all_passed, check_forgetting, check_masks
from gbopt_ros.learning.model_store import ModelStore, ModelVersion
from gbopt_ros.learning.pools import CocoPool
from gbopt_ros.learning.recurrence import revise
from gbopt_ros.learning.trainer import OnStep, TrainingLog
from gbopt_ros.learning.training_set import SelectedPool, TrainingSet
from gbopt_ros.learning.two_class import two_class
from gbopt_ros.masks import iou_matrix
from gbopt_ros.perception.background import FpnBackground, load_semantic_fpn
from gbopt_ros.perception.background_fpn import SemanticFpn
from gbopt_ros.perception.best_class import class_count
from gbopt_ros.perception.device import resolve_device
from gbopt_ros.perception.flow import finer, make_flow
from gbopt_ros.perception.mask_rcnn import CLASSES
from gbopt_ros.perception.proposals import MaskRcnnProposals, load_mask_rcnn
from gbopt_ros.perception.weights import WeightsInfo, sha256_of
from gbopt_ros.pipeline import background_weights, evaluation_config, proposal_weights
from gbopt_ros.sources.clips import cut_clips
from gbopt_ros.sources.coco import CocoDataset
from gbopt_ros.structures import Frame, GboptError

if TYPE_CHECKING:
    from gbopt_ros.perception.proposals import DetectionNetwork

log = logging.getLogger(__name__)

# Where the parent must propose the selected masks: parts that a training set of one recording has,
# and frames that each has at least; how many of these are looked at, fewer where parts are many.
CHECKED_PARTS, FEWEST_OF_PART = 8, 6
CHECKED_OF_PART, FEWEST_CHECKED, CHECKED_IMAGES = 6, 3, 300
# On which the heads of a network with classes are fitted before it learns; on a few images the fit
# was worse than the averages that need none.
FEWEST_INITIAL_IMAGES, INITIAL_IMAGES = 16, 32
# Frames among which those are found that a frame is compared with. Odd: every second, fourth, ...
# frame of a long recording is then found at all places of these clips.
ADAPTED_CLIP = 63
_SEED_STEP = 1000


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
        on_step: called after every optimiser step, in place of progress bars, and with a loss that
            is NaN now and then before the first and after the last; what it raises ends the round,
            with nothing published.

    Raises:
        GboptError: there is nothing to learn from, a loss was not finite, or the store was begun
            with another network.
    """

    def pause(step: int) -> None:
        if on_step is not None:
            on_step(step, math.nan)

    device = resolve_device(config.device)
    check_origin(store, config)
    current = store.current()
    if current is not None:
        store.verify(current)
    path = current.path if current is not None else proposal_weights(config)
    parent, info = load_mask_rcnn(path, config.proposal.detectron2_config)
    selected = training_set.labelled_images()
    if len(selected) == 0:
        raise GboptError("no selected mask to learn from: the training set is empty")
    parts = checked_parts([entry.recording for entry in selected.entries])
    agreement, part = proposed_share(parent, selected, parts, config, partial(pause, 0))
    decision = check_masks(agreement, config.learning, selected.recordings(part))
    if not decision.passed:
        return _refused(decision, TrainingLog())
    on_frame = partial(pause, 0) if on_step is not None else None
    of_batch = selected_in_batch(config.learning, rehearses=rehearsal is not None)
    draws = max(1, config.learning.iterations * of_batch)
    selected = sure_masks(selected, parent, config, draws, on_frame)
    network, training = fine_tune(
        _start(parent, selected, device),
        selected,
        CocoPool(rehearsal) if rehearsal is not None else None,
        config.learning,
        device,
        on_step,
    )
    decision = GateDecision(True, "no probe set to compare on")
    if probe is not None:
        older = {"its parent": parent}
        if current is not None:
            older["the network that learning began with"] = _first_network(store, config)
        on_network = partial(pause, config.learning.iterations)
        decision = _compare(older, network, probe, config, on_network, progress=on_step is None)
    decision = replace(decision, agreement=agreement)
    pause(config.learning.iterations)
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
    store.prune(config.learning.keep_versions)
    log.info("published %s: %s", version.version, decision.reason)
    return Learnt(decision, training, version)


def config_of_round(config: Config, number: int) -> Config:
    """The configuration of one of several rounds, counted from 0.

    No two rounds draw the same batches, nor does a round with another small seed.
    """
    seed = config.learning.seed + _SEED_STEP * number
    return replace(config, learning=replace(config.learning, seed=seed))


def sure_masks(
    pool: SelectedPool,
    network: DetectionNetwork,
    config: Config,
    draws: int,
    on_frame: Callable[[], None] | None = None,
) -> SelectedPool:
    """What is learnt of a training set: its surest masks, see `LearningConfig`.

    Args:
        network: proposes the masks; moved to the device and put in evaluation mode.
        draws: images that the training will take. A look at a frame takes about as long as a step
            does for one image, so no more frames than that are looked at, or learnt.
        on_frame: called before every frame that is looked at, in place of a progress bar.

    Raises:
        GboptError: an image cannot be read.
    """
    learning = config.learning
    if learning.recurrence and learning.min_confidence > 0:
        pool = pool.spread(draws)
        pool = revise(pool, network, config.proposal, resolve_device(config.device), on_frame)
    sure = pool.surest(learning.min_confidence)
    log.info("%d of %d masks are sure enough", sure.instance_count, pool.instance_count)
    return sure


@dataclass(frozen=True)
class Adapted:
    """A background network that was taught a place.

    Attributes:
        network: in evaluation mode.
        info: what it is saved with.
        views: frames that it was taught with.
        entropies: cross-entropy on the probe set before and after, nats a pixel; None without one.
        passed: it has not lost more than `adapt.gate_margin` there.
    """

    network: SemanticFpn
    info: WeightsInfo
    views: int
    entropies: tuple[float, float] | None
    passed: bool


def adapt(
    source: Iterable[Frame],
    config: Config,
    *,
    rehearsal: CocoDataset | None = None,
    probe: CocoDataset | None = None,
    on_step: OnStep | None = None,
) -> Adapted:
    """Teach the background network the place that a recording shows, from what moves there.

    Args:
        source: frames of the recording, in order.
        rehearsal: labelled seen data, mixed into every batch.
        probe: labelled seen data to compare on, not learnt from.
        on_step: called after every optimiser step, in place of progress bars.

    Raises:
        GboptError: weights are missing or corrupt, labelled data is empty, no two frames lie far
            enough apart, or a loss was not finite.
    """
    device, settings = resolve_device(config.device), config.adapt
    path = background_weights(config)
    parent, info = load_semantic_fpn(path)
    pool = CocoPool(rehearsal) if rehearsal is not None else None
    before = _entropy(parent, probe, device)
    clips = cut_clips(source, ADAPTED_CLIP, max_gap_s=config.clip.max_gap_s)
    views = collect_views(
        clips,
        FpnBackground(copy.deepcopy(parent), config.background, device),
        finer(make_flow(config.flow, config.device)),
        settings,
        config.motion.baseline_s,
        parent.short_side,
    )
    if not views:
        raise GboptError(
            f"no frame has another one about {config.motion.baseline_s} s before or after it, with "
            f"no gap of more than {config.clip.max_gap_s} s and less than {ADAPTED_CLIP} frames "
            "between them; change motion.baseline_s, or raise clip.max_gap_s for a slow camera"
        )
    network, _ = adapt_background(parent, views, pool, settings, device, on_step)
    entropies, passed = None, True
    after = _entropy(network, probe, device)
    if before is not None and after is not None:
        entropies, passed = (before, after), after - before <= settings.gate_margin
    return Adapted(
        network,
        replace(info, version=f"{info.version}-adapted"),
        len(views),
        entropies,
        passed,
    )


def _entropy(network: SemanticFpn, probe: CocoDataset | None, device: torch.device) -> float | None:
    if probe is None:
        return None
    return foreground_entropy(copy.deepcopy(network), probe, device)


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


def checked_parts(recordings: Sequence[str]) -> list[NDArray[np.intp]]:
    """Indices of consecutive frames whose masks are checked together.

    A part is of one recording: among many good ones a bad one would not show. Recordings of a few
    frames go with their neighbours, since a single mask says little.

    Args:
        recordings: of every frame, frames of one recording in a row.
    """
    longest = max(FEWEST_OF_PART, math.ceil(len(recordings) / CHECKED_PARTS))
    ends = [i for i in range(1, len(recordings)) if recordings[i] != recordings[i - 1]]
    pieces = [
        piece
        for frames in np.split(np.arange(len(recordings)), ends)
        for piece in np.array_split(frames, max(1, len(frames) // longest))
    ]
    parts: list[NDArray[np.intp]] = []
    for piece in pieces:
        if parts and len(parts[-1]) < FEWEST_OF_PART:
            parts[-1] = np.concatenate([parts[-1], piece])
        else:
            parts.append(piece)
    if len(parts) > 1 and len(parts[-1]) < FEWEST_OF_PART:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def proposed_share(
    parent: DetectionNetwork,
    selected: Pool,
    parts: Sequence[NDArray[np.intp]],
    config: Config,
    on_frame: Callable[[], None] = lambda: None,
) -> tuple[float, list[int]]:
    """The share of selected masks that the parent proposes, where it is lowest, and where that is.

    In each part the masks of some images, spread evenly, are compared with the parent's proposals
    for these images; a mask is proposed where their IoU is at least 0.5.

    Args:
        parts: indices of the frames of each, see `checked_parts`.
        on_frame: called before every image.

    Returns:
        The share, in [0, 1], and the indices of the frames of that part.
    """
    proposer = _for_evaluation(parent, config)
    most = min(CHECKED_OF_PART, max(FEWEST_CHECKED, CHECKED_IMAGES // len(parts)))
    shares: list[tuple[float, list[int]]] = []
    for part in parts:
        chosen = part[np.linspace(0, len(part) - 1, min(len(part), most)).astype(int)]
        proposed: list[bool] = []
        for index in chosen:
            on_frame()
            labelled = selected[int(index)]
            (proposals,) = proposer.propose([labelled.image])
            overlap = iou_matrix(proposals.rles, labelled.rles)  # (N, M)
            proposed += [bool(column.max(initial=0.0) >= 0.5) for column in overlap.T]
        shares.append((float(np.mean(proposed)), part.tolist()))
    return min(shares)


def _first_network(store: ModelStore, config: Config) -> DetectionNetwork:
    """What the first version was learnt from or, where that is not at hand, the first version."""
    first = store.first()
    path = proposal_weights(config)
    if not path.is_file() or sha256_of(path) != first.manifest.get("origin"):
        path = first.path
    network, _ = load_mask_rcnn(path, config.proposal.detectron2_config)
    return network


def _compare(
    older: Mapping[str, DetectionNetwork],
    child: DetectionNetwork,
    probe: CocoDataset,
    config: Config,
    on_network: Callable[[], None],
    progress: bool,
) -> GateDecision:
    """The gate's decision on a network by its masks on the probe set.

    Args:
        older: what it is compared with, by name; it must not have forgotten what any of them knew:
            small losses against each parent would add up.
        on_network: called before each network is run.
    """

    def judge(network: DetectionNetwork) -> tuple[InstanceMetrics, list[CocoResult]]:
        on_network()
        return evaluate_network(_for_evaluation(network, config), probe, progress=progress)

    child_metrics, child_results = judge(child)
    decisions = []
    for name, network in older.items():
        metrics, results = judge(network)
        _, standard_error = paired_difference(probe, results, child_results)
        decisions.append(
            check_forgetting(metrics.AP, child_metrics.AP, standard_error, config.learning, name)
        )
    return all_passed(decisions)


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
