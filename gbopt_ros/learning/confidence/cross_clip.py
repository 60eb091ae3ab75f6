"""What is selected wherever it is seen, and in other surroundings, is an object; not in the paper.

A robot meets the same things again and again. A mug is selected in nearly every clip that shows it;
a print on the table is proposed as often, and selected now and then. And a mug is put down
elsewhere, while a print, or the handle of the mug, comes again with all that is around it. A single
clip does not tell them apart, the training set does: the confidence of a mask is revised by the
proposals that look like it in the other clips, by how well they agree with what was selected there,
and by how much what surrounds them looks like what surrounds it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from gbopt_ros.config import Config, ProposalConfig
from gbopt_ros.learning.confidence.appearance import (
    COLOURS,
    LEVELS,
    AppearanceExtractor,
    FrameAppearance,
)
from gbopt_ros.learning.data.training_set import SelectedDataset
from gbopt_ros.models.device import resolve_device

if TYPE_CHECKING:
    from gbopt_ros.models.detection import DetectionNetwork

log = logging.getLogger(__name__)

# Chosen on homes 103 and 104, world 11 and the bundled recording, see docs/learning.md.
_REMEMBERED = 5  # frames of a clip, subsample evenly, whose proposals the other clips' masks meet
_NEAREST = 3  # of a clip's proposals, those that look most like a mask,
_COMPARED = 60  # and of those of all clips
_ALIKE = 0.2  # similarity from which on the kernel grows, exponentially, by one of these lengths
_LENGTHS = 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 3.0
_ASKED = 2000  # proposals that tell which, at most: all of a large set's would take minutes
_PRIOR = 2.0  # weight of the average beside look-alikes, one that looks the same having 1
_AGREEMENT = 1.5  # what the log-odds of agreement count for, in those of a confidence,
_SURROUNDINGS = 16.0  # what the similarity of surroundings counts against,
_MOST_OF_SURROUNDINGS = 2.0  # and how much at most: what is never moved may be an object still
_SURE = 1e-3  # confidences are kept from 0 and 1 by this much


def confident_masks(
    dataset: SelectedDataset,
    network: DetectionNetwork,
    config: Config,
    draws: int,
    on_frame: Callable[[], None] | None = None,
) -> SelectedDataset:
    """What is learnt of a training set: its most confident masks, see `LearningConfig`.

    Args:
        network: proposes the masks; moved to the device and put in evaluation mode.
        draws: images that the training will take. Describing the masks of a frame takes about as
            long as a step does for one image, so no more frames than that are described, or learnt.
        on_frame: called before every frame that is described, in place of a progress bar.

    Raises:
        GboptError: an image cannot be read.
    """
    learning = config.learning
    if learning.cross_clip_confidence and learning.min_confidence > 0:
        dataset = dataset.subsample(draws)
        device = resolve_device(config.device)
        dataset = recalibrate(dataset, network, config.proposal, device, on_frame)
    confident = dataset.filter_by_confidence(learning.min_confidence)
    log.info(
        "%d of %d masks are confident enough", confident.instance_count, dataset.instance_count
    )
    return confident


def recalibrate(
    pool: SelectedDataset,
    network: DetectionNetwork,
    config: ProposalConfig,
    device: torch.device,
    on_frame: Callable[[], None] | None = None,
) -> SelectedDataset:
    """The pool with confidences that know what was selected in its other clips.

    Args:
        network: Mask R-CNN with a feature pyramid; moved to `device` and put in evaluation mode.
        config: of the candidates, which are those of a single view.
        on_frame: called before every frame, in place of a progress bar.

    Raises:
        GboptError: an image cannot be read.
    """
    clips = [(entry.recording, entry.clip_id) for entry in pool.entries]
    if len(set(clips)) < 2:
        return pool
    extractor = AppearanceExtractor(network, config, device)
    kept = _remembered(clips)
    appearances = []
    numbers = range(len(pool))
    for number in (
        numbers if on_frame else tqdm(numbers, "compare", unit="frame", dynamic_ncols=True)
    ):
        if on_frame:
            on_frame()
        labelled = pool[number]
        appearances.append(
            extractor.extract(clips[number], labelled.image, labelled.rles, remember=number in kept)
        )
    return pool.with_confidences(
        cross_clip_confidences(appearances, [np.array(entry.confidences) for entry in pool.entries])
    )


def _remembered(clips: Sequence[Hashable]) -> set[int]:
    """Places of the frames whose proposals are remembered, a few of each clip."""
    frames: dict[Hashable, list[int]] = {}
    for number, clip in enumerate(clips):
        frames.setdefault(clip, []).append(number)
    return {
        of_clip[place]
        for of_clip in frames.values()
        for place in np.linspace(0, len(of_clip) - 1, _REMEMBERED).round().astype(int)
    }


def cross_clip_confidences(
    appearances: Sequence[FrameAppearance], confidences: Sequence[NDArray[np.floating]]
) -> list[NDArray[np.float32]]:
    """Confidences in the light of what was selected in the other clips, and where.

    Proposals there that look like a mask, a few of each clip, have weights w by their similarity,
    agreements a with what was selected, and surroundings whose similarity to the mask's is s. Over
    those of one mask,

        r = (sum of w a + p R) / (sum of w + p)
        d = (sum of w (s - S)) / (sum of w + p), of those whose surroundings are seen,

    where R is the mean of a, weighted by w, over all masks, and S that of s over the masks of the
    same clip. How steeply w rises with similarity is chosen by the appearances alone, so that r, of
    proposals in place of masks, tells their agreement best: steeply where most of what is a little
    alike is something else. The log-odds of a mask change by e (logit r - logit R) - m d, the
    latter within bounds, which is nothing where nothing looks like it; p, e and m are constants.

    S is the clip's own so that little is lost where a scene stays as it is from clip to clip:
    surroundings tell masks of one scene apart, not scenes.

    Args:
        appearances: of the frames of a training set.
        confidences: (M,) of each frame's masks, in [0, 1].

    Returns:
        (M,) float32 of each frame's masks, in [0, 1]; as they were where proposals of one clip
        alone are remembered.
    """
    numbers = {
        clip: number
        for number, clip in enumerate({appearance.clip: 0 for appearance in appearances})
    }
    clips = np.array([numbers[appearance.clip] for appearance in appearances], int)
    owners = np.repeat(clips, [len(appearance.masks) for appearance in appearances])
    places = np.repeat(clips, [len(appearance.proposals) for appearance in appearances])
    if len(owners) == 0 or np.all(places == places[:1]):
        return [np.asarray(values, np.float32) for values in confidences]
    masks, proposals = _directions(appearances)
    agreements = np.concatenate([appearance.agreement for appearance in appearances])
    asked = np.linspace(0, len(places) - 1, min(_ASKED, len(places))).astype(int)
    others = _most_alike(proposals[asked], places[asked], proposals, places)
    length = _best_length(agreements[asked], agreements[others[0]], others[1])
    chosen, similarity = _most_alike(masks, owners, proposals, places)
    weights, agreement = _kernel(similarity, length), agreements[chosen]
    alike, are_seen = _surroundings(appearances, chosen)
    agreed = _AGREEMENT * _more_agreed(weights, agreement)
    stayed = _SURROUNDINGS * _more_alike(weights * are_seen, alike, owners)
    bounded = np.clip(stayed, -_MOST_OF_SURROUNDINGS, _MOST_OF_SURROUNDINGS)
    log_odds = _logit(np.concatenate(confidences)) + agreed - bounded
    revised = (1 / (1 + np.exp(-log_odds))).astype(np.float32)
    return np.split(revised, np.cumsum([len(appearance.masks) for appearance in appearances])[:-1])


def _most_alike(
    described: Tensor, owners: NDArray[np.intp], proposals: Tensor, places: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """(M, K) which proposals of other clips look most like each of M, and their similarity.

    It is minus infinity of the proposals of its own clip that fill the rows of a few clips.

    Args:
        described, proposals: (M, D) and (N, D), see `_directions`.
        owners, places: (M,) and (N,) the clips that they are of.
    """
    best = torch.empty((len(described), 0))
    chosen = torch.empty((len(described), 0), dtype=torch.int64)
    for clip in np.unique(places):
        there = torch.from_numpy(np.flatnonzero(places == clip))
        alike, nearest = (described @ proposals[there].T).topk(min(_NEAREST, len(there)))
        alike[torch.from_numpy(owners == clip)] = -torch.inf
        best, chosen = torch.cat([best, alike], dim=1), torch.cat([chosen, there[nearest]], dim=1)
        best, order = best.topk(min(_COMPARED, best.shape[1]))  # all clips' would take the memory
        chosen = chosen.gather(1, order)
    return chosen.numpy(), best.double().numpy()


def _best_length(
    agreement: NDArray[np.float32],
    of_others: NDArray[np.float32],
    similarity: NDArray[np.float64],
) -> float:
    """The length of the kernel that tells agreements best, by their cross-entropy.

    Args:
        agreement: (N,) of proposals.
        of_others: (N, K) of their look-alikes in other clips.
        similarity: (N, K) of these.
    """
    losses = []
    for length in _LENGTHS:
        told, _ = _expected(_kernel(similarity, length), of_others)
        told = np.clip(told, _SURE, 1 - _SURE)
        losses.append(-np.mean(agreement * np.log(told) + (1 - agreement) * np.log1p(-told)))
    return _LENGTHS[int(np.argmin(losses))]


def _expected(
    weights: NDArray[np.float64], agreement: NDArray[np.float32]
) -> tuple[NDArray[np.float64], float]:
    """(M,) the agreement that look-alikes (M, K) tell, and the average one."""
    total, weighted = weights.sum(axis=1), (weights * agreement).sum(axis=1)
    average = weighted.sum() / max(total.sum(), 1e-9)
    return (weighted + _PRIOR * average) / (total + _PRIOR), average


def _more_agreed(
    weights: NDArray[np.float64], agreement: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(M,) by how much the log-odds of agreement exceed those of all masks."""
    expected, average = _expected(weights, agreement)
    return _logit(expected) - _logit(average)


