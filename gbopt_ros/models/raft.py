"""RAFT (Teed and Deng 2020) of torchvision, with the weights of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.optical_flow import RAFT, raft_large, raft_small
from torchvision.models.optical_flow.raft import CorrBlock

from gbopt_ros.config import FlowConfig
from gbopt_ros.models.catalogue import find_weights
from gbopt_ros.models.device import download, half_precision, upload
from gbopt_ros.models.weights import NoRandomValues, load_into, read_state_dict
from gbopt_ros.structures import GboptError, Image

_RAFT = {"raft_large": raft_large, "raft_small": raft_small}
_RAFT_STRIDE = 8  # sides must be multiples of it
_RAFT_MIN_SIDE = 128  # pixels: the correlation pyramid halves features of stride 8 four times


class RaftFlow:
    """RAFT, the paper's g.

    An image in several pairs of a batch is encoded once if it is the same array.

    Args:
        network: moved to `device` and put in evaluation mode.
    """

    def __init__(self, network: RAFT, config: FlowConfig, device: torch.device) -> None:
        self._network = network.to(device).eval()
        self._config = config
        self._device = device

    @torch.inference_mode()
    def flow(self, first: Sequence[Image], second: Sequence[Image]) -> NDArray[np.float32]:
        """(B, H, W, 2) float32, pixels (x, y)."""
        if len(first) != len(second):
            raise ValueError(f"flow: {len(first)} first images, {len(second)} second images")
        size = first[0].shape[:2] if first else (0, 0)
        flows = [np.zeros((0, *size, 2), np.float32)]
        step = self._config.batch_size
        for start in range(0, len(first), step):
            flows.append(self._forward(first[start : start + step], second[start : start + step]))
        return np.concatenate(flows)

    def _forward(self, first: Sequence[Image], second: Sequence[Image]) -> NDArray[np.float32]:
        height, width = first[0].shape[:2]
        padding = (0, _padding(width), 0, _padding(height))
        images = list({id(image): image for image in (*first, *second)}.values())
        numbers = {id(image): number for number, image in enumerate(images)}
        x = upload(images, self._device).float().div_(127.5).sub_(1.0)  # (M, 3, H, W), [-1, 1]
        padded = functional.pad(x, padding, mode="replicate")
        pairs = [[numbers[id(image)] for image in batch] for batch in (first, second)]
        with half_precision(self._config.half, self._device):
            flow = raft_of_pairs(self._network, padded, *pairs)  # (B, 2, H, W)
        return download(flow[:, :, :height, :width].permute(0, 2, 3, 1).float())


def raft_of_pairs(
    network: RAFT, images: Tensor, first: Sequence[int], second: Sequence[int]
) -> Tensor:
    """The flow of pairs of images, each image encoded once.

    A RAFT of the same parts refines the flow; its encoders look up the encodings of the images.

    Args:
        network: in evaluation mode.
        images: (M, 3, H, W) float32 in [-1, 1], sides multiples of 8.
        first, second: B indices into the images.

    Returns:
        (B, 2, H, W), pixels (x, y).
    """
    starts = sorted(set(first))  # only the first image of a pair has a context
    refinement = RAFT(
        feature_encoder=_Lookup(network.feature_encoder(images), range(len(images))),
        context_encoder=_Lookup(network.context_encoder(images[starts]), starts),
        # A correlation block keeps the correlations of one call, so each call has its own.
        corr_block=_Float32CorrBlock(
            num_levels=network.corr_block.num_levels, radius=network.corr_block.radius
        ),
        update_block=network.update_block,
        mask_predictor=network.mask_predictor,
    ).eval()
    height, width = images.shape[-2:]
    numbers = [
        torch.tensor(batch, device=images.device).view(-1, 1, 1, 1).expand(-1, 1, height, width)
        for batch in (first, second)
    ]
    flow: Tensor = refinement(*numbers)[-1]
    return flow


class _Float32CorrBlock(CorrBlock):
    """Single precision, as in the authors' code: sums over all channels are large."""

    def build_pyramid(self, fmap1: Tensor, fmap2: Tensor) -> None:
        with torch.autocast(fmap1.device.type, enabled=False):
            super().build_pyramid(fmap1.float(), fmap2.float())


class _Lookup(nn.Module):
    """Stands in for an encoder; every pixel of an image is the number of the image."""

    def __init__(self, encodings: Tensor, numbers: Sequence[int]) -> None:
        super().__init__()
        self._encodings = encodings
        self._rows = {number: row for row, number in enumerate(numbers)}

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H / 8, W / 8) of (B, 1, H, W)."""
        return self._encodings[[self._rows[number] for number in images[:, 0, 0, 0].tolist()]]


def _padding(side: int) -> int:
    return max(0, _RAFT_MIN_SIDE - side) or -side % _RAFT_STRIDE


def load_raft(path: Path, backend: str) -> RAFT:
    """RAFT with the weights of a file: safetensors, or a `.pth` that holds only tensors.

    Args:
        path: the file, or the name of pulled weights.
        backend: `raft_small`, `raft_large`, or `auto` for the one that fits the file.

    Raises:
        GboptError: no such file, not readable without unpickling code, or of another network.
    """
    path = find_weights(path)
    tensors = read_state_dict(path, "RAFT")
    names = tuple(_RAFT) if backend == "auto" else (backend,)
    for name in names:
        with NoRandomValues():
            network = _RAFT[name](weights=None)
        if network.state_dict().keys() == tensors.keys():
            load_into(network, tensors, path)
            return network
    raise GboptError(f"{path}: not the weights of torchvision's {' or '.join(names)}")
