"""Measurements for the gate: agreement of masks with the parent, AP on the validation set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.config import Config, LearningConfig
from gbopt_ros.evaluation.coco_metrics import paired_difference
from gbopt_ros.learning.data.datasets import SelectedDataset
from gbopt_ros.learning.store.gate import (
    GateDecision,
    all_passed,
    check_forgetting,
    check_masks,
)
from gbopt_ros.learning.store.validation_results import ValidationResults, evaluated_proposals
from gbopt_ros.masks import iou_matrix
from gbopt_ros.models.detection import DetectionNetwork
from gbopt_ros.structures import ProposalNetwork

PARTS = 8  # number of parts of a training set with one recording
MIN_FRAMES_OF_PART = 6
MAX_CHECKED_OF_PART, MIN_CHECKED_OF_PART = 6, 3  # frames of a part whose masks are checked
MAX_CHECKED = 300  # frames of all parts, while each part has `MIN_CHECKED_OF_PART`


def check_agreement(
    parent: DetectionNetwork,
    selected: SelectedDataset,
    config: Config,
    on_frame: Callable[[], None] = lambda: None,
    teacher: ProposalNetwork | None = None,
) -> GateDecision:
    """Refuse a training set with a part whose masks neither parent nor teacher proposes.

    Masks that a person verified are left out: no network need vouch for them.

    Args:
        selected: not empty.
        on_frame: called before every image.
        teacher: another network that proposed masks, if there is one.
    """
    selected = selected.unverified()
    if not len(selected):
        return GateDecision(True, "a person verified all masks")
    parts = checked_parts([entry.recording for entry in selected.entries])
    agreement, part = agreement_of_parts(parent, selected, parts, config, on_frame, teacher)
    return check_masks(agreement, config.learning, selected.recordings(part))


def compare_on_validation(
    child: DetectionNetwork,
    older: Mapping[str, DetectionNetwork],
    validation: ValidationResults | None,
    config: LearningConfig,
    *,
    progress: bool = True,
    on_network: Callable[[], None] = lambda: None,
) -> GateDecision:
    """Compare a new network with older ones on the validation set.

    Args:
        older: networks by name; it must not have forgotten what any of them knew.
        validation: with None every network passes.
        progress: show a progress bar.
        on_network: called before each network is evaluated.
    """
    if validation is None:
        return GateDecision(True, "no validation set to compare on")
    on_network()
    child_metrics, child_results = validation.evaluate(child, progress)
    decisions = []
    for name, network in older.items():
        on_network()
        metrics, results = validation.evaluate(network, progress)
        _, standard_error = paired_difference(validation.labels, results, child_results)
        decisions.append(
            check_forgetting(metrics.AP, child_metrics.AP, standard_error, config, name)
        )
    return all_passed(decisions)


def checked_parts(recordings: Sequence[str]) -> list[NDArray[np.intp]]:
    """Split a training set into parts whose masks are checked together.

    A part belongs to one recording, so that a bad one is found among many good ones. Recordings
    with few frames are joined with their neighbours, since few masks say little.

    Args:
        recordings: the recording of every frame; frames of one recording are consecutive.

    Returns:
        Indices of the consecutive frames of each part.
    """
    longest = max(MIN_FRAMES_OF_PART, math.ceil(len(recordings) / PARTS))
    ends = [i for i in range(1, len(recordings)) if recordings[i] != recordings[i - 1]]
    pieces = [
        piece
        for frames in np.split(np.arange(len(recordings)), ends)
        for piece in np.array_split(frames, max(1, len(frames) // longest))
    ]
    parts: list[NDArray[np.intp]] = []
    for piece in pieces:
        if parts and len(parts[-1]) < MIN_FRAMES_OF_PART:
            parts[-1] = np.concatenate([parts[-1], piece])
        else:
            parts.append(piece)
    if len(parts) > 1 and len(parts[-1]) < MIN_FRAMES_OF_PART:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def agreement_of_parts(
    parent: DetectionNetwork,
    selected: SelectedDataset,
    parts: Sequence[NDArray[np.intp]],
    config: Config,
    on_frame: Callable[[], None] = lambda: None,
    teacher: ProposalNetwork | None = None,
) -> tuple[float, list[int]]:
    """The share of selected masks that the parent or the teacher proposes, in the worst part.

    In each part, the masks of some evenly spaced frames are compared with the proposals. A mask
    counts as proposed from an IoU of 0.5 on.

    Args:
        parts: indices of the frames of each part, see `checked_parts`.
        on_frame: called before every image.
        teacher: another network that proposed masks; the parent may have proposed others.

    Returns:
        The share, in [0, 1], and the indices of the frames of that part.
    """
    proposer = evaluated_proposals(parent, config)
    most = min(MAX_CHECKED_OF_PART, max(MIN_CHECKED_OF_PART, MAX_CHECKED // len(parts)))
    shares: list[tuple[float, list[int]]] = []
    for part in parts:
        chosen = part[np.linspace(0, len(part) - 1, min(len(part), most)).astype(int)]
        proposed: list[bool] = []
        for index in chosen:
            on_frame()
            labelled = selected[int(index)]
            (proposals,) = proposer.propose([labelled.image])
            rles = proposals.rles
            if teacher is not None:
                rles += teacher.propose([labelled.image])[0].rles
            overlap = iou_matrix(rles, labelled.rles)  # (N, M)
            proposed += (overlap.max(axis=0, initial=0.0) >= 0.5).tolist()
        shares.append((float(np.mean(proposed)), part.tolist()))
    return min(shares)
