"""Mask proposals by a class-agnostic Mask R-CNN (Section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import ProposalConfig
from gbopt_ros.perception.best_class import load_torchvision
from gbopt_ros.perception.catalogue import find_weights
from gbopt_ros.perception.device import download, frames_a_pass, half_precision, to_device, upload
from gbopt_ros.perception.mask_rcnn import build_mask_rcnn
from gbopt_ros.perception.weights import (
    DETECTRON2,
    PROPOSALS,
    WeightsInfo,
    architecture_of,
    is_foreign,
    load_network,
)
from gbopt_ros.structures import GboptError, Image, Proposals

if TYPE_CHECKING:
    from gbopt_ros.perception.detectron2_backend import Detectron2MaskRcnn

    DetectionNetwork: TypeAlias = MaskRCNN | Detectron2MaskRcnn  # one interface, torchvision's

_TORCH_SUFFIXES = (".pth", ".pt")


def load_mask_rcnn(path: Path, detectron2_config: str = "") -> tuple[DetectionNetwork, WeightsInfo]:
    """The network of a weights file, float32, on the CPU, in evaluation mode.

    Args:
        path: our own safetensors, a state dict of torchvision's Mask R-CNN R50-FPN, version 1 or
            2, with any number of classes (`.pth` or safetensors), or a name of the catalogue that
            was pulled. A network with classes proposes through the best class of each box.
        detectron2_config: makes a file that does not say what it is a checkpoint of detectron2;
            its YAML. What `gbopt learn` publishes says it.

    Raises:
        GboptError: the file is missing, corrupt, or does not fit its architecture, or detectron2
            is needed and cannot be imported.
    """
    path = find_weights(path)
    if detectron2_config or architecture_of(path) == DETECTRON2:
        try:
            from gbopt_ros.perception.detectron2_backend import load_detectron2
        except ImportError as error:
            raise GboptError(
                f"{path}: this network takes detectron2, which cannot be imported ({error}); "
                "`gbopt doctor` says how to get it"
            ) from error
        return load_detectron2(path, detectron2_config)
    if path.suffix in _TORCH_SUFFIXES or is_foreign(path):
        found = load_torchvision(path)
        if found is not None:
            return found
        if path.suffix in _TORCH_SUFFIXES:
            raise GboptError(
                f"{path}: not a state dict of torchvision's Mask R-CNN R50-FPN, version 1 or 2; "
                "if it is detectron2's, name its configuration too: proposal.detectron2_config"
            )
    return load_network(path, PROPOSALS, build_mask_rcnn)


class MaskRcnnProposals:
    """`ProposalNetwork` on torchvision or, with a network of its backend, on detectron2.

    Args:
        network: Mask R-CNN, class-agnostic or with `BestClassHeads`; moved to `device` and put in
            evaluation mode.
        version: name of the weights.
    """

    def __init__(
        self, network: DetectionNetwork, version: str, config: ProposalConfig, device: torch.device
    ) -> None:
        self._network = to_device(network, device).eval()
        self._network.roi_heads.score_thresh = config.score_threshold
        self._network.roi_heads.nms_thresh = config.nms_iou
        self._network.roi_heads.detections_per_img = config.max_proposals
        self._network.roi_heads.mask_thresh = config.mask_threshold  # read by detectron2's alone
        self._config = config
        self._device = device
        self._version = version

    @classmethod
    def from_file(
        cls, path: Path, config: ProposalConfig, device: torch.device
    ) -> MaskRcnnProposals:
        """Raises GboptError if the file is missing, corrupt or of another architecture."""
        network, info = load_mask_rcnn(path, config.detectron2_config)
        return cls(network, info.version, config, device)

    @property
    def version(self) -> str:
        return self._version

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
        # A mask that nowhere reaches the threshold is no candidate.
        keep = np.flatnonzero(masks.any(axis=(1, 2)))
        order = keep[np.lexsort((keep, -scores[keep]))]
        return Proposals(size, mask_ops.encode_all(masks[order]), scores[order], boxes[order])
