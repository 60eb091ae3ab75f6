"""Class-agnostic inference with networks that were trained on classes.

torchvision's COCO Mask R-CNN has heads for 91 classes. Each region gives one candidate: the score,
the box and the mask of its best class other than the background. NMS runs over all candidates.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import boxes as box_ops

from gbopt_ros.models.mask_rcnn import TORCHVISION_V2, build_mask_rcnn
from gbopt_ros.models.weights import (
    PROPOSALS,
    NoRandomValues,
    WeightsInfo,
    load_into,
    read_state_dict,
    sha256_of,
    version_of_file,
)

_CLASS_SCORES = "roi_heads.box_predictor.cls_score.weight"
_MASK_LOGITS = "roi_heads.mask_predictor.mask_fcn_logits.weight"
_BOX_HEADS = {  # architecture: a tensor that only it has
    "resnet50-fpn": "roi_heads.box_head.fc6.weight",
    TORCHVISION_V2: "roi_heads.box_head.0.0.weight",
}
_LEGACY_NAMES = (  # tensor names of torchvision before 0.14, as in its COCO file: today's names
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
)
_COUNT = "num_batches_tracked"
SMALLEST_SIDE = 1e-2  # pixels, of a box, as in torchvision


class ClassAgnosticHeads(RoIHeads):
    """Heads that give every region once, with its best class.

    With one class beside the background they are equal to their base.

    Args:
        heads: all modules and settings are taken from these.
    """

    def __init__(self, heads: RoIHeads) -> None:
        super().__init__(**parts_of_heads(heads))
        self.box_coder = heads.box_coder  # no argument of the base
        self.train(heads.training)

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes, scores and labels by image, best score first.

        Args:
            class_logits: (R, C), the background first.
            box_regression: (R, 4 C).
            proposals: regions by image, xyxy pixels, R in all.
            image_shapes: (height, width) by image.
        """
        regions, classes = class_logits.shape
        decoded = self.box_coder.decode(box_regression, proposals).reshape(regions, classes, 4)
        scores, labels = functional.softmax(class_logits, -1)[:, 1:].max(dim=1)
        labels = labels + 1
        boxes = decoded[torch.arange(regions, device=labels.device), labels]  # (R, 4)
        counts = [regions.shape[0] for regions in proposals]  # `len` leaves no trace for ONNX
        found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for inner, score, label, shape in zip(
            boxes.split(counts), scores.split(counts), labels.split(counts), image_shapes,
            strict=True,
        ):  # fmt: skip
            inner = box_ops.clip_boxes_to_image(inner, shape)
            above = torch.where(score > self.score_thresh)[0]
            above = above[box_ops.remove_small_boxes(inner[above], SMALLEST_SIDE)]
            kept = above[box_ops.nms(inner[above], score[above], self.nms_thresh)]
            kept = kept[: self.detections_per_img]
            for values, of_all in zip(found, (inner, score, label), strict=True):
                values.append(of_all[kept])
        return found


def parts_of_heads(heads: RoIHeads) -> dict[str, Any]:
    """Arguments of `RoIHeads` that share every module with these heads.

    The box coder is no argument: copy it afterwards.
    """
    return {
        "box_roi_pool": heads.box_roi_pool,
        "box_head": heads.box_head,
        "box_predictor": heads.box_predictor,
        "fg_iou_thresh": heads.proposal_matcher.high_threshold,
        "bg_iou_thresh": heads.proposal_matcher.low_threshold,
        "batch_size_per_image": heads.fg_bg_sampler.batch_size_per_image,
        "positive_fraction": heads.fg_bg_sampler.positive_fraction,
        "bbox_reg_weights": heads.box_coder.weights,
        "score_thresh": heads.score_thresh,
        "nms_thresh": heads.nms_thresh,
        "detections_per_img": heads.detections_per_img,
        "mask_roi_pool": heads.mask_roi_pool,
        "mask_head": heads.mask_head,
        "mask_predictor": heads.mask_predictor,
    }


def class_count(network: MaskRCNN) -> int:
    """Number of classes of the heads, with the background."""
    return network.roi_heads.box_predictor.cls_score.out_features


def load_torchvision(path: Path) -> tuple[MaskRCNN, WeightsInfo] | None:
    """The network of a state dict of torchvision's `maskrcnn_resnet50_fpn` or `..._v2`.

    Returns:
        None if the state dict belongs to neither.

    Raises:
        GboptError: the file is missing, cannot be read safely, or does not fit the architecture.
    """
    tensors = read_state_dict(path, "Mask R-CNN")
    architecture = next((a for a, name in _BOX_HEADS.items() if name in tensors), None)
    if architecture is None or _CLASS_SCORES not in tensors or _MASK_LOGITS not in tensors:
        return None
    with NoRandomValues():
        network = build_mask_rcnn(architecture, classes=len(tensors[_CLASS_SCORES]))
    tensors = {_current_name(name): value for name, value in tensors.items()}
    if not any(name.endswith(_COUNT) for name in tensors):
        _thaw(tensors, network, frozen=architecture != TORCHVISION_V2)
    load_into(network, tensors, path)
    network.roi_heads = ClassAgnosticHeads(network.roi_heads)
    version = version_of_file(path, sha256_of(path))
    return network.eval(), WeightsInfo(PROPOSALS, architecture, version)


def _current_name(name: str) -> str:
    for pattern, replacement in _LEGACY_NAMES:
        name = re.sub(f"^{pattern}$", replacement, name)
    return re.sub(
        r"^(roi_heads\.mask_head)\.mask_fcn(\d)\.",
        lambda match: f"{match[1]}.{int(match[2]) - 1}.0.",
        name,
    )


def _thaw(tensors: dict[str, Tensor], network: MaskRCNN, frozen: bool) -> None:
    """Fit a state dict of FrozenBatchNorm2d to BatchNorm2d: counters and, if `frozen`, scales.

    torchvision's COCO network of version 1 adds nothing to the variance (`overwrite_eps`), while
    BatchNorm2d adds `eps`. A larger scale makes up for it.

    Args:
        tensors: the state dict, changed in place.
        frozen: the normalisation of the file adds nothing to the variance.
    """
    for name, module in network.named_modules():
        if not isinstance(module, nn.BatchNorm2d):
            continue
        scale, variance = tensors.get(f"{name}.weight"), tensors.get(f"{name}.running_var")
        if frozen and scale is not None and variance is not None and scale.shape == variance.shape:
            ratio = (variance.double() + module.eps) / variance.double()
            ratio[variance == 0] = 1  # a channel that never varies
            tensors[f"{name}.weight"] = (scale.double() * ratio.sqrt()).float()
        tensors[f"{name}.{_COUNT}"] = torch.tensor(0)