def _surroundings(
    appearances: Sequence[FrameAppearance], chosen: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(M, K) how alike the surroundings of masks and chosen proposals are, if both are seen."""
    proposals = np.concatenate([appearance.proposals.around for appearance in appearances])
    masks = np.concatenate([appearance.masks.around for appearance in appearances])
    are_seen = proposals.max(axis=1) > 0
    middle = proposals.sum(axis=0) / max(1, np.count_nonzero(are_seen))
    proposals = _units(proposals - middle)
    alike = [
        proposals[rows] @ own for rows, own in zip(chosen, _units(masks - middle), strict=True)
    ]
    return np.stack(alike), (masks.max(axis=1) > 0)[:, None] & are_seen[chosen]


def _more_alike(
    weights: NDArray[np.float64], alike: NDArray[np.float32], owners: NDArray[np.intp]
) -> NDArray[np.float64]:
    """(M,) by how much the similarity of surroundings exceeds that of the masks of the clip."""
    total, weighted = weights.sum(axis=1), (weights * alike).sum(axis=1)
    average = np.bincount(owners, weighted) / np.maximum(np.bincount(owners, total), 1e-9)
    return (weighted - total * average[owners]) / (total + _PRIOR)


def _directions(appearances: Sequence[FrameAppearance]) -> tuple[Tensor, Tensor]:
    """Vectors (M, D) of masks and (N, D) of proposals whose products say how alike two are.

    That is half the cosine of the colours and half that of the features, the mean over the levels
    of the pyramid, all of them measured from the mean of the proposals.
    """
    proposals = np.concatenate([appearance.proposals.inside for appearance in appearances])
    masks = np.concatenate([appearance.masks.inside for appearance in appearances])
    middle = proposals.mean(axis=0)

    def directions(described: NDArray[np.float32]) -> Tensor:
        features, colours = np.split(described - middle, [described.shape[1] - COLOURS], axis=1)
        levels = [_units(level) for level in np.split(features, LEVELS, axis=1)]
        parts = [*(level * np.float32(LEVELS**-0.5) for level in levels), _units(colours)]
        return torch.from_numpy(np.concatenate(parts, axis=1) * np.float32(np.sqrt(0.5)))

    return directions(masks), directions(proposals)


def _units(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    # What is nothing but rounding, since all are the same, has no direction.
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-5))


def _kernel(similarity: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Weights of proposals: 1 of what looks the same, 0 of what is not alike."""
    least = np.exp((_ALIKE - 1) / length)
    return np.maximum((np.exp((similarity - 1) / length) - least) / (1 - least), 0.0)


def _logit(probability: NDArray[np.floating] | float) -> NDArray[np.float64]:
    sure = np.clip(np.asarray(probability, np.float64), _SURE, 1 - _SURE)
    return np.log(sure) - np.log1p(-sure)
