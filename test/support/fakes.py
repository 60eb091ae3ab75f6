"""Small stand-ins for the networks, and clips whose right answer is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.structures import Clip, Frame, Image, Proposals


def make_proposals(masks: NDArray[np.bool_], scores: Sequence[float] | None = None) -> Proposals:
    """Proposals of (N, H, W) bool masks; scores fall from 0.9 unless given."""
    n = len(masks)
    values = np.linspace(0.9, 0.1, n) if scores is None else np.asarray(scores)
    rles = mask_ops.encode_all(masks)
    return Proposals(masks.shape[1:], rles, values.astype(np.float32), mask_ops.boxes_xyxy(rles))


def make_clip(images: Sequence[Image], clip_id: int = 0) -> Clip:
    """A clip at 10 Hz."""
    return Clip(clip_id, tuple(Frame(im, 10**8 * (i + 1), i) for i, im in enumerate(images)))


class HashFlow:
    """A flow network whose output depends on every pixel of both images, and counts its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.batches: list[int] = []

    def flow(self, first: Sequence[Image], second: Sequence[Image]) -> NDArray[np.float32]:
        self.runs += len(first)
        self.batches.append(len(first))
        a = np.stack(first).astype(np.float32)
        b = np.stack(second).astype(np.float32)
        total = b.sum(axis=(1, 2, 3)) % 7 / 7
        difference = (b - a) / 64 + total[:, None, None, None]
        return difference[..., :2].astype(np.float32)


class Growing:
    """A flow network that knows how far images lie apart: they hold their number.

    The second quarter of what it sees moves by that many pixels to the right; all of it by two.
    """

    def __init__(self) -> None:
        self.pairs: list[tuple[int, int]] = []

    def flow(self, first: Sequence[Image], second: Sequence[Image]) -> NDArray[np.float32]:
        flows = []
        for a, b in zip(first, second, strict=True):
            self.pairs.append((int(a[0, 0, 0]), int(b[0, 0, 0])))
            flow = np.zeros((*a.shape[:2], 2), np.float32)
            way = int(b[0, 0, 0]) - int(a[0, 0, 0])
            flow += 2.0 * np.sign(way)
            flow[:, a.shape[1] // 4 : a.shape[1] // 2, 0] += way
            flows.append(flow)
        return np.stack(flows)


def numbered(count: int) -> list[Image]:
    return [np.full((48, 64, 3), number, np.uint8) for number in range(count)]
