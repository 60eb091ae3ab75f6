"""Tiny networks and files for the tests of perception and learning."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.models.detection import MaskRCNN

from gbopt_ros.models import mask_rcnn
from gbopt_ros.models.background_fpn import build_background
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.models.weights import BACKGROUND, PROPOSALS, WeightsInfo, save_weights
from gbopt_ros.structures import Image

SIDE = 64  # of the images that the tests run networks on
CPU = torch.device("cpu")

torch.set_num_threads(1)  # on images of this size threads cost more than they save


def tiny_mask_rcnn(seed: int = 0) -> MaskRCNN:
    """A random `slim18-fpn` that does not enlarge 64-pixel images and looks at few regions.

    It leaves torch's random numbers where building it would.
    """
    network, state = _slim(seed)
    torch.set_rng_state(state)
    return look_at_little(copy.deepcopy(network))


@cache
def _slim(seed: int) -> tuple[MaskRCNN, torch.Tensor]:
    """A random `slim18-fpn`, and the state of the random numbers behind it."""
    torch.manual_seed(seed)
    return build_mask_rcnn("slim18-fpn"), torch.get_rng_state()


@cache
def _slim_background() -> tuple[nn.Module, torch.Tensor]:
    """A random `slim18-semantic-fpn` that is built after `_slim(0)`, and the state behind it."""
    torch.set_rng_state(_slim(0)[1])
    return build_background("slim18-semantic-fpn"), torch.get_rng_state()


def look_at_little(network: MaskRCNN, regions: int = 32) -> MaskRCNN:
    """The network, looking at 64-pixel images as they are and at few regions of them."""
    network.transform.min_size = (SIDE,)
    network.transform.max_size = 2 * SIDE
    for limits in (network.rpn._pre_nms_top_n, network.rpn._post_nms_top_n):
        limits.update(training=regions, testing=regions)
    return network.eval()


def little_slim() -> mask_rcnn.MaskRcnnArchitecture:
    """`slim18-fpn` looking at 64-pixel images as they are and at few regions of them.

    In place of the architecture itself, for networks that the code under test builds.
    """
    slim = mask_rcnn.ARCHITECTURES["slim18-fpn"]
    return replace(slim, short_side=SIDE, long_side=2 * SIDE, train_proposals=32, test_proposals=32)


def save_random_weights(folder: Path, *, sees_foreground: bool = False) -> dict[str, Path]:
    """Networks with random weights: at threshold 0 they propose something everywhere.

    Args:
        sees_foreground: whether the background network sees objects everywhere, so that masks are
            selected whatever their scores.
    """
    proposals, (background, state) = _slim(0)[0], _slim_background()
    infos = {
        PROPOSALS: WeightsInfo(PROPOSALS, "slim18-fpn", "random"),
        BACKGROUND: WeightsInfo(BACKGROUND, "slim18-semantic-fpn", "random"),
    }
    paths = {kind: folder / f"{kind}.safetensors" for kind in infos}
    save_weights(paths[PROPOSALS], proposals, infos[PROPOSALS])
    if sees_foreground:
        background = copy.deepcopy(background)
        nn.init.constant_(background.predictor.bias, 20.0)
    save_weights(paths[BACKGROUND], background, infos[BACKGROUND])
    torch.set_rng_state(state)
    return paths


def random_images(count: int, height: int = SIDE, width: int = SIDE) -> list[Image]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]


class Point(nn.Module):
    """A network of two parameters and two buffers, for what no real network is needed for."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("scale", torch.tensor([0.1]))


def sgd(parameters: Iterable[nn.Parameter], **options: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent."""
    return torch.optim.SGD(parameters, **options)


class Bomb:
    """Unpickling it creates a file, as a malicious checkpoint would run a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.target),)


def write_bomb(path: Path, target: Path, *, as_checkpoint: bool) -> None:
    """A file that creates the folder `target` when it is unpickled without care."""
    if as_checkpoint:
        torch.save({"weight": Bomb(target)}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Bomb(target)}, protocol=2))
