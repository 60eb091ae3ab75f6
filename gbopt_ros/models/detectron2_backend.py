"""Mask R-CNN of detectron2 with the interface of torchvision's detection models.

`Detectron2MaskRcnn` is a `DetectionNetwork`, so proposals and fine-tuning work with it. Its tensors
keep their names, so published weights can be used in detectron2 again.

Only this module and `detectron2_files` import detectron2. Its compiled operators (`detectron2._C`)
are needed only for deformable convolutions and rotated boxes; RoIAlign and NMS are torchvision's.

A network with K classes is used class-agnostically with its own heads: each region has the score,
the box and the mask of its likeliest class. In training, a region on an object gets that class as
its label, so training improves what is proposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import GeneralizedRCNN, detector_postprocess
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import nms

from gbopt_ros.config import ProposalConfig
from gbopt_ros.models.detectron2_files import (
    dump_config,
    parse_config,
    read_checkpoint,
    read_config,
)
from gbopt_ros.models.weights import (
    DETECTRON2,
    PROPOSALS,
    WeightsInfo,
    architecture_of,
    load_into,
    read_weights,
    sha256_of,
    version_of_file,
)
from gbopt_ros.structures import GboptError, first_line

_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.ROI_HEADS.NAME": ("StandardROIHeads",),
    "MODEL.MASK_ON": (True,),
    "INPUT.FORMAT": ("BGR", "RGB"),
}
# Buffers in checkpoints of older versions; today they come from the configuration.
_LEGACY = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.cell_anchors.")


def load_detectron2(path: Path, config: str) -> tuple[Detectron2MaskRcnn, WeightsInfo]:
    """The network of a checkpoint, float32, on the CPU, in evaluation mode.

    Args:
        path: a file of `gbopt learn`, which holds its configuration, or a state dict of
            detectron2: safetensors, or a `.pth` that holds only tensors.
        config: detectron2's YAML file; not read if the weights hold their own.

    Raises:
        GboptError: a file is missing or damaged, is a pickle, or holds another kind of network.
    """
    described = architecture_of(path)
    if described == DETECTRON2:
        info, tensors = read_weights(path, PROPOSALS)
        parsed = parse_config(info.config, path)
    elif described:
        raise GboptError(
            f"{path}: these are weights of {described!r}, which runs on torchvision; give the "
            "detectron2 checkpoint as proposal.weights, or no proposal.detectron2_config"
        )
    else:
        parsed = read_config(Path(config))
        tensors = read_checkpoint(path)
        version = version_of_file(path, sha256_of(path))
        info = WeightsInfo(PROPOSALS, DETECTRON2, version, dump_config(parsed))
    network = build_detectron2(parsed, str(path if described else config))
    known = network.state_dict().keys()
    tensors = {n: t for n, t in tensors.items() if n in known or not n.startswith(_LEGACY)}
    load_into(network, tensors, path)
    return network.eval(), info


def build_detectron2(config: CfgNode, source: str) -> Detectron2MaskRcnn:
    """A randomly initialised network on the CPU.

    Args:
        source: file of the configuration, for errors.

    Raises:
        GboptError: it is no Mask R-CNN with one box and one mask head, or cannot be built.
    """
    for key, allowed in _SUPPORTED.items():
        value: Any = config
        for part in key.split("."):
            value = value[part]
        if value not in allowed:
            raise GboptError(
                f"{source}: {key} is {value!r}; only {' or '.join(map(repr, allowed))} works here"
            )
    config = config.clone()
    config.defrost()
    config.MODEL.DEVICE = "cpu"
    config.MODEL.PROPOSAL_GENERATOR.NAME = IgnoringRpn.__name__
    config.MODEL.ROI_HEADS.NAME = AgnosticRoiHeads.__name__
    try:
        return Detectron2MaskRcnn(config)
    except Exception as error:  # ImportError if it needs the extension and there is none
        raise GboptError(
            f"{source}: detectron2 cannot build this network ({first_line(error)})"
        ) from error


class Detectron2MaskRcnn(GeneralizedRCNN):
    """detectron2's Mask R-CNN, called as torchvision's.

    Attributes:
        transform: from the image to the network's input; its `min_size` and `max_size` may be set.
        roi_heads: `score_thresh`, `nms_thresh`, `detections_per_img` and `mask_thresh` may be set.
    """

    def __init__(self, config: CfgNode) -> None:
        super().__init__(config)
        self.transform = InputTransform(
            config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST, config.INPUT.FORMAT
        )

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> Any:
        """Named losses in training mode, detections in evaluation mode.

        Args:
            images: (3, H, W) float32 in [0, 1], RGB; sizes may differ.
            targets: for each image `boxes` (M, 4) xyxy, `labels` (M,), 1 for objects, -1 for
                ignore regions and 0 for rejected ones, and `masks` (M, H, W) uint8.

        Returns:
            In evaluation mode, for each image `boxes` (n, 4) xyxy, `scores` (n,), best first, and
            `masks` (n, 1, H, W) bool, the pixels whose probability is at least `mask_thresh`.

        Raises:
            GboptError: in training, a value of the network is not finite.
        """
        inputs = [{"image": self.transform(image)} for image in images]
        if not self.training:
            found = self.inference(inputs, do_postprocess=False)
            return [self._detection(f, image) for f, image in zip(found, images, strict=True)]
        if targets is None:
            raise ValueError("Detectron2MaskRcnn: training takes targets")
        for one, target in zip(inputs, targets, strict=True):
            one["instances"] = _instances(target, one["image"].shape[-2:])
        try:
            with EventStorage():  # detectron2's heads log to it
                return super().forward(inputs)
        except FloatingPointError as error:
            raise GboptError(
                f"detectron2: {error} Lower the learning rate or look at the training masks."
            ) from error

    def _detection(self, instances: Instances, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        # Half precision would move outlines: coordinates of pasting have the dtype of the masks.
        instances.pred_masks = instances.pred_masks.float()
        found = detector_postprocess(instances, height, width, self.roi_heads.mask_thresh)
        return {
            "boxes": found.pred_boxes.tensor,
            "scores": found.scores,
            "masks": found.pred_masks[:, None],
        }


class InputTransform(nn.Module):
    """Resizes the shorter side and puts the channels into the network's order.

    Attributes:
        min_size: shorter side, pixels, one value as in torchvision's transform; 0: not resized.
        max_size: limit of the longer side, pixels.
    """

    def __init__(self, min_size: int, max_size: int, channels: str) -> None:
        super().__init__()
        self.min_size = (min_size,)
        self.max_size = max_size
        self._reverse = channels == "BGR"

    def forward(self, image: Tensor) -> Tensor:
        """(3, h, w) float32 in [0, 255] from a (3, H, W) float32 RGB image in [0, 1]."""
        if self.min_size[0] > 0:
            height, width = ResizeShortestEdge.get_output_shape(
                *image.shape[-2:], self.min_size[0], self.max_size
            )
            # As Pillow, which resized the training images: bilinear with antialiasing.
            image = functional.interpolate(
                image[None],
                (max(1, height), max(1, width)),
                mode="bilinear",
                align_corners=False,
                antialias=True,
            )[0]
        return (image.flip(0) if self._reverse else image) * 255.0


@PROPOSAL_GENERATOR_REGISTRY.register()
class IgnoringRpn(RPN):
    """Region proposals that do not learn ignore regions as objects."""

    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As `RPN`; an anchor that matches an ignore region best is unknown, -1."""
        labels, matched = super().label_and_sample_anchors(anchors, gt_instances)
        for label, boxes, truth in zip(labels, matched, gt_instances, strict=True):
            ignored = truth.gt_boxes.tensor[truth.gt_classes < 0]
            on_ignored = (boxes[:, None] == ignored).all(dim=2).any(dim=1)
            label[on_ignored & (label == 1)] = -1
        return labels, matched


