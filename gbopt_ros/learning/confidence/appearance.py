"""What masks look like: a network's features and the colours in them, and the colours around."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import ProposalConfig
from gbopt_ros.models.device import download
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import Image, Rle

if TYPE_CHECKING:
    from gbopt_ros.models.detection import DetectionNetwork

_BINS = (4, 16, 16)  # of L, a and b
COLOURS = int(np.prod(_BINS))
# Chosen on homes 103 and 104, world 11 and the bundled recording, see docs/learning.md.
_LEVELS = 1, 2  # of the feature pyramid, of strides 8 and 16
LEVELS = len(_LEVELS)
_RING = 0.05, 0.35  # where surroundings begin and end, in roots of the mask's area,
_RING_PIXELS = 1, 3  # and in pixels that are added to it


@dataclass(frozen=True)
class Descriptors:
    """What M masks of an image look like.

    Attributes:
        inside: (M, `LEVELS` * C + `COLOURS`) float32, the features of each level of the pyramid,
            then colours.
        around: (M, COLOURS) float32, a histogram of the colours that surround it; all 0 of a mask
            that nothing of the image surrounds.
    """

    inside: NDArray[np.float32]
    around: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.inside)


@dataclass(frozen=True)
class FrameAppearance:
    """What the masks and the proposals of one frame look like.

    Attributes:
        clip: the same for all frames of a clip.
        masks: of the M selected masks.
        proposals: of the network's N candidates; N = 0 in a frame that is not to be remembered.
        agreement: (N,) float32, the best IoU of each candidate with a selected mask.
    """

    clip: Hashable
    masks: Descriptors
    proposals: Descriptors
    agreement: NDArray[np.float32]


class AppearanceExtractor:
    """Describes masks by the network's own features and by their colours.

    Args:
        network: Mask R-CNN with a feature pyramid; moved to `device` and put in evaluation mode.
    """

    def __init__(
        self, network: DetectionNetwork, config: ProposalConfig, device: torch.device
    ) -> None:
        self._network = network
        # Features that overflow half precision would be no number.
        self._proposer = MaskRcnnProposals(network, "", replace(config, half=False), device)

    def extract(
        self, clip: Hashable, image: Image, rles: Sequence[Rle], remember: bool = True
    ) -> FrameAppearance:
        """The looks of a frame's selected masks and, if it is to be remembered, of its proposals.

        Args:
            image: (H, W, 3) uint8 RGB.
            rles: M selected masks of the image.
        """
        with _features_of(self._network.backbone) as seen:
            (proposals,) = self._proposer.propose([image])
        scale = self._scale(image)
        features = [_without_padding(*level, image, scale) for level in seen]
        candidates = proposals.rles if remember else ()
        overlap = mask_ops.iou_matrix(candidates, rles)
        return FrameAppearance(
            clip,
            _described(image, features, rles),
            _described(image, features, candidates),
            overlap.max(axis=1, initial=0.0).astype(np.float32),
        )

    def _scale(self, image: Image) -> float:
        """Of the network's input to the image; 1 where a short side of 0 says: as it is."""
        transform = self._network.transform
        short, long = sorted(image.shape[:2])
        return min(transform.min_size[-1] / short, transform.max_size / long) or 1.0


def _without_padding(
    features: NDArray[np.float32], stride: float, image: Image, scale: float
) -> NDArray[np.float32]:
    """(C, h, w) features of the image alone, which the network saw at a scale."""
    height, width = (max(1, round(pixels * scale / stride)) for pixels in image.shape[:2])
    return features[:, :height, :width]


def _described(
    image: Image, features: Sequence[NDArray[np.float32]], rles: Sequence[Rle]
) -> Descriptors:
    """The mean features of each mask, and histograms of the colours in it and around it.

    Args:
        features: (C, h, w) of each level, of the whole image.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    inside = np.empty((len(rles), sum(map(len, features)) + COLOURS), np.float32)
    around = np.empty((len(rles), COLOURS), np.float32)
    for number, mask in enumerate(mask_ops.decode_all(rles, image.shape[:2])):
        area = mask.astype(np.uint8)
        means = [_mean(level, area) for level in features]
        size = np.sqrt(np.count_nonzero(area))
        begin, end = (share * size + more for share, more in zip(_RING, _RING_PIXELS, strict=True))
        near = _window(area, margin=int(end) + 1)
        inside[number] = np.concatenate([*means, _colours(lab[near], area[near])])
        around[number] = _colours(lab[near], _ring(area[near], begin, end))
    return Descriptors(inside, around)


def _mean(features: NDArray[np.float32], area: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(C,) of features (C, h, w) over a mask of 0 and 1, as much as it covers of each cell."""
    channels, height, width = features.shape
    cover = cv2.resize(area.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    total: NDArray[np.float32] = features.reshape(channels, -1) @ cover.ravel()
    return total / max(float(cover.sum()), 1e-6)


def _colours(lab: Image, area: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(colours,) histogram whose products are those of the Hellinger kernel."""
    counts = cv2.calcHist([lab], [0, 1, 2], area, _BINS, [0, 256] * 3).ravel()
    return np.sqrt(counts / max(1.0, counts.sum()))


def _window(area: NDArray[np.uint8], margin: int) -> tuple[slice, slice]:
    """Rows and columns of a mask and of `margin` pixels around it."""
    left, top, width, height = cv2.boundingRect(area)
    return (
        slice(max(0, top - margin), top + height + margin),
        slice(max(0, left - margin), left + width + margin),
    )


def _ring(area: NDArray[np.uint8], begin: float, end: float) -> NDArray[np.uint8]:
    """(H, W) 1 where a mask is farther away than `begin`, but not than `end`, else 0; pixels."""
    distance = cv2.distanceTransform(1 - area, cv2.DIST_L2, cv2.DIST_MASK_5)
    return ((distance > begin) & (distance <= end)).astype(np.uint8)


@contextmanager
def _features_of(backbone: nn.Module) -> Iterator[list[tuple[NDArray[np.float32], float]]]:
    """A list that has (C, h, w) features and the stride of each level of the last image seen."""
    seen: list[tuple[NDArray[np.float32], float]] = []

    def receive(_: nn.Module, inputs: tuple[Tensor], pyramid: dict[str, Tensor]) -> None:
        levels = list(pyramid.values())
        seen[:] = [
            (download(level[0].float()), inputs[0].shape[-1] / level.shape[-1])
            for level in (levels[min(number, len(levels) - 1)] for number in _LEVELS)
        ]

    hook = backbone.register_forward_hook(receive)
    try:
        yield seen
    finally:
        hook.remove()
