"""What is selected wherever it is seen, and in other surroundings, is an object; not in the paper.

A robot meets the same things again and again. A mug is selected in nearly every clip that shows it;
a print on the table is proposed as often, and selected now and then. And a mug is put down
elsewhere, while a print, or the handle of the mug, comes again with all that is around it. A single
clip does not tell them apart, the training set does: the confidence of a mask is revised by the
proposals that look like it in the other clips, by how well they agree with what was selected there,
and by how much what surrounds them looks like what surrounds it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import ProposalConfig
from gbopt_ros.learning.training_set import SelectedPool
from gbopt_ros.perception.device import download
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import Image, Rle

if TYPE_CHECKING:
    from gbopt_ros.perception.proposals import DetectionNetwork

# Chosen on homes 103 and 104, world 11 and the bundled recording, see docs/learning.md.
_REMEMBERED = 5  # frames of a clip, spread evenly, whose proposals the other clips' masks meet
_NEAREST = 3  # of a clip's proposals, those that look most like a mask,
_COMPARED = 60  # and of those of all clips
_ALIKE, _LENGTH = 0.4, 0.15  # of the kernel, in cosine similarity: where it begins, how it grows
_PRIOR = 0.5  # weight of the average beside look-alikes, one that looks the same having 1
_AGREEMENT = 2.0  # what the log-odds of agreement count for, in those of a confidence,
_SURROUNDINGS = 8.0  # what the similarity of surroundings counts against,
_MOST_OF_SURROUNDINGS = 2.0  # and how much at most: what is never moved may be an object still
_RING = 0.05, 0.35  # where surroundings begin and end, in roots of the mask's area,
_RING_PIXELS = 1, 3  # and in pixels that are added to it

_LEVEL = 2  # of the feature pyramid, of stride 16
_BINS = (4, 16, 16)  # of L, a and b
_COLOURS = int(np.prod(_BINS))
_SURE = 1e-3  # confidences are kept from 0 and 1 by this much


@dataclass(frozen=True)
class Description:
    """What M masks of an image look like.

    Attributes:
        inside: (M, D) float32, features and colours.
        around: (M, B) float32, a histogram of the colours that surround it; all 0 of a mask that
            nothing of the image surrounds.
    """

    inside: NDArray[np.float32]
    around: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.inside)


@dataclass(frozen=True)
class Look:
    """What the masks and the proposals of one frame look like.

    Attributes:
        clip: the same for all frames of a clip.
        masks: of the M selected masks.
        proposals: of the network's N candidates; N = 0 in a frame that is not to be remembered.
        agreement: (N,) float32, the best IoU of each candidate with a selected mask.
    """

    clip: Hashable
    masks: Description
    proposals: Description
    agreement: NDArray[np.float32]


class Observer:
    """Describes masks by the network's own features and by their colours.

    Args:
        network: Mask R-CNN with a feature pyramid; moved to `device` and put in evaluation mode.
    """

    def __init__(
        self, network: DetectionNetwork, config: ProposalConfig, device: torch.device
    ) -> None:
        self._network = network
        # Features that overflow half precision would be no number.
        self._proposer = MaskRcnnProposals(network, "", replace(config, half=False), device)

    def look(
        self, clip: Hashable, image: Image, rles: Sequence[Rle], remember: bool = True
    ) -> Look:
        """The looks of a frame's selected masks and, if it is to be remembered, of its proposals.

        Args:
            image: (H, W, 3) uint8 RGB.
            rles: M selected masks of the image.
        """
        with _features_of(self._network.backbone) as seen:
            (proposals,) = self._proposer.propose([image])
        features, stride = seen[-1]
        scale = self._scale(image) / stride
        height, width = (max(1, round(pixels * scale)) for pixels in image.shape[:2])
        features = features[:, :height, :width]  # the rest is padding
        candidates = proposals.rles if remember else ()
        overlap = mask_ops.iou_matrix(candidates, rles)
        return Look(
            clip,
            _described(image, features, rles),
            _described(image, features, candidates),
            overlap.max(axis=1, initial=0.0).astype(np.float32),
        )

    def _scale(self, image: Image) -> float:
        """Of the network's input to the image; 1 where a short side of 0 says: as it is."""
        transform = self._network.transform
        short, long = sorted(image.shape[:2])
        return min(transform.min_size[-1] / short, transform.max_size / long) or 1.0


