"""Class-agnostic heads made of heads with classes, which fine-tuning starts from.

With C classes the log-odds of an object are the logsumexp of the object logits minus the background
logit, which no linear head can give. A linear head can give its first-order expansion about equally
likely classes: the mean of the class rows, plus log(C - 1). The heads of boxes and masks become the
mean of the class rows, too.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from gbopt_ros.models.class_agnostic import class_count
from gbopt_ros.models.detection import DetectionNetwork
from gbopt_ros.models.mask_rcnn import CLASSES


def starting_network(parent: DetectionNetwork) -> DetectionNetwork:
    """The network that fine-tuning starts from: the parent, with class-agnostic heads."""
    if not isinstance(parent, MaskRCNN) or class_count(parent) == CLASSES:
        return parent  # detectron2's learns with the classes that it has
    return to_class_agnostic(parent)


def to_class_agnostic(network: MaskRCNN) -> MaskRCNN:
    """A class-agnostic copy of a network with C classes, the background first.

    Returns:
        A copy on the CPU in evaluation mode, whose state dict fits `build_mask_rcnn`.
    """
    agnostic = copy.deepcopy(network).cpu().eval()
    predictor, masks = agnostic.roi_heads.box_predictor, agnostic.roi_heads.mask_predictor
    predictor.cls_score = _averaged(predictor.cls_score)
    with torch.no_grad():
        predictor.cls_score.bias[1] += math.log(class_count(network) - 1)
    predictor.bbox_pred = _averaged(predictor.bbox_pred, outputs=4)
    masks.mask_fcn_logits = _averaged(masks.mask_fcn_logits)
    return agnostic


def _averaged(layer: Any, outputs: int = 1) -> Any:
    """A linear layer or 1x1 convolution with the background's rows and the mean of the others.

    Args:
        outputs: number of rows of a class.
    """

    def average(rows: Tensor) -> Tensor:
        by_class = rows.unflatten(0, (-1, outputs)).double()
        return torch.cat([by_class[0], by_class[1:].mean(dim=0)]).float()

    made: Any
    if isinstance(layer, nn.Conv2d):
        made = nn.Conv2d(layer.in_channels, CLASSES * outputs, kernel_size=1)
    else:
        made = nn.Linear(layer.in_features, CLASSES * outputs)
    with torch.no_grad():
        made.weight.copy_(average(layer.weight))
        made.bias.copy_(average(layer.bias))
    return made.eval()
