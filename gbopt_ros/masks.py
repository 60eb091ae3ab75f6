"""Pure operations on masks: run-length encoding, boxes, and the decomposition into atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from gbopt_ros.structures import BoolMask, Rle


def encode(mask: BoolMask) -> Rle:
    """COCO run-length encoding of an (H, W) bool mask."""
    return encode_all(mask[None])[0]


def encode_all(masks: NDArray[np.bool_]) -> tuple[Rle, ...]:
    """COCO run-length encodings of (N, H, W) bool masks."""
    if len(masks) == 0:
        return ()
    columns_first = np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8)  # (H, W, N)
    return tuple(
        Rle(size=[int(v) for v in rle["size"]], counts=rle["counts"].decode("ascii"))
        for rle in coco_mask.encode(columns_first)
    )


def is_consistent(rle: Rle) -> bool:
    """Whether the runs of a mask fill exactly its size.

    Where they do not, pycocotools reads beyond its buffers or never returns.
    """
    runs = _run_lengths(rle["counts"])
    area = int(rle["size"][0]) * int(rle["size"][1])
    return runs is not None and bool(np.all(runs >= 0)) and int(runs.sum()) == area


def _run_lengths(counts: str | bytes) -> NDArray[np.int64] | None:
    """The runs of compressed COCO counts, None where the text is none.

    Each character carries 5 bits, low bits first, 0x20 marks that more follow and 0x10 of the
    last one is the sign; from the fourth run on, the difference to the run before the last.
    """
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else counts
        codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        return None
    last = np.flatnonzero((codes & 0x20) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    digits = last - first + 1
    if digits.max() > 7:  # no run of any image needs more
        return None
    place = np.arange(len(codes)) - np.repeat(first, digits)
    values = np.add.reduceat((codes & 0x1F) << (5 * place), first)
    values = np.where(codes[last] & 0x10, values - (1 << (5 * digits)), values)
    runs: NDArray[np.int64] = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs


def decode(rle: Rle) -> BoolMask:
    """(H, W) bool."""
    return np.asarray(coco_mask.decode(rle), dtype=bool)


def decode_all(rles: Sequence[Rle], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(N, H, W) bool; `size` is (height, width) and gives the shape where N is 0."""
    masks = np.zeros((len(rles), *size), dtype=bool)
    for mask, rle in zip(masks, rles, strict=True):
        mask[:] = decode(rle)
    return masks


def areas(rles: Sequence[Rle]) -> NDArray[np.int64]:
    """(N,) int64, pixels."""
    if not rles:
        return np.zeros(0, np.int64)
    return np.asarray(coco_mask.area(list(rles)), dtype=np.int64)


def boxes_xyxy(rles: Sequence[Rle]) -> NDArray[np.float32]:
    """(N, 4) float32, xyxy pixels, tight around each mask, right and bottom exclusive."""
    if not rles:
        return np.zeros((0, 4), np.float32)
    boxes = np.asarray(coco_mask.toBbox(list(rles)), dtype=np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def iou_matrix(first: Sequence[Rle], second: Sequence[Rle]) -> NDArray[np.float64]:
    """(len(first), len(second)) float64, intersection over union of every pair."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.asarray(coco_mask.iou(list(first), list(second), [0] * len(second)), np.float64)


@dataclass(frozen=True)
class Atoms:
    """Disjoint sub-masks: all pixels of an atom are covered by exactly the same masks (App. B.1).

    Attributes:
        labels: (H, W) int32, atom of each pixel, -1 where no mask covers it.
        membership: (N, A) bool, mask i is the union of the atoms of row i.
        areas: (A,) int64, pixels.
    """

    labels: NDArray[np.int32]
    membership: NDArray[np.bool_]
    areas: NDArray[np.int64]

    def sums(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """(A,) float64, the sum of the (H, W) `values` over each atom."""
        covered = self.labels >= 0
        labels, weights = self.labels[covered], values[covered].astype(np.float64)
        summed = np.zeros(len(self.areas))
        summed += np.bincount(labels, weights=weights, minlength=len(summed))
        return summed

    def intersections(self) -> NDArray[np.int64]:
        """(N, N) int64, pixels that each pair of masks shares; areas on the diagonal."""
        member = self.membership.astype(np.int64)
        shared: NDArray[np.int64] = (member * self.areas) @ member.T
        return shared


def atoms(masks: NDArray[np.bool_]) -> Atoms:
    """Decompose (N, H, W) bool masks into atoms.

    Masks are added one at a time; each splits the atoms that it cuts. The work is proportional
    to the masks' areas, whatever the size of the image.
    """
    n = len(masks)
    labels = np.zeros(masks.shape[1:], np.int32)  # 0: covered by no mask
    flat = labels.reshape(-1)
    parents: list[tuple[int, int]] = [(0, -1)]  # atom -> (atom it was split from, mask that split)
    for i in range(n):
        pixels = np.flatnonzero(masks[i])
        old = flat[pixels]
        touched = np.flatnonzero(np.bincount(old, minlength=len(parents)))
        renamed = np.zeros(len(parents), np.int32)
        renamed[touched] = len(parents) + np.arange(len(touched))
        parents.extend((int(parent), i) for parent in touched)
        flat[pixels] = renamed[old]

    membership = np.zeros((len(parents), n), bool)
    for atom, (parent, mask) in enumerate(parents[1:], start=1):
        membership[atom] = membership[parent]
        membership[atom, mask] = True
    counts = np.bincount(flat, minlength=len(parents))
    counts[0] = 0
    alive = np.flatnonzero(counts)
    compact = np.full(len(parents), -1, np.int32)
    compact[alive] = np.arange(len(alive))
    return Atoms(compact[labels], membership[alive].T.copy(), counts[alive].astype(np.int64))


def make_exclusive(masks: NDArray[np.bool_], scores: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Give each shared pixel of (N, H, W) masks to the mask with the highest score.

    Equal scores: the lower index wins. Returns (N, H, W) bool, no two of which share a pixel.
    """
    exclusive: NDArray[np.bool_] = masks.copy()
    taken = np.zeros(masks.shape[1:], bool)
    for i in np.lexsort((np.arange(len(masks)), -np.asarray(scores))):
        exclusive[i] &= ~taken
        taken |= masks[i]
    return exclusive
