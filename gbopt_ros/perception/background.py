"""Background probability by foreground/background networks (Section 3.2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gbopt_ros.config import BackgroundConfig
from gbopt_ros.models.background_fpn import SemanticFpn, build_background
from gbopt_ros.models.device import download, frames_a_pass, half_precision, to_device, upload
from gbopt_ros.models.folding import fold
from gbopt_ros.models.weights import BACKGROUND, WeightsInfo, load_network
from gbopt_ros.structures import BackgroundNetwork, Image

_SURE = 1e-3  # smallest distance from 0 and 1 of a probability that is averaged


def load_semantic_fpn(path: Path) -> tuple[SemanticFpn, WeightsInfo]:
    """The network of a weights file, float32, on the CPU, in evaluation mode.

    Raises:
        GboptError: the file is missing, corrupt, or does not fit its architecture.
    """
    return load_network(path, BACKGROUND, build_background)


class FpnBackground:
    """`BackgroundNetwork` on a semantic FPN.

    Args:
        network: moved to `device`, put in evaluation mode, and gets the `short_side` of `config`.
    """

    def __init__(
        self, network: SemanticFpn, config: BackgroundConfig, device: torch.device
    ) -> None:
        self._network = to_device(network, device).eval()
        if config.short_side:
            network.short_side = config.short_side
        self._config = config
        self._device = device

    @classmethod
    def from_file(cls, path: Path, config: BackgroundConfig, device: torch.device) -> FpnBackground:
        """The network of a weights file; raises as `load_semantic_fpn`."""
        return cls(fold(load_semantic_fpn(path)[0], device), config, device)

    @torch.inference_mode()
    def background(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        """(H, W) float32 in [0, 1]: probability that a pixel belongs to no object.

        Consecutive images of one size share a forward pass.
        """
        maps: list[NDArray[np.float32]] = []
        step = frames_a_pass(self._config.batch_size, self._device)
        for _, group in groupby(images, key=np.shape):
            of_one_size = list(group)
            for start in range(0, len(of_one_size), step):
                maps += self._forward(of_one_size[start : start + step])
        return maps

    def _forward(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        x = upload(images, self._device).float().div_(255.0)  # (B, 3, H, W)
        size = images[0].shape[:2]
        with half_precision(self._config.half, self._device):
            logits = self._network(resize_short_side(x, self._network.input_side(size)))
        logits = functional.interpolate(
            logits[:, None].float(), size=size, mode="bilinear", align_corners=False
        )
        return list(download(torch.sigmoid(-logits[:, 0])))


class AveragedBackground:
    """`BackgroundNetwork` of several networks: their log-odds are averaged.

    Args:
        networks: all see every image at its full size.
        shares: of each network; they sum to 1.
    """

    def __init__(self, networks: Sequence[BackgroundNetwork], shares: Sequence[float]) -> None:
        self._networks, self._shares = networks, shares

    def background(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        """(H, W) float32 in [0.001, 0.999] for each image."""
        by_network = [network.background(images) for network in self._networks]
        return [self._average(of_image) for of_image in zip(*by_network, strict=True)]

    def _average(self, probabilities: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        log_odds = np.zeros(probabilities[0].shape, np.float32)
        for probability, share in zip(probabilities, self._shares, strict=True):
            sure = np.clip(probability, _SURE, 1 - _SURE)
            log_odds += np.float32(share) * (np.log(sure) - np.log1p(-sure))
        return np.asarray(1 / (1 + np.exp(-log_odds)), np.float32)


def resize_short_side(images: Tensor, short_side: int) -> Tensor:
    """Scale (B, C, H, W) so that the shorter of H and W is `short_side`."""
    height, width = images.shape[-2:]
    factor = short_side / min(height, width)
    if factor == 1:
        return images
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return functional.interpolate(
        images, size=size, mode="bilinear", align_corners=False, antialias=factor < 1
    )