@ROI_HEADS_REGISTRY.register()
class AgnosticRoiHeads(StandardROIHeads):
    """Box and mask heads that use each region with its likeliest class.

    Attributes:
        score_thresh, nms_thresh, detections_per_img, mask_thresh: settings of `ProposalConfig`;
            the first three have torchvision's names.
    """

    score_thresh: float = ProposalConfig.score_threshold
    nms_thresh: float = ProposalConfig.nms_iou
    detections_per_img: int = ProposalConfig.max_proposals
    mask_thresh: float = ProposalConfig.mask_threshold

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As `StandardROIHeads.forward`, without regard to classes."""
        if self.training:
            proposals = self.label_and_sample_proposals(proposals, targets)
        regions = self.box_pooler(
            [features[name] for name in self.box_in_features],
            [found.proposal_boxes for found in proposals],
        )
        predictions = self.box_predictor(self.box_head(regions))
        if not self.training:
            boxes = self.box_predictor.predict_boxes(predictions, proposals)
            scores = self.box_predictor.predict_probs(predictions, proposals)
            detections = [
                self._likeliest_class(box, score, proposal.image_size)
                for box, score, proposal in zip(boxes, scores, proposals, strict=True)
            ]
            return self.forward_with_given_boxes(features, detections), {}
        self._label_by_likeliest_class(predictions[0], proposals)
        losses = self.box_predictor.losses(predictions, proposals)
        losses.update(self._forward_mask(features, proposals))
        return proposals, losses

    def _likeliest_class(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Instances:
        """The N best regions after class-agnostic NMS.

        Args:
            boxes: (R, 4 K) or, if all classes share their boxes, (R, 4), xyxy.
            scores: (R, K + 1) probabilities, the background last.
            size: (height, width) of the network's input.
        """
        best, classes = scores[:, :-1].max(dim=1)
        of_class = boxes.view(len(boxes), -1, 4)  # (R, K or 1, 4)
        chosen = classes if of_class.shape[1] > 1 else torch.zeros_like(classes)
        candidates = Boxes(of_class[torch.arange(len(boxes), device=boxes.device), chosen].float())
        finite = candidates.tensor.isfinite().all(dim=1) & best.isfinite()
        candidates.tensor[~finite] = 0.0
        candidates.clip(size)
        keep = torch.nonzero(finite & (best > self.score_thresh) & candidates.nonempty())[:, 0]
        order = nms(candidates.tensor[keep], best[keep].float(), self.nms_thresh)
        keep = keep[order[: self.detections_per_img]]
        return Instances(
            size, pred_boxes=candidates[keep], scores=best[keep], pred_classes=classes[keep]
        )

    def _label_by_likeliest_class(self, logits: Tensor, proposals: list[Instances]) -> None:
        """Label each sampled region on an object with its likeliest class.

        Args:
            logits: (R, K + 1) for the regions of all images, the background last.
        """
        likeliest = logits.detach()[:, :-1].argmax(dim=1).split([len(p) for p in proposals])
        for sampled, classes in zip(proposals, likeliest, strict=True):
            background = sampled.gt_classes == self.num_classes
            sampled.gt_classes = torch.where(background, sampled.gt_classes, classes)


def _instances(target: dict[str, Tensor], size: Sequence[int]) -> Instances:
    """The `Instances` of a torchvision target, scaled to the network's input.

    detectron2's heads sample no region whose ground truth has class -1, nor does `IgnoringRpn`.

    Args:
        size: (height, width) of the network's input.
    """
    labelled = target["labels"] != 0  # a rejected region is background, as all without a mask is
    boxes, masks = target["boxes"][labelled], target["masks"][labelled]
    height, width = (int(side) for side in size)
    scale = boxes.new_tensor([width / masks.shape[2], height / masks.shape[1]] * 2)
    if len(masks):
        (masks,) = functional.interpolate(
            masks[None].float(), (height, width), mode="nearest-exact"
        )
    else:
        masks = masks.new_zeros((0, height, width))
    return Instances(
        (height, width),
        gt_boxes=Boxes(boxes * scale),
        gt_classes=torch.where(target["labels"][labelled] > 0, 0, -1),
        gt_masks=BitMasks(masks > 0.5),
    )
