"""UVC: Li et al., "Joint-task Self-supervised Learning for Temporal Correspondence" (NeurIPS 2019).

Masks of the first frame of a clip are carried through it by correspondence of features. Zero-shot
(ZS), the first masks are the proposals with a score above 0.1; one-shot (OS), the ground truth of
the first frame (Du et al., Secs. 4.2.1, 4.2.2 and App. D.2.3).

Constants are those of the authors' public code (`test.py`, `libs/test_utils.py`):

- Labels come from the first frame and the 7 frames before (`pre_num 7`): from each of them, a
  position takes the labels of the 5 positions with the highest affinity (`topk 5`). Affinity is a
  softmax over all positions of the earlier frame. The frames count alike.
- Each label's map is scaled to [0, 1] in every frame, and a pixel goes to the highest one, the
  background being a label too (`norm_mask`).

Where we depart:

- UVC's network is learnt on Kinetics without labels. Here a callable gives the features, by default
  the finest level of our Mask R-CNN's pyramid, at stride 4 of its input. Their dot products have no
  scale of their own, so features have length 1 and the softmax the temperature 0.07 of Jabri et
  al., "Space-Time Correspondence as a Contrastive Random Walk" (NeurIPS 2020).
- Weights of the 5 positions sum to 1; in the code, what they lack to the softmax is lost.
- A mask has the score of the first mask that it comes from, 1 where that is ground truth. Pixels
  that first masks share belong to the best.
- Labels start at the area that a mask covers of a position, in place of the nearest pixel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from experiments.methods.contract import Inputs, without_overlap
from experiments.methods.features import pyramid_of
from gbopt_ros import masks as mask_ops
from gbopt_ros.models.detection import DetectionNetwork
from gbopt_ros.models.device import download
from gbopt_ros.structures import Image, Proposals

MIN_SCORE = 0.1
PREVIOUS = 7  # frames
TOP = 5  # positions
TEMPERATURE = 0.07
_CHUNK = 2048  # positions whose affinities are in memory at once

Features = Callable[[DetectionNetwork, Image], Tensor]
"""(C, h, w) features of an image; any number of channels and cells."""


def finest_level(network: DetectionNetwork, image: Image) -> Tensor:
    """The finest level of the network's pyramid."""
    return pyramid_of(network, image).finest


@dataclass(frozen=True)
class Uvc:
    """Propagation of the masks of the first frame.

    Args:
        one_shot: start from the ground truth in place of the proposals.
        features: what correspondence is found by.
        name: of the features, for the label.
    """

    one_shot: bool = False
    features: Features = finest_level
    name: str = "the network's finest pyramid level"

    @property
    def label(self) -> str:
        """What a table calls it."""
        return f"{'OS' if self.one_shot else 'ZS'}-UVC (features: {self.name})"

    def masks(self, inputs: Inputs) -> list[Proposals]:
        """T times the masks; raises GboptError as `features.require_torchvision`, by default."""
        first = self._first(inputs)
        if len(first) == 0:
            return [first] * len(inputs.clip)
        return [first, *self._propagated(inputs, first)]

    def _first(self, inputs: Inputs) -> Proposals:
        size = inputs.clip.size
        if self.one_shot:
            return without_overlap(
                mask_ops.decode_all(inputs.truth, size), np.ones(len(inputs.truth))
            )
        found = inputs.proposals[0]
        masks = mask_ops.decode_all(found.rles, size)
        sure = found.scores > MIN_SCORE
        return without_overlap(masks[sure], found.scores[sure])

    @torch.inference_mode()
    def _propagated(self, inputs: Inputs, first: Proposals) -> list[Proposals]:
        size = inputs.clip.size
        images = iter(inputs.images)
        features = self._unit(inputs.network, next(images))
        labels = to_cells(mask_ops.decode_all(first.rles, size), features)
        origin = (features, labels)
        previous: deque[tuple[Tensor, Tensor]] = deque(maxlen=PREVIOUS)
        found = []
        for image in images:
            features = self._unit(inputs.network, image)
            sources = [origin, *previous]
            labels = torch.stack([carry(*source, features) for source in sources]).mean(dim=0)
            previous.append((features, labels))
            found.append(without_overlap(to_masks(labels, size), first.scores))
        return found

    def _unit(self, network: DetectionNetwork, image: Image) -> Tensor:
        return functional.normalize(self.features(network, image).float(), dim=0)


def to_cells(masks: NDArray[np.bool_], features: Tensor) -> Tensor:
    """(1 + N, h, w) the shares of each cell of (C, h, w) features: background, N masks (H, W)."""
    covered = torch.from_numpy(masks.astype(np.float32)).to(features.device)
    shares = functional.interpolate(covered[None], features.shape[1:], mode="area")[0]
    return torch.cat([1 - shares.sum(dim=0, keepdim=True), shares])


def carry(source: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """(L, h, w) the labels of a frame as they correspond to another one.

    Args:
        source: (C, h, w) features of the labelled frame, of length 1.
        labels: (L, h, w).
        target: (C, h, w) features of the other frame, of length 1.
    """
    known, values = source.flatten(1), labels.flatten(1)  # (C, P), (L, P)
    carried = []
    for cells in target.flatten(1).T.split(_CHUNK):
        affinity, nearest = (cells @ known).topk(min(TOP, known.shape[1]), dim=1)  # (p, TOP)
        weights = functional.softmax(affinity / TEMPERATURE, dim=1)
        carried.append((values[:, nearest] * weights).sum(dim=2))  # (L, p)
    return torch.cat(carried, dim=1).reshape(len(labels), *target.shape[1:])


def to_masks(labels: Tensor, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(N, H, W) the pixels whose highest label is each mask; labels are (1 + N, h, w)."""
    maps = functional.interpolate(labels[None], size, mode="bilinear", align_corners=False)[0]
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    scaled = torch.where(high > 0, (maps - low) / (high - low).clamp(min=1e-12), maps)
    highest = download(scaled.argmax(dim=0))
    return highest[None] == np.arange(1, len(labels))[:, None, None]