def revise(
    pool: SelectedPool,
    network: DetectionNetwork,
    config: ProposalConfig,
    device: torch.device,
    on_frame: Callable[[], None] | None = None,
) -> SelectedPool:
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
    observer = Observer(network, config, device)
    kept = _remembered(clips)
    looks = []
    numbers = range(len(pool))
    for number in (
        numbers if on_frame else tqdm(numbers, "compare", unit="frame", dynamic_ncols=True)
    ):
        if on_frame:
            on_frame()
        labelled = pool[number]
        looks.append(
            observer.look(clips[number], labelled.image, labelled.rles, remember=number in kept)
        )
    return pool.with_confidences(
        revised_confidences(looks, [np.array(entry.confidences) for entry in pool.entries])
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


def revised_confidences(
    looks: Sequence[Look], confidences: Sequence[NDArray[np.floating]]
) -> list[NDArray[np.float32]]:
    """Confidences in the light of what was selected in the other clips, and where.

    Proposals there that look like a mask, a few of each clip, have weights w by their similarity,
    agreements a with what was selected, and surroundings whose similarity to the mask's is s. Over
    those of one mask,

        r = (sum of w a + p R) / (sum of w + p)
        d = (sum of w (s - S)) / (sum of w + p), of those whose surroundings are seen,

    where R is the mean of a, weighted by w, over all masks, and S that of s over the masks of the
    same clip. The log-odds of a mask change by e (logit r - logit R) - m d, the latter within
    bounds, which is nothing where nothing looks like it; p, e and m are constants.

    S is the clip's own so that nothing is lost where a scene stays as it is from clip to clip:
    surroundings tell masks of one scene apart, not scenes.

    Args:
        looks: of the frames of a training set.
        confidences: (M,) of each frame's masks, in [0, 1].

    Returns:
        (M,) float32 of each frame's masks, in [0, 1]; as they were where proposals of one clip
        alone are remembered.
    """
    numbers = {clip: number for number, clip in enumerate({look.clip: 0 for look in looks})}
    clips = np.array([numbers[look.clip] for look in looks], int)
    owners = np.repeat(clips, [len(look.masks) for look in looks])
    places = np.repeat(clips, [len(look.proposals) for look in looks])
    if len(owners) == 0 or np.all(places == places[:1]):
        return [np.asarray(values, np.float32) for values in confidences]
    chosen, weights = _look_alikes(looks, owners, places)
    agreement = np.concatenate([look.agreement for look in looks])[chosen]
    alike, are_seen = _surroundings(looks, chosen)
    agreed = _AGREEMENT * _more_agreed(weights, agreement)
    stayed = _SURROUNDINGS * _more_alike(weights * are_seen, alike, owners)
    bounded = np.clip(stayed, -_MOST_OF_SURROUNDINGS, _MOST_OF_SURROUNDINGS)
    log_odds = _logit(np.concatenate(confidences)) + agreed - bounded
    revised = (1 / (1 + np.exp(-log_odds))).astype(np.float32)
    return np.split(revised, np.cumsum([len(look.masks) for look in looks])[:-1])


def _look_alikes(
    looks: Sequence[Look], owners: NDArray[np.intp], places: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """(M, K) of each mask, which proposals of other clips look most like it, and their weights.

    Args:
        owners, places: (M,) and (N,) the clips of all masks and of all proposals.
    """
    proposals = np.concatenate([look.proposals.inside for look in looks])
    middle = proposals.mean(axis=0)
    masks = np.concatenate([look.masks.inside for look in looks])
    own, known = (torch.from_numpy(_directions(rows - middle)) for rows in (masks, proposals))
    found = []  # similarity and place of the nearest proposals of each clip
    for clip in np.unique(places):
        there = torch.from_numpy(np.flatnonzero(places == clip))
        alike, nearest = (own @ known[there].T).topk(min(_NEAREST, len(there)))
        alike[torch.from_numpy(owners == clip)] = -torch.inf
        found.append((alike, there[nearest]))
    alike = torch.cat([alike for alike, _ in found], dim=1)
    alike, order = alike.topk(min(_COMPARED, alike.shape[1]))
    chosen = torch.cat([nearest for _, nearest in found], dim=1).gather(1, order)
    return chosen.numpy(), _kernel(alike.double().numpy())


def _more_agreed(
    weights: NDArray[np.float64], agreement: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(M,) by how much the log-odds of agreement exceed those of all masks."""
    total, weighted = weights.sum(axis=1), (weights * agreement).sum(axis=1)
    average = weighted.sum() / max(total.sum(), 1e-9)
    return _logit((weighted + _PRIOR * average) / (total + _PRIOR)) - _logit(average)


def _surroundings(
    looks: Sequence[Look], chosen: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(M, K) how alike the surroundings of masks and chosen proposals are, if both are seen."""
    proposals = np.concatenate([look.proposals.around for look in looks])
    masks = np.concatenate([look.masks.around for look in looks])
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


def _described(image: Image, features: NDArray[np.float32], rles: Sequence[Rle]) -> Description:
    """The mean features of each mask, and histograms of the colours in it and around it.

    Args:
        features: (C, h, w), of the whole image.
    """
    channels, height, width = features.shape
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    inside = np.empty((len(rles), channels + _COLOURS), np.float32)
    around = np.empty((len(rles), _COLOURS), np.float32)
    for number, mask in enumerate(mask_ops.decode_all(rles, image.shape[:2])):
        area = mask.astype(np.uint8)
        cover = cv2.resize(area.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        mean = (features * cover).sum(axis=(1, 2)) / max(float(cover.sum()), 1e-6)
        size = np.sqrt(np.count_nonzero(area))
        begin, end = (share * size + more for share, more in zip(_RING, _RING_PIXELS, strict=True))
        near = _window(area, margin=int(end) + 1)
        inside[number] = np.concatenate([mean, _colours(lab[near], area[near])])
        around[number] = _colours(lab[near], _ring(area[near], begin, end))
    return Description(inside, around)


def _colours(lab: Image, area: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(colours,) histogram whose products are those of the Hellinger kernel."""
    counts = cv2.calcHist([lab], [0, 1, 2], area, _BINS, [0, 256] * 3).ravel()
    return np.sqrt(counts / max(1.0, counts.sum()))


def _window(area: NDArray[np.uint8], margin: int) -> tuple[slice, slice]:
    """Rows and columns of a mask and of `margin` pixels around it."""
    left, top, width, height = cv2.boundingRect(area)
    return (
        slice(max(0, top - margin), top + height + margin),
        slice(max(0, left - margin), left + width + margin),
    )


def _ring(area: NDArray[np.uint8], begin: float, end: float) -> NDArray[np.uint8]:
    """(H, W) 1 where a mask is farther away than `begin`, but not than `end`, else 0; pixels."""
    distance = cv2.distanceTransform(1 - area, cv2.DIST_L2, cv2.DIST_MASK_5)
    return ((distance > begin) & (distance <= end)).astype(np.uint8)


def _directions(described: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit vectors whose products are the mean of the cosines of the features and the colours."""
    halves = np.split(described, [described.shape[1] - _COLOURS], axis=1)
    return np.concatenate([_units(half) for half in halves], axis=1) * np.float32(np.sqrt(0.5))


def _units(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    # What is nothing but rounding, since all are the same, has no direction.
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-5))


def _kernel(similarity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of proposals: about 1 of what looks the same, 0 of what is not alike."""
    rising = np.exp((similarity - 1) / _LENGTH) - np.exp((_ALIKE - 1) / _LENGTH)
    return np.maximum(rising, 0.0)


def _logit(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    sure = np.clip(np.asarray(probability, np.float64), _SURE, 1 - _SURE)
    return np.log(sure) - np.log1p(-sure)


@contextmanager
def _features_of(backbone: nn.Module) -> Iterator[list[tuple[NDArray[np.float32], float]]]:
    """A list that receives (C, h, w) features and their stride when the network sees an image."""
    seen: list[tuple[NDArray[np.float32], float]] = []

    def receive(_: nn.Module, inputs: tuple[Tensor], pyramid: dict[str, Tensor]) -> None:
        level = list(pyramid.values())[: _LEVEL + 1][-1]
        seen.append((download(level[0].float()), inputs[0].shape[-1] / level.shape[-1]))

    hook = backbone.register_forward_hook(receive)
    try:
        yield seen
    finally:
        hook.remove()
