"""Appearance descriptors of masks: network features, colours inside, and colours around them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import ProposalConfig
from gbopt_ros.models.device import download
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import Image, ProposalNetwork, Rle

if TYPE_CHECKING:
    from gbopt_ros.models.detection import DetectionNetwork

# Chosen on the environments 103 and 104, world 11 and the demo recording, see docs/lab-notebook.md.
_LEVELS = 1, 2  # levels of the feature pyramid: strides 8 and 16
LEVELS = len(_LEVELS)
_BINS = (4, 16, 16)  # of a histogram of L, a and b
COLOURS = int(np.prod(_BINS))
# The context of a mask is the pixels at a distance between two limits. Each is a share of the root
# of the mask's area, and some pixels more.
_CONTEXT_SHARES, _CONTEXT_PIXELS = (0.05, 0.35), (1, 3)


@dataclass(frozen=True)
class Descriptors:
    """Appearance of M masks of an image.

    Attributes:
        inside: (M, `LEVELS` * C + `COLOURS`) float32. Mean features of each pyramid level, then the
            colour histogram.
        context: (M, COLOURS) float32, the colour histogram of the surroundings; all 0 where the
            image shows none.
    """

    inside: NDArray[np.float32]
    context: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.inside)


@dataclass(frozen=True)
class FrameAppearance:
    """Appearance of the selected masks and the proposals of one frame.

    Attributes:
        clip: equal for all frames of a clip.
        masks: descriptors of the M selected masks.
        proposals: descriptors of the network's N proposals; N = 0 in a frame that is no reference.
        agreement: (N,) float32, the best IoU of each proposal with a selected mask.
    """

    clip: Hashable
    masks: Descriptors
    proposals: Descriptors
    agreement: NDArray[np.float32]


class AppearanceExtractor:
    """Describes masks by the features of a proposal network and by colours.

    Args:
        network: Mask R-CNN with a feature pyramid; moved to `device` and put in evaluation mode.
        teacher: the network that proposes; None: `network` does.
    """

    def __init__(
        self,
        network: DetectionNetwork,
        config: ProposalConfig,
        device: torch.device,
        teacher: ProposalNetwork | None = None,
    ) -> None:
        self._network, self._teacher = network, teacher
        # In single precision: features may overflow half precision.
        self._proposer = MaskRcnnProposals(network, "", replace(config, half=False), device)

    def extract(
        self, clip: Hashable, image: Image, rles: Sequence[Rle], with_proposals: bool = True
    ) -> FrameAppearance:
        """Describe the selected masks of a frame and, if asked, its proposals.

        Args:
            image: (H, W, 3) uint8 RGB.
            rles: M selected masks of the image.
        """
        proposed: Sequence[Rle] = ()
        proposes = with_proposals and self._teacher is None
        with _pyramid_of(self._network, ends_there=not proposes) as features:
            proposed = self._proposer.propose([image])[0].rles
        if with_proposals and self._teacher is not None:
            proposed = self._teacher.propose([image])[0].rles
        overlap = mask_ops.iou_matrix(proposed, rles)
        return FrameAppearance(
            clip,
            _describe(image, features, rles),
            _describe(image, features, proposed),
            overlap.max(axis=1, initial=0.0).astype(np.float32),
        )


def _describe(
    image: Image, features: Sequence[NDArray[np.float32]], rles: Sequence[Rle]
) -> Descriptors:
    """Describe masks of an image.

    Args:
        features: (C, h, w) of each level, over the whole image.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    inside = np.empty((len(rles), sum(map(len, features)) + COLOURS), np.float32)
    context = np.empty((len(rles), COLOURS), np.float32)
    for number, mask in enumerate(mask_ops.decode_all(rles, image.shape[:2])):
        area = mask.astype(np.uint8)
        means = [_mean_inside(level, area) for level in features]
        size = np.sqrt(np.count_nonzero(area))
        begin, end = (
            share * size + pixels
            for share, pixels in zip(_CONTEXT_SHARES, _CONTEXT_PIXELS, strict=True)
        )
        near = _window(area, margin=int(end) + 1)
        inside[number] = np.concatenate([*means, _histogram(lab[near], area[near])])
        context[number] = _histogram(lab[near], _ring(area[near], begin, end))
    return Descriptors(inside, context)


def _mean_inside(features: NDArray[np.float32], area: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(C,) mean of features (C, h, w) over a mask; each cell counts by its covered share."""
    # Taken for the middles of their squares, which holds for the bundled EfficientNet. By the
    # paddings of a ResNet, its cells lie half a square before.
    channels, height, width = features.shape
    cover = cv2.resize(area.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    total: NDArray[np.float32] = features.reshape(channels, -1) @ cover.ravel()
    return total / max(float(cover.sum()), 1e-6)


def _histogram(lab: Image, area: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(COLOURS,) roots of a colour histogram; their dot product is the Hellinger kernel."""
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
    """(H, W) 1 where the distance to a mask is above `begin` and up to `end` pixels, else 0."""
    distance = cv2.distanceTransform(1 - area, cv2.DIST_L2, cv2.DIST_MASK_5)
    return ((distance > begin) & (distance <= end)).astype(np.uint8)


class _BackboneDone(Exception):
    """Ends the pass of an image after the backbone."""


@contextmanager
def _pyramid_of(
    network: DetectionNetwork, *, ends_there: bool
) -> Iterator[list[NDArray[np.float32]]]:
    """A list that receives the features (C, h, w) of the next image, level by level.

    Features of the padding are left out.

    Args:
        ends_there: leave the block after the backbone; the heads take as long again, or longer.
    """
    levels: list[NDArray[np.float32]] = []
    sizes: list[tuple[int, int]] = []

    def receive_size(_: nn.Module, __: tuple[Any, ...], resized: Any) -> None:
        # torchvision's transform pads and says the sizes, detectron2's does not pad.
        size = resized.shape[-2:] if isinstance(resized, Tensor) else resized[0].image_sizes[0]
        sizes[:] = [tuple(size)]

    def receive_levels(_: nn.Module, inputs: tuple[Tensor], pyramid: dict[str, Tensor]) -> None:
        outputs = list(pyramid.values())
        levels.clear()
        for number in _LEVELS:
            level = outputs[min(number, len(outputs) - 1)]
            stride = inputs[0].shape[-1] / level.shape[-1]
            height, width = (max(1, round(pixels / stride)) for pixels in sizes[0])
            levels.append(download(level[0, :, :height, :width].float()))
        if ends_there:
            raise _BackboneDone

    hooks = (
        network.transform.register_forward_hook(receive_size),
        network.backbone.register_forward_hook(receive_levels),
    )
    try:
        with suppress(_BackboneDone):
            yield levels
    finally:
        for hook in hooks:
            hook.remove()
