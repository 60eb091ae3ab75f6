"""Test-time augmentation: proposals that several views of an image agree on.

This is how Data Distillation (Radosavovic et al. 2018) finds its training masks. One network sees
the image at several sizes, each also mirrored. A mask that it proposes in every view is more likely
an object than a mask with the same score in one view only, and the mean of its outlines is better.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import Config, ProposalConfig
from gbopt_ros.models.detection import DetectionNetwork, load_mask_rcnn
from gbopt_ros.models.device import resolve_device
from gbopt_ros.perception.load import proposal_weights
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import BoolMask, Image, Proposals

SCALES = (0.8, 1.0, 1.25)
_SAME_IOU = 0.5  # smallest IoU of masks of two views that show one object
_DUPLICATE_IOU = 0.6  # IoU of merged masks from which the one with the lower score is dropped
_SURPLUS = 2.5  # candidates of a view for each of the result


class EnsembleProposals:
    """`ProposalNetwork` that merges the proposals of one network on several views.

    A view is the image at one of the scales, plain or mirrored. The score of a merged mask is the
    sum of its scores over the number of views; a view without the mask counts as 0.

    Args:
        network: class-agnostic Mask R-CNN; moved to `device` and put in evaluation mode.
        version: name of the weights.
        scales: sizes of the views, relative to the network's own input size.
    """

    def __init__(
        self,
        network: DetectionNetwork,
        version: str,
        config: ProposalConfig,
        device: torch.device,
        scales: Sequence[float] = SCALES,
    ) -> None:
        self.version, self._config = version, config
        # The threshold is for merged scores: a view below it may still agree with one above.
        surplus = min(1000, round(_SURPLUS * config.max_proposals))
        single = replace(config, max_proposals=surplus, score_threshold=0.0)
        self._networks = [
            MaskRcnnProposals(
                _at_scale(network, scale),
                version,
                replace(single, short_side=round(scale * config.short_side)),
                device,
            )
            for scale in scales
        ]

    @classmethod
    def from_config(cls, config: Config) -> EnsembleProposals:
        """On the proposal network of a configuration; raises as `load_proposal_network`."""
        network, info = load_mask_rcnn(proposal_weights(config), config.proposal.detectron2_config)
        return cls(network, info.version, config.proposal, resolve_device(config.device))

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """At most N candidates of each (H, W, 3) uint8 RGB image, best score first."""
        mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
        by_view = [(each.propose(images), each.propose(mirrored)) for each in self._networks]
        merged = []
        for i, image in enumerate(images):
            views = []
            for plain, flipped in by_view:
                views.append((_decode(plain[i]), plain[i].scores))
                views.append((_decode(flipped[i])[:, :, ::-1], flipped[i].scores))
            found = merge_views(views, image.shape[:2], self._config.max_proposals)
            merged.append(_above(found, self._config.score_threshold))
        return merged


def merge_views(
    views: Sequence[tuple[NDArray[np.bool_], NDArray[np.float32]]],
    size: tuple[int, int],
    max_proposals: int,
) -> Proposals:
    """Merge the candidates of V views.

    In the order of scores, a mask is merged with the mask of each other view that it overlaps most,
    if their IoU is at least 0.5. A pixel belongs to the merged mask if at least half of the scores
    do.

    Args:
        views: V pairs of masks (n, H, W) bool and scores (n,), best first.
        size: (height, width).
        max_proposals: N.
    """
    masks = np.concatenate([masks for masks, _ in views])
    scores = np.concatenate([scores for _, scores in views]).astype(np.float64)
    view = np.concatenate([np.full(len(s), v) for v, (_, s) in enumerate(views)])
    rles = mask_ops.encode_all(masks)
    iou = mask_ops.iou_matrix(rles, rles)
    free = np.ones(len(masks), bool)
    merged: list[tuple[float, BoolMask]] = []
    for i in np.lexsort((np.arange(len(masks)), -scores)):
        if not free[i]:
            continue
        members = [int(i)]
        for v in range(len(views)):
            candidates = np.flatnonzero(free & (view == v) & (iou[i] >= _SAME_IOU))
            if v != view[i] and len(candidates):
                members.append(int(candidates[iou[i, candidates].argmax()]))
        free[members] = False
        weights = scores[members]
        outline = np.tensordot(weights, masks[members], axes=1) >= 0.5 * weights.sum()
        merged.append((float(weights.sum()) / len(views), outline))
    merged.sort(key=lambda candidate: -candidate[0])
    return _without_duplicates(merged, size, max_proposals)


def _without_duplicates(
    merged: list[tuple[float, BoolMask]], size: tuple[int, int], max_proposals: int
) -> Proposals:
    """The N best, without near duplicates of better ones."""
    outlines = np.array([outline for _, outline in merged], bool).reshape(-1, *size)
    rles = mask_ops.encode_all(outlines)
    iou = mask_ops.iou_matrix(rles, rles)
    kept: list[int] = []
    for i in range(len(rles)):
        if len(kept) < max_proposals and np.all(iou[i, kept] < _DUPLICATE_IOU):
            kept.append(i)
    chosen = tuple(rles[i] for i in kept)
    scores = np.array([merged[i][0] for i in kept], np.float32)
    return Proposals(size, chosen, scores, mask_ops.boxes_xyxy(chosen).reshape(-1, 4))


def _above(proposals: Proposals, threshold: float) -> Proposals:
    """The candidates with a score above the threshold."""
    n = int((proposals.scores > threshold).sum())
    return replace(
        proposals,
        rles=proposals.rles[:n],
        scores=proposals.scores[:n],
        boxes=proposals.boxes[:n],
    )


def _decode(proposals: Proposals) -> NDArray[np.bool_]:
    return mask_ops.decode_all(proposals.rles, proposals.size)


def _at_scale(network: DetectionNetwork, scale: float) -> DetectionNetwork:
    """The same weights with another input size."""
    scaled: Any = copy.copy(network)
    scaled._modules = dict(scaled._modules)
    scaled.transform = copy.copy(network.transform)
    scaled.transform.min_size = tuple(round(scale * side) for side in network.transform.min_size)
    scaled.transform.max_size = round(scale * network.transform.max_size)
    scaled.transform.scale = scale  # else a network that keeps the size of images keeps it in all
    return scaled
