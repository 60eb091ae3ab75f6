"""Mask proposals by a class-agnostic Mask R-CNN (Section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import ProposalConfig
from gbopt_ros.models.detection import DetectionNetwork, load_mask_rcnn
from gbopt_ros.models.device import download, frames_a_pass, half_precision, to_device, upload
from gbopt_ros.models.folding import fold
from gbopt_ros.structures import Calibration, Image, Proposals

LONG_SIDE_RATIO = 5 / 3
"""Largest longer side of a network's input in shorter sides, as Mask R-CNN's 1333 for 800."""


class MaskRcnnProposals:
    """`ProposalNetwork` on Mask R-CNN of torchvision or detectron2.

    Args:
        network: gives one candidate a region, whatever its classes (`ClassAgnosticHeads`). It is
            moved to `device`, put in evaluation mode, and gets the limits of `config`.
        version: name of the weights.
        calibration: model of the confidences, copied to all proposals.
    """

    def __init__(
        self,
        network: DetectionNetwork,
        version: str,
        config: ProposalConfig,
        device: torch.device,
        calibration: Calibration | None = None,
    ) -> None:
        self._network = to_device(network, device).eval()
        heads = self._network.roi_heads
        heads.score_thresh = config.score_threshold
        heads.nms_thresh = config.nms_iou
        heads.detections_per_img = config.max_proposals
        if config.short_side:
            self._network.transform.min_size = (config.short_side,)
            self._network.transform.max_size = round(config.short_side * LONG_SIDE_RATIO)
        heads.mask_thresh = config.mask_threshold  # for detectron2; torchvision gives probabilities
        self.version, self.calibration = version, calibration
        self._config, self._device = config, device

    @classmethod
    def from_file(
        cls, path: Path, config: ProposalConfig, device: torch.device
    ) -> MaskRcnnProposals:
        """The network of a weights file; raises as `load_mask_rcnn`."""
        network, info = load_mask_rcnn(path, config.detectron2_config)
        return cls(fold(network, device), info.version, config, device, info.calibration)

    @torch.inference_mode()
    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """At most N candidates of each (H, W, 3) uint8 RGB image, best score first."""
        proposals: list[Proposals] = []
        step = frames_a_pass(self._config.batch_size, self._device)
        for start in range(0, len(images), step):
            batch = images[start : start + step]
            tensors = [upload([image], self._device)[0].float().div_(255.0) for image in batch]
            with half_precision(self._config.half, self._device):
                detections = self._network(tensors)
            proposals += [
                self._to_proposals(detection, image.shape[:2])
                for detection, image in zip(detections, batch, strict=True)
            ]
        return proposals

    def _to_proposals(self, detection: dict[str, Tensor], size: tuple[int, int]) -> Proposals:
        masks = download(detection["masks"][:, 0] > self._config.mask_threshold)
        scores = download(detection["scores"].float())
        boxes = download(detection["boxes"].float())
        # A mask without a pixel above the threshold is no candidate.
        keep = np.flatnonzero(masks.any(axis=(1, 2)))
        order = keep[np.argsort(-scores[keep], kind="stable")]
        rles = mask_ops.encode_all(masks[order])
        return Proposals(size, rles, scores[order], boxes[order], self.calibration)
