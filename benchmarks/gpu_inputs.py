"""Images, labels and networks that the parts of `benchmarks.gpu` share."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torchvision.models.optical_flow import raft_large, raft_small

from benchmarks.gpu_setup import Setup
from gbopt_ros.io.clip_cutter import cut_clips
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources import open_source
from gbopt_ros.learning.data.datasets import InstanceDataset
from gbopt_ros.masks import decode_all, encode_all
from gbopt_ros.models.raft import load_raft
from gbopt_ros.structures import Frame, LabelledImage

FPS = 10  # of the recording that comes with the package


@lru_cache(1)
def recorded(size: tuple[int, int]) -> list[Frame]:
    """All frames of the recording that comes with the package, scaled to (height, width)."""
    return list(open_source(find_resource("demo/recording"), resize=(size[1], size[0])))


def long_clip(setup: Setup, count: int) -> list[Frame]:
    """The first clip of the recording, forth and back until there are enough frames."""
    config = setup.config().clip
    clip = next(cut_clips(recorded(setup.size), config.length, max_gap_s=config.max_gap_s)).frames
    there_and_back = [*clip, *clip[-2:0:-1]]
    images = [there_and_back[t % len(there_and_back)].image for t in range(count)]
    return [Frame(image, (t + 1) * 10**9 // FPS, t) for t, image in enumerate(images)]


class Scaled:
    """A dataset whose images and masks are scaled to (height, width)."""

    def __init__(self, dataset: InstanceDataset, size: tuple[int, int]) -> None:
        self._dataset, self._size = dataset, size[::-1]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> LabelledImage:
        labelled = self._dataset[index]
        masks = decode_all(labelled.rles, labelled.image.shape[:2])
        scaled = [
            cv2.resize(mask.astype(np.uint8), self._size, interpolation=cv2.INTER_NEAREST) > 0
            for mask in masks
        ]
        image = np.asarray(cv2.resize(labelled.image, self._size), np.uint8)
        return replace(labelled, image=image, rles=encode_all(np.stack(scaled)))


def raft(setup: Setup, small: bool = False) -> Any:
    torch.manual_seed(0)
    if setup.flow and not small:
        return load_raft(Path(setup.flow), "auto")
    return (raft_small if small else raft_large)(weights=None)


def rounded(network: nn.Module) -> nn.Module:
    """The network with all weights rounded to bfloat16, still in float32.

    The bundled files hold float16, so that precision would change nothing.
    """
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.bfloat16())
    return network
