"""Tiny networks of the detectron2 backend, for tests that run only where detectron2 is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from support.networks import CPU, SIDE

if TYPE_CHECKING:
    from gbopt_ros.models.detectron2_backend import Detectron2MaskRcnn

try:
    import detectron2.modeling  # noqa: F401
except ImportError as error:
    needs_detectron2 = pytest.mark.skip(reason=f"detectron2 cannot be imported: {error}")
else:
    needs_detectron2 = pytest.mark.skipif(False, reason="")

CONFIG = f"""
VERSION: 2
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  MASK_ON: true
  BACKBONE: {{NAME: build_resnet_fpn_backbone}}
  RESNETS: {{DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res2, res3, res4, res5]}}
  FPN: {{IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 32}}
  ANCHOR_GENERATOR: {{SIZES: [[8], [16], [32], [64], [128]]}}
  RPN:
    IN_FEATURES: [p2, p3, p4, p5, p6]
    PRE_NMS_TOPK_TRAIN: 32
    PRE_NMS_TOPK_TEST: 32
    POST_NMS_TOPK_TRAIN: 32
    POST_NMS_TOPK_TEST: 32
  ROI_HEADS:
    NAME: StandardROIHeads
    IN_FEATURES: [p2, p3, p4, p5]
    NUM_CLASSES: 1
    BATCH_SIZE_PER_IMAGE: 64
  ROI_BOX_HEAD: {{NAME: FastRCNNConvFCHead, NUM_FC: 2, FC_DIM: 64, POOLER_RESOLUTION: 7}}
  ROI_MASK_HEAD:
    NAME: MaskRCNNConvUpsampleHead
    NUM_CONV: 1
    CONV_DIM: 16
    POOLER_RESOLUTION: 14
    CLS_AGNOSTIC_MASK: true
INPUT: {{MIN_SIZE_TEST: {SIDE}, MAX_SIZE_TEST: {2 * SIDE}}}
"""


def write_config(folder: Path, **changes: object) -> Path:
    """The tiny configuration as a file; `changes` are keys with `__` for the dot."""
    from detectron2.config import CfgNode, get_cfg

    config = get_cfg()
    config.merge_from_other_cfg(CfgNode.load_cfg(CONFIG))
    for key, value in changes.items():
        config.merge_from_list([key.replace("__", "."), value])
    path = folder / "tiny.yaml"
    path.write_text(config.dump(), encoding="utf-8")
    return path


def tiny_detectron2(seed: int = 0, **changes: object) -> Detectron2MaskRcnn:
    """A random network that does not enlarge 64-pixel images and looks at few regions."""
    from detectron2.config import CfgNode, get_cfg

    from gbopt_ros.models.detectron2_backend import build_detectron2

    config = get_cfg()
    config.merge_from_other_cfg(CfgNode.load_cfg(CONFIG))
    for key, value in changes.items():
        config.merge_from_list([key.replace("__", "."), value])
    torch.manual_seed(seed)
    network = build_detectron2(config, "test")
    # Masks of random networks are faint; so most reach the threshold somewhere, not everywhere.
    torch.nn.init.constant_(network.roi_heads.mask_head.predictor.bias, 0.2)
    return network.to(CPU).eval()
