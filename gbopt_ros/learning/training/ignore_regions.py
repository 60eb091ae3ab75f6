"""Mask R-CNN that learns nothing from ignore regions, such as COCO's crowds.

A crowd is one large region of many objects without outlines. torchvision's region proposal network
would learn its box as an object, and one person of the crowd as background. Here a box with more
than half of its area in an ignore region is neither, unless it matches a labelled object.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_area

from gbopt_ros.models.class_agnostic import parts_of_heads

_INSIDE = 0.5  # share of a box in an ignore region above which it is unknown
_UNKNOWN, _BACKGROUND = -1, 0  # torchvision's labels


def with_ignore_regions(network: MaskRCNN) -> MaskRCNN:
    """Make the network treat training targets with the label -1 as ignore regions; returns it.

    Its region proposal network and its heads are replaced by ones that assign targets differently.
    They share all modules with the old ones, so weights and their names stay.
    """
    network.rpn = _IgnoringRegionProposals(network.rpn)
    network.roi_heads = _IgnoringHeads(network.roi_heads)
    return network


class _IgnoringRegionProposals(RegionProposalNetwork):
    def __init__(self, base: RegionProposalNetwork) -> None:
        super().__init__(
            base.anchor_generator,
            base.head,
            base.proposal_matcher.high_threshold,
            base.proposal_matcher.low_threshold,
            base.fg_bg_sampler.batch_size_per_image,
            base.fg_bg_sampler.positive_fraction,
            base._pre_nms_top_n,
            base._post_nms_top_n,
            base.nms_thresh,
            base.score_thresh,
        )
        self.box_coder = base.box_coder  # keeps the precision of the base
        self.min_size = base.min_size
        self.train(base.training)

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: Sequence[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        objects = [{"boxes": t["boxes"][t["labels"] > 0]} for t in targets]
        labels, matched = super().assign_targets_to_anchors(anchors, objects)
        for label, boxes, target in zip(labels, anchors, targets, strict=True):
            _mark_unknown(label, boxes, target["boxes"][target["labels"] < 0])
        return labels, matched


class _IgnoringHeads(RoIHeads):
    def __init__(self, base: RoIHeads) -> None:
        super().__init__(**parts_of_heads(base))
        self.box_coder = base.box_coder  # keeps the precision of the base
        self.train(base.training)

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        for label, boxes, gt, kinds in zip(labels, proposals, gt_boxes, gt_labels, strict=True):
            _mark_unknown(label, boxes, gt[kinds < 0])
        return matched, labels


def _mark_unknown(labels: Tensor, boxes: Tensor, ignored: Tensor) -> None:
    """Mark background among `labels` (n,) as unknown where its box is in an ignored one."""
    inside = torch.zeros_like(labels, dtype=torch.bool)
    for x0, y0, x1, y1 in ignored:
        width = boxes[:, 2].minimum(x1) - boxes[:, 0].maximum(x0)
        height = boxes[:, 3].minimum(y1) - boxes[:, 1].maximum(y0)
        inside |= width.clamp(min=0) * height.clamp(min=0) > _INSIDE * box_area(boxes)
    labels[inside & (labels == _BACKGROUND)] = _UNKNOWN
