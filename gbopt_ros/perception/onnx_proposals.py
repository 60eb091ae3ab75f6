"""Mask proposals by a network in an ONNX file, of whatever classes (Section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import boxes as box_ops

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import ProposalConfig
from gbopt_ros.models.class_agnostic import SMALLEST_SIDE
from gbopt_ros.models.device import download
from gbopt_ros.models.onnx import OnnxNetwork, load_onnx
from gbopt_ros.models.weights import PROPOSALS, describe
from gbopt_ros.perception.onnx_layouts import layout_of
from gbopt_ros.structures import (
    Calibration,
    GboptError,
    Image,
    Proposals,
    are_probabilities,
)


class OnnxProposals:
    """`ProposalNetwork` on an ONNX file with one of the layouts of `onnx_layouts`.

    A region is proposed once, with the score of its best class; NMS is over all classes.

    Attributes:
        version: see `version_of_file`.
        calibration: model of the confidences, from the metadata `gbopt_ros` of the file, where
            `gbopt models export` writes it.

    Raises:
        GboptError: the file has another layout, or says that it is no proposal network.
    """

    def __init__(self, network: OnnxNetwork, config: ProposalConfig, device: torch.device) -> None:
        self._layout = layout_of(network, config.onnx_size, device)
        info = describe(network.metadata, network.path, PROPOSALS)
        self.version = network.version
        self.calibration: Calibration | None = info.calibration if info is not None else None
        self._path, self._config = network.path, config

    @classmethod
    def from_file(cls, path: Path, config: ProposalConfig, device: torch.device) -> OnnxProposals:
        """The network of a file; raises as `load_onnx` and the constructor."""
        return cls(load_onnx(path, device), config, device)

    @torch.inference_mode()
    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """At most N candidates of each (H, W, 3) uint8 RGB image, best score first.

        Raises:
            GboptError: the network fails, or gives something else than its layout says.
        """
        return [self._propose(image) for image in images]

    def _propose(self, image: Image) -> Proposals:
        size = image.shape[0], image.shape[1]
        regions = self._layout(image)
        scores = self._checked(regions.scores)
        boxes = box_ops.clip_boxes_to_image(regions.boxes, size)
        kept = torch.where(scores > self._config.score_threshold)[0]
        kept = kept[box_ops.remove_small_boxes(boxes[kept], SMALLEST_SIDE)]
        kept = kept[box_ops.nms(boxes[kept], scores[kept], self._config.nms_iou)]
        kept = kept[: self._config.max_proposals]
        masks = download(regions.masks(kept) > self._config.mask_threshold)
        # A mask without a pixel above the threshold is no candidate.
        some = np.flatnonzero(masks.any(axis=(1, 2)))
        return Proposals(
            size,
            mask_ops.encode_all(masks[some]),
            download(scores[kept])[some],
            download(boxes[kept])[some],
            self.calibration,
        )

    def _checked(self, scores: Tensor) -> Tensor:
        """The scores in [0, 1]. Raises GboptError if they are no probabilities."""
        if len(scores) == 0:
            return scores
        low, high = float(scores.min()), float(scores.max())
        if not are_probabilities(low, high):
            raise GboptError(
                f"{self._path}: expected scores from 0 to 1, got {low:.3g} to {high:.3g}"
            )
        return scores.clamp(0, 1)
