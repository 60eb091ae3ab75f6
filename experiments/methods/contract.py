"""What every method of comparison gets and gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.models.detection import DetectionNetwork
from gbopt_ros.structures import BackgroundNetwork, Clip, FlowNetwork, Image, Proposals, Rle


@dataclass(frozen=True)
class Inputs:
    """A clip of T frames with what the networks say of it.

    Attributes:
        clip: T frames, RGB.
        proposals: of each frame, best score first, from score threshold 0.
        flow_network: optical flow.
        background_network: background probabilities.
        network: the Mask R-CNN that the proposals are from; its heads and features.
        truth: instances of the first frame, for methods that are given them ("one-shot").
        recording: name of the recording that the clip is of, for methods that read files.
    """

    clip: Clip
    proposals: tuple[Proposals, ...]
    flow_network: FlowNetwork = field(repr=False)
    background_network: BackgroundNetwork = field(repr=False)
    network: DetectionNetwork = field(repr=False)
    truth: tuple[Rle, ...] = ()
    recording: str = ""

    @property
    def images(self) -> list[Image]:
        """T arrays (H, W, 3) uint8, RGB."""
        return [frame.image for frame in self.clip.frames]

    @property
    def backward_flows(self) -> NDArray[np.float32]:
        """(T - 1, H, W, 2) pixels (x, y), from each frame but the first to the one before."""
        if len(self.clip) < 2:
            return np.zeros((0, *self.clip.size, 2), np.float32)
        return self.flow_network.flow(self.images[1:], self.images[:-1])


class Method(Protocol):
    """A way to choose or to make the masks of a clip.

    Attributes:
        label: what a table calls it, with the features or networks it uses where they differ from
            those of its paper.

    One whose masks depend on more than its inputs and its code has an attribute `digest` as well:
    a hash of that, so that results are not kept for longer than they hold.
    """

    @property
    def label(self) -> str: ...

    def masks(self, inputs: Inputs) -> list[Proposals]:
        """T times the masks of a frame with scores, best first, no two sharing a pixel."""
        ...


def without_overlap(masks: NDArray[np.bool_], scores: NDArray[np.floating]) -> Proposals:
    """Masks of a frame, best score first, each shared pixel given to the best; empty ones go.

    Args:
        masks: (N, H, W).
        scores: (N,).
    """
    size = (masks.shape[1], masks.shape[2])
    order = np.argsort(-scores, kind="stable")
    exclusive = mask_ops.make_exclusive(masks[order], scores[order])
    visible = exclusive.any(axis=(1, 2))
    rles = mask_ops.encode_all(exclusive[visible])
    return Proposals(
        size, rles, scores[order][visible].astype(np.float32), mask_ops.boxes_xyxy(rles)
    )
