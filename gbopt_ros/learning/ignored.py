"""Mask R-CNN that learns nothing from ignored regions, such as COCO's crowds.

A crowd is one large region of many objects that nobody outlined. torchvision would take its box
for an object in the region proposal network, and everything inside that overlaps it little, such
as one person of the crowd, for background. Here a box that lies in an ignored region by more than
half is neither, unless it matches an outlined object.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_area

_INSIDE = 0.5  # share of a box in an ignored region from which nothing is known of it
_UNKNOWN, _BACKGROUND = -1, 0  # torchvision's labels


def ignore_unknown(network: MaskRCNN) -> None:
    """Let the labels -1 of the network's training targets mark ignored regions everywhere."""
    # Only how targets are assigned differs: the modules keep their weights and their names.
    network.rpn.__class__ = _RegionProposalNetwork
    network.roi_heads.__class__ = _RoIHeads


class _RegionProposalNetwork(RegionProposalNetwork):
    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: Sequence[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        objects = [{"boxes": t["boxes"][t["labels"] > 0]} for t in targets]
        labels, matched = super().assign_targets_to_anchors(anchors, objects)
        for label, boxes, target in zip(labels, anchors, targets, strict=True):
            _forget(label, boxes, target["boxes"][target["labels"] < 0])
        return labels, matched


class _RoIHeads(RoIHeads):
    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        for label, boxes, gt, kinds in zip(labels, proposals, gt_boxes, gt_labels, strict=True):
            _forget(label, boxes, gt[kinds < 0])
        return matched, labels


def _forget(labels: Tensor, boxes: Tensor, ignored: Tensor) -> None:
    """Mark the background among `labels` (n,) as unknown where its box is in an ignored one."""
    inside = torch.zeros_like(labels, dtype=torch.bool)
    for x0, y0, x1, y1 in ignored:
        width = boxes[:, 2].minimum(x1) - boxes[:, 0].maximum(x0)
        height = boxes[:, 3].minimum(y1) - boxes[:, 1].maximum(y0)
        inside |= width.clamp(min=0) * height.clamp(min=0) > _INSIDE * box_area(boxes)
    labels[inside & (labels == _BACKGROUND)] = _UNKNOWN
