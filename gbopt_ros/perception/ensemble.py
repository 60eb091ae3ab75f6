"""Proposals that several views of an image agree on (data distillation, Radosavovic 2018).

One network sees the image at several sizes and mirrored. A mask that it proposes in every view is
more likely an object than one that it is as sure of but in one view only, and the average of its
outlines is better than each.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import ProposalConfig
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import BoolMask, Calibration, Image, ProposalNetwork, Proposals

if TYPE_CHECKING:
    from gbopt_ros.models.detection import DetectionNetwork

log = logging.getLogger(__name__)

SCALES = {"none": (1.0,), "mirror": (1.0,), "scales": (0.8, 1.0, 1.25)}
_SAME_IOU = 0.5  # of masks of two views that show one object
_DUPLICATE_IOU = 0.6  # of merged masks, of which the lower score goes
_SURPLUS = 2.5  # candidates of a view for each of the result


def load_proposals(path: Path, config: ProposalConfig, device: torch.device) -> ProposalNetwork:
    """The network of a weights file, alone or over several views, as `config.ensemble` says.

    Raises:
        GboptError: the file is missing, corrupt or of another architecture.
    """
    network, info = load_mask_rcnn(path, config.detectron2_config)
    if info.calibration is None:
        log.warning(
            "%s: no calibration in it, confidences are the network's scores; "
            "`gbopt calibrate` fits one",
            path,
        )
    kind = MaskRcnnProposals if config.ensemble == "none" else EnsembleProposals
    return kind(network, info.version, config, device, info.calibration)


class EnsembleProposals:
    """`ProposalNetwork` that merges what one network says of several views.

    A view is the image at one of the scales, as it is or mirrored. The score of a merged mask is
    the sum of its scores over the number of views, so a view that does not show it counts as 0.

    Args:
        network: class-agnostic Mask R-CNN; moved to `device` and put in evaluation mode.
        version: name of the weights.
        calibration: of confidences, copied to all proposals.
    """

    def __init__(
        self,
        network: DetectionNetwork,
        version: str,
        config: ProposalConfig,
        device: torch.device,
        calibration: Calibration | None = None,
    ) -> None:
        self._calibration = calibration
        self._max_proposals = config.max_proposals
        self._score_threshold = config.score_threshold
        # The threshold is for merged scores: a view below it may still agree with one above.
        single = replace(
            config,
            max_proposals=min(1000, round(_SURPLUS * config.max_proposals)),
            score_threshold=0.0,
        )
        self._scales = [
            MaskRcnnProposals(_at_scale(network, scale), version, single, device)
            for scale in SCALES[config.ensemble]
        ]

    @property
    def version(self) -> str:
        return self._scales[0].version

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """At most N candidates of each (H, W, 3) uint8 RGB image, best score first."""
        mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
        by_view = [(network.propose(images), network.propose(mirrored)) for network in self._scales]
        merged = []
        for i, image in enumerate(images):
            views = []
            for plain, flipped in by_view:
                views.append((_decode(plain[i]), plain[i].scores))
                views.append((_decode(flipped[i])[:, :, ::-1], flipped[i].scores))
            found = merge_views(views, image.shape[:2], self._max_proposals)
            found = replace(found, calibration=self._calibration)
            merged.append(_above(found, self._score_threshold))
        return merged


def merge_views(
    views: Sequence[tuple[NDArray[np.bool_], NDArray[np.float32]]],
    size: tuple[int, int],
    max_proposals: int,
) -> Proposals:
    """One set of candidates out of those of V views.

    From the best score on, a mask joins the one of each other view that it overlaps most, if by
    more than half; the outline is where the scores of those that hold a pixel outweigh the rest.

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
    """The N best, none of which is almost one that is better."""
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
    """Those with a score above the threshold."""
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
    """The same weights behind another input size."""
    scaled: Any = copy.copy(network)
    scaled._modules = dict(scaled._modules)
    scaled.transform = copy.copy(network.transform)
    scaled.transform.min_size = tuple(round(scale * side) for side in network.transform.min_size)
    scaled.transform.max_size = round(scale * network.transform.max_size)
    return scaled
