"""Optical flow: DIS, which needs no weights, and the choice between DIS and RAFT."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros.config import FlowConfig
from gbopt_ros.structures import FlowNetwork, Image

_PRESETS = {
    "low": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "normal": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "high": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class DisFlow:
    """Dense inverse search (Kroeger et al. 2016) of OpenCV, on the CPU; any thread may call it.

    Args:
        detail: normal finds the flow at a quarter of the resolution of the images; high at half of
            it, in 4 times the time; low without variational refinement, in two thirds of the time
            for small images.
    """

    def __init__(self, detail: Literal["low", "normal", "high"] = "normal") -> None:
        self._preset = _PRESETS[detail]
        self._own = threading.local()  # OpenCV's object holds buffers: each thread has its own

    def flow(self, first: Sequence[Image], second: Sequence[Image]) -> NDArray[np.float32]:
        """(B, H, W, 2) float32, pixels (x, y)."""
        flows = [
            self._pair(cv2.cvtColor(a, cv2.COLOR_RGB2GRAY), cv2.cvtColor(b, cv2.COLOR_RGB2GRAY))
            for a, b in zip(first, second, strict=True)
        ]
        size = first[0].shape[:2] if first else (0, 0)
        return np.stack(flows) if flows else np.zeros((0, *size, 2), np.float32)

    def _pair(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
        height, width = first.shape
        # On smaller images DIS reads beyond its buffers: it fails an assertion, or the flow depends
        # on what was there before, and no optimum can be certified.
        smallest = 96
        if min(height, width) < smallest:
            pad = (0, max(0, smallest - height), 0, max(0, smallest - width))
            first = cv2.copyMakeBorder(first, *pad, cv2.BORDER_REPLICATE)
            second = cv2.copyMakeBorder(second, *pad, cv2.BORDER_REPLICATE)
        if getattr(self._own, "size", None) != first.shape:
            self._own.size = first.shape
            self._own.dis = self._new()
        # A new object for each image size, which changes its settings for good. No other state is
        # carried from pair to pair: an empty flow starts the search afresh.
        return np.asarray(self._own.dis.calc(first, second, None))[:height, :width]

    def _new(self) -> cv2.DISOpticalFlow:
        dis = cv2.DISOpticalFlow_create(self._preset)
        # About two thirds of the time of OpenCV's presets for these resolutions, 0.05 (high) and
        # 0.3 pixels apart.
        if self._preset == _PRESETS["high"]:
            dis.setPatchStride(4)
            dis.setGradientDescentIterations(12)
            dis.setVariationalRefinementIterations(1)
        elif self._preset == _PRESETS["normal"]:
            dis.setPatchStride(6)
            dis.setVariationalRefinementIterations(3)
        return dis


def make_flow(config: FlowConfig, device: str) -> FlowNetwork:
    """The flow network of a configuration: by default RAFT where weights are given, else DIS.

    Args:
        device: as `device` of the configuration; DIS always runs on the CPU.

    Raises:
        GboptError: the weights are missing, corrupt or of another network, or there is no such GPU.
    """
    if config.backend == "dis" or (config.backend == "auto" and not config.weights):
        return DisFlow()
    # Imported here: a node that needs only DIS starts several times faster without torch.
    from gbopt_ros.models.device import resolve_device
    from gbopt_ros.models.raft import RaftFlow, load_raft

    raft = load_raft(Path(config.weights), config.backend)
    return RaftFlow(raft, config, resolve_device(device))


def high_detail_flow(network: FlowNetwork) -> FlowNetwork:
    """A slower network of the same kind with more detail; the network itself if there is none."""
    return DisFlow("high") if isinstance(network, DisFlow) else network


def low_detail_flow(network: FlowNetwork) -> FlowNetwork:
    """A faster network of the same kind with less detail; the network itself if there is none."""
    return DisFlow("low") if isinstance(network, DisFlow) else network
