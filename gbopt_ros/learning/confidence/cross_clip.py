"""Cross-clip confidence: masks that are selected in other clips, too, are likely objects.

Not in the paper. A robot meets the same objects again. A mug is selected in nearly every clip that
shows it, and stands in different places; a print on the table is proposed as often, but selected
now and then, and its surroundings never change. One clip cannot tell them apart; the training set
can. The confidence of a mask is recalibrated by a kernel regression over proposals of similar
appearance in other clips: by how often they were selected, and by how similar their context is.
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
from gbopt_ros.learning.data.datasets import SelectedDataset
from gbopt_ros.models.device import resolve_device
from gbopt_ros.models.folding import folded_copy
from gbopt_ros.structures import ProposalNetwork

if TYPE_CHECKING:
    from gbopt_ros.models.detection import DetectionNetwork

log = logging.getLogger(__name__)

# Chosen on the environments 103 and 104, world 11 and the demo recording, see docs/lab-notebook.md.
_REFERENCE_FRAMES = 5  # frames of a clip, evenly spaced, that give proposals to compare with
_NEIGHBOURS_OF_CLIP = 3  # most similar proposals of one clip
_NEIGHBOURS = 60  # most similar proposals of all clips
_MIN_SIMILARITY = 0.2  # similarity at which the kernel is 0
_BANDWIDTHS = 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 3.0  # of the kernel
_MAX_SAMPLES = 2000  # proposals on which the bandwidth is chosen; all of them may take minutes
_PRIOR_WEIGHT = 2.0  # of the mean agreement; an identical neighbour has weight 1
_AGREEMENT_WEIGHT = 1.5  # of the log-odds of agreement
_CONTEXT_WEIGHT = 16.0  # of the similarity of context
_MAX_CONTEXT_CHANGE = 2.0  # log-odds by context: an object that is never moved may still be one
_MARGIN = 1e-3  # distance of probabilities to 0 and 1


def confident_masks(
    dataset: SelectedDataset,
    network: DetectionNetwork,
    config: Config,
    draws: int,
    on_frame: Callable[[], None] | None = None,
    teacher: ProposalNetwork | None = None,
) -> SelectedDataset:
    """The most confident masks of a training set, which are learnt; see `LearningConfig`.

    Args:
        network: describes the masks, and proposes them where there is no other `teacher`.
        draws: number of images that the training will take, and the maximum number of frames that
            are recalibrated and learnt. One frame takes about as long as one image of a step.
        on_frame: called before each recalibrated frame, in place of a progress bar.

    Raises:
        GboptError: an image cannot be read.
    """
    learning, frames, masks = config.learning, len(dataset), dataset.instance_count
    if learning.cross_clip_confidence and learning.min_confidence > 0:
        dataset = dataset.subsample(draws)
        device = resolve_device(config.device)
        dataset = recalibrate(dataset, network, config.proposal, device, on_frame, teacher)
    confident = dataset.filter_by_confidence(learning.min_confidence)
    log.info(
        "learning %d of %d masks, from %d of %d frames",
        confident.instance_count, masks, len(dataset), frames,
    )  # fmt: skip
    return confident


def recalibrate(
    dataset: SelectedDataset,
    network: DetectionNetwork,
    config: ProposalConfig,
    device: torch.device,
    on_frame: Callable[[], None] | None = None,
    teacher: ProposalNetwork | None = None,
) -> SelectedDataset:
    """The dataset with cross-clip confidences; unchanged where it has one clip only.

    Args:
        network: Mask R-CNN with a feature pyramid; a copy of it runs on `device`.
        config: settings of the proposals that masks are compared with.
        on_frame: called before each frame, in place of a progress bar.
        teacher: proposes the masks; None: `network` does.

    Raises:
        GboptError: an image cannot be read.
    """
    clips = [(entry.recording, entry.clip_id) for entry in dataset.entries]
    if len(set(clips)) < 2:
        return dataset
    extractor = AppearanceExtractor(folded_copy(network, device), config, device, teacher)
    references = _reference_frames(clips)
    appearances = []
    progress = tqdm(
        range(len(dataset)), "compare", unit="frame", dynamic_ncols=True,
        disable=on_frame is not None,
    )  # fmt: skip
    for number in progress:
        if on_frame:
            on_frame()
        labelled = dataset[number]
        appearances.append(
            extractor.extract(clips[number], labelled.image, labelled.rles, number in references)
        )
    confidences = [np.array(entry.confidences) for entry in dataset.entries]
    return dataset.with_confidences(cross_clip_confidences(appearances, confidences))


def _reference_frames(clips: Sequence[Hashable]) -> set[int]:
    """Indices of the frames that give proposals to compare with, a few of each clip."""
    frames: dict[Hashable, list[int]] = {}
    for number, clip in enumerate(clips):
        frames.setdefault(clip, []).append(number)
    return {
        of_clip[place]
        for of_clip in frames.values()
        for place in np.linspace(0, len(of_clip) - 1, _REFERENCE_FRAMES).round().astype(int)
    }


def cross_clip_confidences(
    appearances: Sequence[FrameAppearance], confidences: Sequence[NDArray[np.floating]]
) -> list[NDArray[np.float32]]:
    """Recalibrate confidences by the most similar proposals of other clips, the neighbours.

    A neighbour of a mask has a weight w by its similarity in appearance, an agreement a with the
    masks selected in its frame, and a similarity s of its context to that of the mask. With sums
    over the neighbours of one mask, and with a prior weight p,

        r = (sum of w a + p R) / (sum of w + p)
        d = (sum of w (s - S)) / (sum of w + p), over neighbours whose context is visible,

    where R is the weighted mean of a over all masks, and S that of s over the masks of the same
    clip. The log-odds of the confidence change by e (logit r - logit R) - m d. The second term is
    bounded; e and m are constants. A mask without neighbours keeps its confidence. S belongs to the
    clip, so that an unchanged scene does not count against all of its masks.

    The bandwidth of the kernel is the one by which r of proposals predicts their own agreement
    best.

    Args:
        appearances: one of each frame of a training set.
        confidences: (M,) of the masks of each frame, in [0, 1].

    Returns:
        (M,) float32 of each frame, in [0, 1]; unchanged where all proposals are of one clip.
    """
    numbers = {clip: n for n, clip in enumerate(dict.fromkeys(a.clip for a in appearances))}
    clips = np.array([numbers[appearance.clip] for appearance in appearances], int)
    mask_clips = np.repeat(clips, [len(appearance.masks) for appearance in appearances])
    proposal_clips = np.repeat(clips, [len(appearance.proposals) for appearance in appearances])
    if len(mask_clips) == 0 or np.all(proposal_clips == proposal_clips[:1]):
        return [np.asarray(values, np.float32) for values in confidences]
    masks, proposals = _embeddings(appearances)
    agreement = np.concatenate([appearance.agreement for appearance in appearances])
    count = len(proposal_clips)
    samples = np.linspace(0, count - 1, min(_MAX_SAMPLES, count)).astype(int)
    neighbours, similarity = _nearest(
        proposals[samples], proposal_clips[samples], proposals, proposal_clips
    )
    bandwidth = _best_bandwidth(agreement[samples], agreement[neighbours], similarity)
    neighbours, similarity = _nearest(masks, mask_clips, proposals, proposal_clips)
    weights = _kernel(similarity, bandwidth)
    context, is_visible = _context_similarity(appearances, neighbours)
    expected, mean = _expected_agreement(weights, agreement[neighbours])
    by_agreement = _AGREEMENT_WEIGHT * (_logit(expected) - _logit(mean))
    by_context = _CONTEXT_WEIGHT * _excess_similarity(weights * is_visible, context, mask_clips)
    bounded = np.clip(by_context, -_MAX_CONTEXT_CHANGE, _MAX_CONTEXT_CHANGE)
    log_odds = _logit(np.concatenate(confidences)) + by_agreement - bounded
    recalibrated = (1 / (1 + np.exp(-log_odds))).astype(np.float32)
    ends = np.cumsum([len(appearance.masks) for appearance in appearances])
    return np.split(recalibrated, ends[:-1])


def _nearest(
    queries: Tensor,
    query_clips: NDArray[np.intp],
    proposals: Tensor,
    proposal_clips: NDArray[np.intp],
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The K nearest proposals of other clips for each of M queries, and their similarity.

    Args:
        queries, proposals: (M, D) and (N, D), see `_embeddings`.
        query_clips, proposal_clips: (M,) and (N,) numbers of their clips.

    Returns:
        (M, K) indices of proposals and (M, K) similarities. Proposals of the query's own clip,
        which fill up short rows, have similarity minus infinity.
    """
    best = torch.empty((len(queries), 0))
    found = torch.empty((len(queries), 0), dtype=torch.int64)
    for clip in np.unique(proposal_clips):
        there = torch.from_numpy(np.flatnonzero(proposal_clips == clip))
        count = min(_NEIGHBOURS_OF_CLIP, len(there))
        similarity, nearest = (queries @ proposals[there].T).topk(count)
        similarity[torch.from_numpy(query_clips == clip)] = -torch.inf
        best, found = torch.cat([best, similarity], dim=1), torch.cat([found, there[nearest]], 1)
        # Here, not after the last clip: the neighbours of all clips would take much memory.
        best, order = best.topk(min(_NEIGHBOURS, best.shape[1]))
        found = found.gather(1, order)
    return found.numpy(), best.double().numpy()


