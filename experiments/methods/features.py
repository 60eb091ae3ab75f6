"""What the proposal network itself sees: its feature pyramid, and its heads on given boxes.

The methods of comparison take embeddings, correspondences and regressed boxes from here. So they
know no more than the network that proposed the masks, and no other network has to be trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import (
    RoIHeads,
    maskrcnn_inference,
    paste_masks_in_image,
)
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import clip_boxes_to_image

from gbopt_ros.models.detection import DetectionNetwork
from gbopt_ros.models.device import download, upload
from gbopt_ros.structures import BoolMask, GboptError, Image

_POOLED = "pool"  # the coarsest level of torchvision's pyramid, made for the anchors alone
_MASK_THRESHOLD = 0.5  # of Mask R-CNN (He et al. 2017)


@dataclass(frozen=True)
class Pyramid:
    """The feature pyramid of one image.

    Attributes:
        levels: by name, tensors (1, C, h, w), finest first.
        inputs: the image as the network takes it, resized and padded.
        size: (height, width) of the image itself, pixels.
    """

    levels: dict[str, Tensor] = field(repr=False)
    inputs: ImageList = field(repr=False)
    size: tuple[int, int]

    @property
    def finest(self) -> Tensor:
        """(C, h, w) the finest level, without the padding."""
        level = next(iter(self.levels.values()))[0]
        padded, inner = self.inputs.tensors.shape[-2:], self.inputs.image_sizes[0]
        h, w = (
            -(-side * cells // whole)
            for side, cells, whole in zip(inner, level.shape[-2:], padded, strict=True)
        )
        return level[:, :h, :w]

    def means(self, masks: Sequence[BoolMask] | NDArray[np.bool_]) -> NDArray[np.float32]:
        """(N, D) the features averaged under N masks (H, W), all levels side by side.

        The vector of each level has length 1, so that no level outweighs the others.
        """
        levels = [level for name, level in self.levels.items() if name != _POOLED]
        channels = sum(level.shape[1] for level in levels)
        if len(masks) == 0:
            return np.zeros((0, channels), np.float32)
        device = levels[0].device
        covered = torch.from_numpy(np.asarray(masks, np.float32))[:, None].to(device)
        covered = functional.interpolate(covered, self.inputs.image_sizes[0], mode="area")
        padded = self.inputs.tensors.shape[-2:]
        right, bottom = padded[1] - covered.shape[3], padded[0] - covered.shape[2]
        covered = functional.pad(covered, (0, right, 0, bottom))
        of_level = []
        for level in levels:
            _, _, h, w = level.shape
            shares = functional.adaptive_avg_pool2d(covered, (h, w))[:, 0]  # (N, h, w)
            sums = torch.einsum("nhw,chw->nc", shares, level[0].float())
            of_level.append(functional.normalize(sums, dim=1))
        return download(torch.cat(of_level, dim=1))


def require_torchvision(network: DetectionNetwork) -> RoIHeads:
    """The heads of a network that this module can use.

    Raises:
        GboptError: the network does not run on torchvision's heads.
    """
    heads = network.roi_heads
    if not isinstance(heads, RoIHeads):
        raise GboptError(
            "this method of comparison takes features and heads of torchvision's Mask R-CNN "
            f"(RoIHeads), got {type(heads).__name__}; set proposal.weights, or learning.student "
            "where another kind of network proposes, to weights of this package or of torchvision"
        )
    return heads


@torch.inference_mode()
def pyramid_of(network: DetectionNetwork, image: Image) -> Pyramid:
    """The feature pyramid of an (H, W, 3) uint8 RGB image.

    Raises:
        GboptError: as `require_torchvision`.
    """
    require_torchvision(network)
    device = next(network.backbone.parameters()).device
    tensor = upload([image], device)[0].float().div_(255.0)
    inputs, _ = network.transform([tensor])
    levels = network.backbone(inputs.tensors)
    return Pyramid(dict(levels), inputs, (image.shape[0], image.shape[1]))


def pyramids(network: DetectionNetwork, images: Sequence[Image]) -> Iterator[Pyramid]:
    """The pyramid of one image after the other, so that memory holds one."""
    return (pyramid_of(network, image) for image in images)


@torch.inference_mode()
def regress(
    network: DetectionNetwork, pyramid: Pyramid, boxes: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the box head makes of given boxes, each with its likeliest class.

    Args:
        boxes: (R, 4) xyxy pixels.

    Returns:
        (R, 4) the boxes moved onto the object, inside the image, and (R,) scores in [0, 1].
    """
    heads = require_torchvision(network)
    if len(boxes) == 0:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    regions, inputs = _to_input(pyramid, boxes), pyramid.inputs
    pooled = heads.box_roi_pool(pyramid.levels, [regions], inputs.image_sizes)
    logits, deltas = heads.box_predictor(heads.box_head(pooled))
    decoded = heads.box_coder.decode(deltas, [regions]).reshape(len(boxes), -1, 4)  # (R, C, 4)
    scores, labels = functional.softmax(logits, -1)[:, 1:].max(dim=1)
    moved = decoded[torch.arange(len(boxes), device=labels.device), labels + 1]
    moved = clip_boxes_to_image(
        resize_boxes(moved, inputs.image_sizes[0], pyramid.size), pyramid.size
    )
    return download(moved.float()), download(scores.float())


@torch.inference_mode()
def masks_in(
    network: DetectionNetwork, pyramid: Pyramid, boxes: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """(R, H, W) what the mask head segments in given boxes (R, 4), xyxy pixels."""
    heads = require_torchvision(network)
    if len(boxes) == 0:
        return np.zeros((0, *pyramid.size), bool)
    regions, inputs = _to_input(pyramid, boxes), pyramid.inputs
    pooled = heads.box_roi_pool(pyramid.levels, [regions], inputs.image_sizes)
    logits, _ = heads.box_predictor(heads.box_head(pooled))
    labels = logits[:, 1:].argmax(dim=1) + 1
    pooled = heads.mask_roi_pool(pyramid.levels, [regions], inputs.image_sizes)
    probabilities = maskrcnn_inference(heads.mask_predictor(heads.mask_head(pooled)), [labels])[0]
    own = torch.from_numpy(boxes).to(probabilities.device)
    pasted = paste_masks_in_image(probabilities, own, pyramid.size)
    return download(pasted[:, 0] > _MASK_THRESHOLD)


def _to_input(pyramid: Pyramid, boxes: NDArray[np.float32]) -> Tensor:
    tensor = torch.from_numpy(np.asarray(boxes, np.float32)).to(pyramid.inputs.tensors.device)
    return resize_boxes(tensor, pyramid.size, pyramid.inputs.image_sizes[0])
