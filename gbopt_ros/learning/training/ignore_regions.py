"""Mask R-CNN that learns nothing from ignore regions, such as COCO's crowds.

A crowd is one large region of many objects without outlines. torchvision's region proposal network
would learn its box as an object, and one person of the crowd as background. Here a box with more
than half of its area in an ignore region is neither, unless it matches a labelled object.

In images where not every object is labelled, a region without a label is background only while the
network is not sure of an object: what it has learnt elsewhere is not taught away. A region that a
person rejected, with the label 0, is background however sure the network is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_area, box_iou

from gbopt_ros.models.class_agnostic import parts_of_heads

_INSIDE = 0.5  # share of a box in an ignore region above which it is unknown
_SAME_BOX = 0.5  # IoU from which a box is that of a rejected region
_SURE = 0.7  # probability of an object above which a region without a label is unknown
_UNKNOWN, _BACKGROUND = -1, 0  # torchvision's labels
_BACKGROUND_IF_UNSURE = -2  # of an anchor
_IGNORED = -100  # label that cross-entropy leaves out


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
            if not target.get("complete", True):
                unlabelled = ~_is_rejected(boxes, target)
                label[unlabelled & (label == _BACKGROUND)] = _BACKGROUND_IF_UNSURE
        return labels, matched

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        predicted = objectness.detach().flatten().split([len(label) for label in labels])
        for label, logits in zip(labels, predicted, strict=True):
            unlabelled = label == _BACKGROUND_IF_UNSURE
            label[unlabelled] = _BACKGROUND
            label[unlabelled & (torch.sigmoid(logits.float()) > _SURE)] = _UNKNOWN
        if not _teach(labels):
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        losses: tuple[Tensor, Tensor] = super().compute_loss(
            objectness, pred_bbox_deltas, labels, regression_targets
        )
        return losses


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

    def forward(self, features: Any, proposals: Any, image_shapes: Any, targets: Any = None) -> Any:
        if not self.training:
            return super().forward(features, proposals, image_shapes, targets)
        outputs: list[Tensor] = []

        def receive(_: nn.Module, __: Any, output: tuple[Tensor, Tensor]) -> None:
            outputs.extend(output)
            self._leave_out_sure(output[0])

        # torchvision makes the labels before it has the scores, and the loss right after: the
        # labels are corrected in between.
        hook = self.box_predictor.register_forward_hook(receive)
        try:
            found, losses = super().forward(features, proposals, image_shapes, targets)
        finally:
            hook.remove()
        if not _teach(self._labels):
            nothing = sum(output.sum() for output in outputs) * 0
            losses |= dict.fromkeys(("loss_classifier", "loss_box_reg"), nothing)
        return found, losses

    def select_training_samples(self, proposals: Any, targets: Any) -> Any:
        samples = super().select_training_samples(proposals, targets)
        self._boxes, self._labels, self._targets = samples[0], samples[2], targets
        return samples

    def _leave_out_sure(self, logits: Tensor) -> None:
        by_image = logits.detach().float().split([len(label) for label in self._labels])
        drawn = zip(self._boxes, self._labels, by_image, self._targets, strict=True)
        for boxes, label, scores, target in drawn:
            if not target.get("complete", True):
                sure = functional.softmax(scores, dim=1)[:, 1:].amax(dim=1) > _SURE
                sure &= ~_is_rejected(boxes, target)
                label[(label == _BACKGROUND) & sure] = _IGNORED


def _teach(labels: Sequence[Tensor]) -> bool:
    """Whether any region is known; the mean loss of none would not be a number."""
    return any(bool((label >= _BACKGROUND).any()) for label in labels)


def _is_rejected(boxes: Tensor, target: dict[str, Tensor]) -> Tensor:
    """(n,) bool, whether each box is that of a region that a person rejected."""
    rejected = target["boxes"][target["labels"] == _BACKGROUND]
    if not len(rejected):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    return box_iou(boxes, rejected).amax(dim=1) >= _SAME_BOX


def _mark_unknown(labels: Tensor, boxes: Tensor, ignored: Tensor) -> None:
    """Mark background among `labels` (n,) as unknown where its box is in an ignored one."""
    inside = torch.zeros_like(labels, dtype=torch.bool)
    for x0, y0, x1, y1 in ignored:
        width = boxes[:, 2].minimum(x1) - boxes[:, 0].maximum(x0)
        height = boxes[:, 3].minimum(y1) - boxes[:, 1].maximum(y0)
        inside |= width.clamp(min=0) * height.clamp(min=0) > _INSIDE * box_area(boxes)
    labels[inside & (labels == _BACKGROUND)] = _UNKNOWN