def _best_bandwidth(
    agreement: NDArray[np.float32],
    of_neighbours: NDArray[np.float32],
    similarity: NDArray[np.float64],
) -> float:
    """The bandwidth whose expected agreement has the lowest cross-entropy with the true one.

    Args:
        agreement: (N,) of proposals.
        of_neighbours: (N, K) agreement of their neighbours.
        similarity: (N, K) of their neighbours.
    """
    losses = []
    for bandwidth in _BANDWIDTHS:
        expected, _ = _expected_agreement(_kernel(similarity, bandwidth), of_neighbours)
        p = np.clip(expected, _MARGIN, 1 - _MARGIN)
        losses.append(-np.mean(agreement * np.log(p) + (1 - agreement) * np.log1p(-p)))
    return _BANDWIDTHS[int(np.argmin(losses))]


def _expected_agreement(
    weights: NDArray[np.float64], agreement: NDArray[np.float32]
) -> tuple[NDArray[np.float64], float]:
    """r (M,) by the neighbours (M, K), and their mean R; see `cross_clip_confidences`."""
    total, weighted = weights.sum(axis=1), (weights * agreement).sum(axis=1)
    mean = weighted.sum() / max(total.sum(), 1e-9)
    return (weighted + _PRIOR_WEIGHT * mean) / (total + _PRIOR_WEIGHT), mean


