"""One training round: check the selected masks, fine-tune on them, pass the gate, publish."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gbopt_ros.config import Config
from gbopt_ros.io.datasets.coco import CocoDataset
from gbopt_ros.learning.confidence.cross_clip import confident_masks
from gbopt_ros.learning.data.datasets import CocoInstances, SelectedDataset
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.learning.store.gate import GateDecision
from gbopt_ros.learning.store.gate_checks import check_agreement, compare_on_validation
from gbopt_ros.learning.store.model_card import data_by_clip, licence_of_weights
from gbopt_ros.learning.store.model_store import (
    ModelStore,
    ModelVersion,
    is_one_of,
    verify_version,
)
from gbopt_ros.learning.store.teacher_gate import (
    TeacherDecision,
    compare_with_teacher,
    hold_out_newest_clips,
)
from gbopt_ros.learning.store.validation_results import ValidationResults
from gbopt_ros.learning.student import load_teacher, student_config
from gbopt_ros.learning.training.fine_tuning import fine_tune, selected_in_batch
from gbopt_ros.learning.training.trainer import OnStep, TrainingLog
from gbopt_ros.models.detection import DetectionNetwork, load_mask_rcnn
from gbopt_ros.models.device import resolve_device
from gbopt_ros.models.weights import WeightsInfo, sha256_of, tensors_digest
from gbopt_ros.perception.load import proposal_weights
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import GboptError, ProposalNetwork

log = logging.getLogger(__name__)

_SEED_STEP = 1000  # difference between the seeds of two rounds
_ORIGIN = "origin", "origin_tensors", "origin_licence"
"""What every manifest says of the network that learning began with."""


@dataclass(frozen=True)
class Learnt:
    """The outcome of one round.

    Attributes:
        decision: the gate's decision.
        log: losses of every step; empty where the gate refused the masks.
        version: the published version, None where the gate refused it.
        comparison: with the teacher, whether the version may serve; None where the network that
            proposes is the one that learns.
    """

    decision: GateDecision
    log: TrainingLog = field(repr=False)
    version: ModelVersion | None
    comparison: TeacherDecision | None = field(default=None, repr=False)


def learn(
    training_set: TrainingSet,
    models: ModelStore,
    config: Config,
    *,
    rehearsal: CocoDataset | None = None,
    validation: CocoDataset | None = None,
    on_step: OnStep | None = None,
    teacher: ProposalNetwork | None = None,
) -> Learnt:
    """Fine-tune on the training set, pass the gate, publish.

    Where another network than the student proposed the masks, the new version is compared with it
    (`learning.store.teacher_gate`). One that fails is published all the same, and the next round
    goes on from it, but it may not serve yet (`ModelStore.serving`).

    Args:
        training_set: selected masks.
        models: its current version is the parent; before the first, the student of the
            configuration is (`student_config`). A network that the configuration names as the
            student must be the first one or a version of the store.
        rehearsal: labelled images of seen classes, mixed into every batch.
        validation: labelled images of seen classes for the gate, not learnt from.
        on_step: called after every optimiser step, in place of progress bars. Also called during
            the checks before and after the training, with a loss of NaN. An exception in it ends
            the round, and nothing is published.
        teacher: the network that proposed the masks, if it is neither the student nor named by
            `proposal.weights`.

    Raises:
        GboptError: there is nothing to learn from, a loss or a gradient was not finite,
            weights cannot be loaded, the store was begun with another network, or another process
            writes it.
    """
    _warn_of_shared_images(rehearsal, validation)
    with models.lock.held("learning"):
        return _learn(
            training_set, models, config, rehearsal, validation, on_step,
            teacher or load_teacher(config),
        )  # fmt: skip


def _warn_of_shared_images(rehearsal: CocoDataset | None, validation: CocoDataset | None) -> None:
    if rehearsal is None or validation is None:
        return
    rehearsed, judged = (
        {(each.image_dir or Path()).resolve() / image.file_name for image in each.images}
        for each in (rehearsal, validation)
    )
    if shared := len(rehearsed & judged):
        log.warning(
            "%d of %d validation images are rehearsed, too: on these the gate cannot see what is "
            "forgotten; give other images for validation",
            shared, len(judged),
        )  # fmt: skip


def _learn(
    training_set: TrainingSet,
    models: ModelStore,
    config: Config,
    rehearsal: CocoDataset | None,
    validation: CocoDataset | None,
    on_step: OnStep | None,
    teacher: ProposalNetwork | None,
) -> Learnt:
    teaching, config = config, student_config(config)
    learning, device = config.learning, resolve_device(config.device)

    def report(step: int) -> None:
        if on_step is not None:
            on_step(step, math.nan)

    parent = _parent(models, config)
    selected = training_set.labelled_images()
    if selected.instance_count == 0:
        raise GboptError("no selected mask to learn from: the training set is empty")
    masks = check_agreement(parent.network, selected, config, lambda: report(0), teacher)
    if not masks.passed:
        if teacher is None:
            masks = _with_other_teachers(masks, selected, parent)
        return _refused(masks, TrainingLog())

    compared = learning.student_clips if teacher is not None else 0
    learnt, newest = hold_out_newest_clips(training_set, selected, compared)
    draws = learning.iterations * selected_in_batch(learning, rehearses=rehearsal is not None)
    on_frame = (lambda: report(0)) if on_step else None
    confident = confident_masks(learnt, parent.network, config, max(1, draws), on_frame, teacher)
    network, training = fine_tune(
        parent.network,
        confident,
        CocoInstances(rehearsal) if rehearsal is not None else None,
        learning,
        device,
        on_step,
    )

    older = {"its parent": parent.network}
    if parent.version is not None and validation is not None:
        older["the network that learning began with"] = _first_network(models, config)
    results = None
    if validation is not None:
        results = ValidationResults(models.root / "validation", validation, config)
    decision = compare_on_validation(
        network, older, results, learning,
        progress=on_step is None, on_network=lambda: report(learning.iterations),
    )  # fmt: skip
    if results is not None:
        results.remove_others()
    decision = replace(decision, agreement=masks.agreement)
    report(learning.iterations)
    if not decision.passed:
        return _refused(decision, training)
    comparison = None
    if teacher is not None and compared:
        comparison = compare_with_teacher(
            MaskRcnnProposals(network, "", config.proposal, device), teacher, newest, config,
            held_out=len(learnt) < len(selected), on_frame=lambda: report(learning.iterations),
        )  # fmt: skip

    facts = parent.origin | {
        "gate": decision.to_dict(),
        "frames": len(confident),
        "evicted": training_set.evicted,
        "instances": confident.instance_count,
        "data": data_by_clip(confident.entries),
        "teachers": confident.teachers(),
        "final_loss": training.total[-1],
        "learning": config.to_dict()["learning"],
    }
    if teacher is not None:
        facts["teacher_licence"] = licence_of_weights(teaching)
    if comparison is not None:
        facts["teacher_gate"] = comparison.to_dict()
    version = models.publish(network, parent.info, facts, after=parent.version)
    models.prune(learning.keep_versions)
    log.info("published %s: %s", version.version, decision.reason)
    if comparison is not None:
        verdict = "may serve" if comparison.passed else "may not serve yet"
        log.info("%s %s: %s", version.version, verdict, comparison.reason)
    return Learnt(decision, training, version, comparison)


@dataclass(frozen=True)
class _Parent:
    """The network that a round starts from.

    Attributes:
        version: of the store; None before the first one.
        origin: what a manifest says of the network that learning began with, `_ORIGIN`.
    """

    network: DetectionNetwork
    info: WeightsInfo
    version: ModelVersion | None
    origin: dict[str, Any]


def _parent(models: ModelStore, config: Config) -> _Parent:
    """The current version of the store; before the first, the network of the configuration."""
    path = proposal_weights(config)
    verify_version(path)
    if config.proposal.weights:
        models.check_origin(path, config.proposal.detectron2_config)
    current = models.verified_current()
    if current is not None:
        path = current.path
    network, info = load_mask_rcnn(path, config.proposal.detectron2_config)
    if current is not None:
        origin = {key: current.manifest.get(key) for key in _ORIGIN}
    else:
        found = sha256_of(path), tensors_digest(network), licence_of_weights(config)
        origin = dict(zip(_ORIGIN, found, strict=True))
    return _Parent(network, info, current, origin)


def config_of_round(config: Config, number: int) -> Config:
    """The configuration of one of several rounds, counted from 0, with a seed of its own.

    Seeds are far apart, so that rounds of trainings with neighbouring seeds differ too.
    """
    seed = config.learning.seed + _SEED_STEP * number
    return replace(config, learning=replace(config.learning, seed=seed))


def _first_network(models: ModelStore, config: Config) -> DetectionNetwork:
    """The network that the first version was learnt from; if it is missing, the first version."""
    first = models.first()
    path = proposal_weights(config)
    origins = {first.manifest.get("origin"), first.manifest.get("origin_tensors")}
    if not path.is_file() or not is_one_of(path, origins, config.proposal.detectron2_config):
        path = first.path
    network, _ = load_mask_rcnn(path, config.proposal.detectron2_config)
    return network


def _with_other_teachers(
    decision: GateDecision, selected: SelectedDataset, parent: _Parent
) -> GateDecision:
    """Say which networks proposed the masks, if they are others than the parent and its own."""
    known = {parent.info.version, parent.version.manifest["parent"] if parent.version else ""}
    others = ", ".join(name for name in selected.teachers() if name not in known)
    if not others:
        return decision
    hint = f"or {others} proposed masks: then name that network, as --weights"
    return replace(decision, reason=f"{decision.reason}; {hint}")


def _refused(decision: GateDecision, training: TrainingLog) -> Learnt:
    log.warning("new version refused: %s", decision.reason)
    return Learnt(decision, training, None)
