"""Class-agnostic Mask R-CNN on torchvision: architectures and their construction.

The paper's network is `resnet50-fpn`, the same as torchvision's `maskrcnn_resnet50_fpn`;
`resnet50-fpn-v2` is torchvision's `maskrcnn_resnet50_fpn_v2`. The others are for machines with no
GPU: `lite0-fpn`, the bundled network, stands on EfficientNet-Lite0, `resnet18-fpn` and `slim18-fpn`
on a ResNet-18 (narrowed in the slim one), all with thinner pyramids and heads.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from gbopt_ros.models import efficientnet_pyramid as efficientnet
from gbopt_ros.models.resnet_pyramid import resnet_pyramid
from gbopt_ros.structures import GboptError

CLASSES = 2  # background and object


@dataclass(frozen=True)
class MaskRcnnArchitecture:
    """Sizes of one architecture.

    Images are resized so that the shorter side is `short_side`, or less if the longer one would
    exceed `long_side`. With `enlarged_to`, smaller images keep their size, or are enlarged to that.
    """

    pyramid: Callable[[int], BackboneWithFPN]  # takes the number of channels
    pyramid_channels: int
    box_channels: int
    mask_channels: int
    mask_layers: int
    anchor_sizes: tuple[int, ...]
    short_side: int
    long_side: int
    train_rois: int
    train_proposals: int
    test_proposals: int
    roi_samples: int  # samples of RoIAlign in each bin and direction
    pixel_mean: tuple[float, float, float] | None = None  # None: those of torchvision
    pixel_std: tuple[float, float, float] | None = None
    enlarged_to: int | None = None


ARCHITECTURES = {
    "resnet50-fpn": MaskRcnnArchitecture(
        partial(resnet_pyramid, Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512)), 256, 1024, 256, 4,
        (32, 64, 128, 256, 512), 800, 1333, 512, 2000, 1000, 2,
    ),
    "resnet18-fpn": MaskRcnnArchitecture(
        partial(resnet_pyramid, BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512)), 256, 1024, 256, 4,
        (32, 64, 128, 256, 512), 480, 800, 256, 1000, 500, 2,
    ),
    "slim18-fpn": MaskRcnnArchitecture(
        partial(resnet_pyramid, BasicBlock, (2, 2, 2, 2), (48, 96, 192, 192)), 128, 256, 128, 3,
        (16, 32, 64, 128, 256), 240, 400, 64, 400, 200, 1,
    ),
    "lite0-fpn": MaskRcnnArchitecture(
        efficientnet.efficientnet_pyramid, 96, 256, 128, 3,
        (16, 32, 64, 128, 256), 320, 534, 64, 400, 200, 1,
        efficientnet.PIXEL_MEAN, efficientnet.PIXEL_STD, enlarged_to=240,
    ),
}  # fmt: skip

TORCHVISION_V2 = "resnet50-fpn-v2"  # built by torchvision
KNOWN = (*ARCHITECTURES, TORCHVISION_V2)


def build_mask_rcnn(architecture: str, *, classes: int = CLASSES) -> MaskRCNN:
    """A randomly initialised network.

    Args:
        architecture: one of `KNOWN`.
        classes: number of classes of the heads, with the background.

    Raises:
        GboptError: there is no such architecture.
    """
    if architecture in ARCHITECTURES:
        network = _build(ARCHITECTURES[architecture], classes)
    elif architecture == TORCHVISION_V2:
        network = maskrcnn_resnet50_fpn_v2(
            weights=None, weights_backbone=None, num_classes=classes, box_score_thresh=0.0
        )
    else:
        raise GboptError(f"unknown proposal architecture {architecture!r}; known: {sorted(KNOWN)}")
    _fix_strides(network)
    _fix_precision(network)
    return network


def _build(arch: MaskRcnnArchitecture, classes: int) -> MaskRCNN:
    channels = arch.pyramid_channels
    network = MaskRCNN(
        arch.pyramid(channels),
        min_size=arch.short_side,
        max_size=arch.long_side,
        image_mean=arch.pixel_mean,
        image_std=arch.pixel_std,
        rpn_anchor_generator=AnchorGenerator(
            tuple((size,) for size in arch.anchor_sizes),
            ((0.5, 1.0, 2.0),) * len(arch.anchor_sizes),
        ),
        rpn_pre_nms_top_n_train=arch.train_proposals,
        rpn_post_nms_top_n_train=arch.train_proposals,
        rpn_pre_nms_top_n_test=arch.test_proposals,
        rpn_post_nms_top_n_test=arch.test_proposals,
        rpn_batch_size_per_image=min(256, 2 * arch.train_rois),
        box_roi_pool=MultiScaleRoIAlign(
            ["0", "1", "2", "3"], output_size=7, sampling_ratio=arch.roi_samples
        ),
        box_head=TwoMLPHead(channels * 7 * 7, arch.box_channels),
        box_predictor=FastRCNNPredictor(arch.box_channels, classes),
        box_batch_size_per_image=arch.train_rois,
        box_score_thresh=0.0,
        mask_roi_pool=MultiScaleRoIAlign(
            ["0", "1", "2", "3"], output_size=14, sampling_ratio=arch.roi_samples
        ),
        mask_head=MaskRCNNHeads(channels, (arch.mask_channels,) * arch.mask_layers, 1),
        mask_predictor=MaskRCNNPredictor(arch.mask_channels, arch.mask_channels, classes),
    )
    if arch.enlarged_to is not None:
        resizing = network.transform
        network.transform = _KeepsSize(
            resizing.min_size, resizing.max_size, resizing.image_mean, resizing.image_std
        )
        network.transform.enlarged_to = arch.enlarged_to
    return network


class _KeepsSize(GeneralizedRCNNTransform):
    """Keeps the size of images between `enlarged_to` and `min_size`, by their shorter side.

    Attributes:
        scale: of the size that is kept; `min_size` and `max_size` are as they are.
    """

    enlarged_to: int
    scale: float = 1.0

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        kept = round(self.scale * max(self.enlarged_to, min(image.shape[-2:])))
        of_image = copy(self)  # other threads may call this transform
        of_image.min_size = tuple(min(size, kept) for size in self.min_size)
        return super(_KeepsSize, of_image).resize(image, target)


def _fix_strides(network: MaskRCNN) -> None:
    """Tell RoIAlign the strides of the pyramid, 4 to 32.

    torchvision takes them from the first image that a network sees, once and for all. They are
    wrong if that image is much longer than high.
    """
    for pool in (network.roi_heads.box_roi_pool, network.roi_heads.mask_roi_pool):
        pool.scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
        pool.map_levels = LevelMapper(2, 5, pool.canonical_scale, pool.canonical_level)


class _Float32BoxCoder(BoxCoder):
    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        return super().decode_single(rel_codes.float(), boxes.float())


class _Float32AnchorGenerator(AnchorGenerator):
    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        maps = [f.new_empty(1, dtype=torch.float32).expand(f.shape) for f in feature_maps]
        anchors: list[Tensor] = super().forward(image_list, maps)
        return anchors


def _fix_precision(network: MaskRCNN) -> None:
    """Keep boxes in single precision under autocast.

    In torchvision, anchors, proposals and target boxes have the dtype of the features. From 256 on,
    neighbouring bfloat16 numbers are 2 pixels apart; from 1024 on, float16 numbers 1 pixel.
    """
    for part in (network.rpn, network.roi_heads):
        coder = part.box_coder
        part.box_coder = _Float32BoxCoder(coder.weights, coder.bbox_xform_clip)
    anchors = network.rpn.anchor_generator
    network.rpn.anchor_generator = _Float32AnchorGenerator(anchors.sizes, anchors.aspect_ratios)