def _excess_similarity(
    weights: NDArray[np.float64], context: NDArray[np.float32], mask_clips: NDArray[np.intp]
) -> NDArray[np.float64]:
    """d (M,) by the context similarity (M, K) of neighbours; see `cross_clip_confidences`."""
    total, weighted = weights.sum(axis=1), (weights * context).sum(axis=1)
    mean = np.bincount(mask_clips, weighted) / np.maximum(np.bincount(mask_clips, total), 1e-9)
    return (weighted - total * mean[mask_clips]) / (total + _PRIOR_WEIGHT)


def _context_similarity(
    appearances: Sequence[FrameAppearance], neighbours: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(M, K) similarity of the contexts of masks and neighbours, and whether both are visible."""
    proposals = np.concatenate([appearance.proposals.context for appearance in appearances])
    masks = np.concatenate([appearance.masks.context for appearance in appearances])
    is_visible = proposals.max(axis=1) > 0
    mean = proposals.sum(axis=0) / max(1, np.count_nonzero(is_visible))
    proposals = _normalised(proposals - mean)
    similarity = [
        proposals[rows] @ own
        for rows, own in zip(neighbours, _normalised(masks - mean), strict=True)
    ]
    return np.stack(similarity), (masks.max(axis=1) > 0)[:, None] & is_visible[neighbours]


def _embeddings(appearances: Sequence[FrameAppearance]) -> tuple[Tensor, Tensor]:
    """Vectors (M, D) of masks and (N, D) of proposals whose dot product is their similarity.

    It is half the cosine similarity of the colours and half that of the features, averaged over the
    pyramid levels. Both are centred on the mean of the proposals.
    """
    proposals = np.concatenate([appearance.proposals.inside for appearance in appearances])
    masks = np.concatenate([appearance.masks.inside for appearance in appearances])
    mean = proposals.mean(axis=0)

    def embed(inside: NDArray[np.float32]) -> Tensor:
        features, colours = np.split(inside - mean, [inside.shape[1] - COLOURS], axis=1)
        levels = [_normalised(level) for level in np.split(features, LEVELS, axis=1)]
        parts = [*(level * np.float32(LEVELS**-0.5) for level in levels), _normalised(colours)]
        return torch.from_numpy(np.concatenate(parts, axis=1) * np.float32(np.sqrt(0.5)))

    return embed(masks), embed(proposals)


def _normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of length 1; shorter for those that are nothing but rounding errors."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-5))


def _kernel(similarity: NDArray[np.float64], bandwidth: float) -> NDArray[np.float64]:
    """Exponential weights: 1 at similarity 1, 0 from `_MIN_SIMILARITY` down."""
    least = np.exp((_MIN_SIMILARITY - 1) / bandwidth)
    return np.maximum((np.exp((similarity - 1) / bandwidth) - least) / (1 - least), 0.0)


def _logit(probability: NDArray[np.floating] | float) -> NDArray[np.float64]:
    p = np.clip(np.asarray(probability, np.float64), _MARGIN, 1 - _MARGIN)
    return np.log(p) - np.log1p(-p)
