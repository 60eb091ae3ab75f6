"""IOA: unsupervised learning from video to detect foreground objects in single images.

Croitoru, Bogolin & Leordeanu (ICCV 2017). A student network learns the soft masks of a teacher,
VideoPCA, and sees one image at a time: it smoothes over what the teacher gets wrong in single
frames. Only the 20 % of the teacher's soft masks with the highest mean over their non-zero pixels
are learnt. Images have 128 x 128 pixels, as in the paper.

Departures: a method here sees one clip, so there is one student for each clip, where the original
learns from many videos. It is a small U-Net with random weights, and learns in seconds; the paper
has LowRes-Net, Du et al. a PSPNet with ImageNet weights. At least 8 soft masks are learnt, since
20 % of a short clip are one or two. Images are flipped half of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from experiments.methods.contract import Inputs
from experiments.methods.foreground import enlarged, proposals_of, shrunk
from experiments.methods.video_pca import LONGER_SIDE, THRESHOLD, soft_masks
from gbopt_ros.structures import Image, Proposals

_SIDE = 128  # pixels
_SHARE, _FEWEST = 0.2, 8  # of the teacher's masks that are learnt
_WIDTH = 16  # channels of the U-Net at half resolution, which it answers at
_STEPS, _BATCH, _RATE = 100, 4, 3e-3  # of Adam; twice the steps gain 1 to 4 points of J
_FAINT = 0.1  # largest probability of a frame without foreground
_SEED = 0


class Ioa:
    """A small network that has learnt the soft masks of VideoPCA on the same clip."""

    label = "IOA (one student a clip, small U-Net)"

    def masks(self, inputs: Inputs) -> list[Proposals]:
        """T times the connected components of the foreground."""
        images = shrunk(inputs.images, LONGER_SIDE)
        soft = soft_masks(images)
        chosen = best_masks(soft)
        student = trained([images[t] for t in chosen], soft[chosen])
        found = enlarged(predict(student, images), inputs.clip.size)
        return [proposals_of(each > THRESHOLD, each) for each in found]


@contextmanager
def _one_thread() -> Iterator[None]:
    """So small a network gains little from more, and waits for them where cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_masks(soft: NDArray[np.floating]) -> NDArray[np.int64]:
    """Frames whose soft masks (T, H, W) are learnt, in order."""
    sums, areas = soft.sum(axis=(1, 2)), np.count_nonzero(soft, axis=(1, 2))
    means = sums / np.maximum(areas, 1)
    count = min(len(soft), max(_FEWEST, round(_SHARE * len(soft))))
    return np.sort(np.argsort(-means, kind="stable")[:count])


@_one_thread()
def trained(images: Sequence[Image], soft: NDArray[np.floating]) -> SmallUNet:
    """A network that has learnt soft masks (N, H, W) of images, always the same one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = SmallUNet(_WIDTH)
    seen, wanted = _as_tensor(images), torch.from_numpy(_squares(soft, _SIDE // 2)).float()
    optimizer = torch.optim.Adam(network.parameters(), _RATE)
    rng = np.random.default_rng(_SEED)
    network.train()
    for _ in range(_STEPS):
        drawn = torch.from_numpy(rng.integers(len(seen), size=_BATCH))
        image, target = seen[drawn], wanted[drawn]
        if rng.random() < 0.5:
            image, target = image.flip(-1), target.flip(-1)
        loss = functional.binary_cross_entropy_with_logits(network(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@_one_thread()
@torch.inference_mode()
def predict(network: SmallUNet, images: Sequence[Image]) -> list[NDArray[np.float32]]:
    """(64, 64) foreground for each image, 1 at its largest.

    Soft masks hardly reach 1, and so do the probabilities that are learnt of them.
    """
    found = [torch.sigmoid(network(_as_tensor([image])))[0].numpy() for image in images]
    return [each / max(float(each.max()), _FAINT) for each in found]


class SmallUNet(nn.Module):
    """(B, 3, H, W) in [0, 1] -> (B, H / 2, W / 2) logits, H and W multiples of 16."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 4 * width]
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.down = nn.ModuleList(
            _convolution(before, after) for before, after in pairwise([width, *widths])
        )
        self.up = nn.ModuleList(
            _convolution(below + beside, beside) for below, beside in pairwise(widths[::-1])
        )
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        x, levels = self.stem(images - 0.5), []
        for i, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if i else x)
            levels.append(x)
        for block, beside in zip(self.up, levels[-2::-1], strict=True):
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, beside], dim=1))
        return self.head(x)[:, 0]


def _convolution(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.ReLU())


def _as_tensor(images: Sequence[Image]) -> Tensor:
    """(N, 3, side, side) in [0, 1]."""
    return torch.from_numpy(_squares(images, _SIDE)).permute(0, 3, 1, 2).float() / 255


def _squares(images: Iterable[NDArray], side: int) -> NDArray:
    """(N, side, side, ...)."""
    return np.stack([cv2.resize(i, (side, side), interpolation=cv2.INTER_AREA) for i in images])
