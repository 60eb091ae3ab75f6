"""The decomposition of masks into atoms, without decoding them (Appendix B.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros.masks import encode_runs, runs_that_fill
from gbopt_ros.structures import Rle

T = TypeVar("T", bound=np.generic)

_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, of Fibonacci hashing


@dataclass(frozen=True)
class Atoms:
    """Disjoint sub-masks: all pixels of an atom are covered by exactly the same masks (App. B.1).

    Atoms are stored as runs of consecutive pixels of the flattened image. Pixels that no mask
    covers are in no run.

    Attributes:
        size: (height, width).
        order: "C" if the image is flattened by rows, "F" if by columns, as in COCO's encoding.
        starts, lengths: (R,) int64, pixels.
        labels: (R,) int64, atom of each run.
        membership: (N, A) bool, mask i is the union of the atoms of row i.
        areas: (A,) int64, pixels.
    """

    size: tuple[int, int]
    order: Literal["C", "F"]
    starts: NDArray[np.int64] = field(repr=False)
    lengths: NDArray[np.int64] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    membership: NDArray[np.bool_] = field(repr=False)
    areas: NDArray[np.int64] = field(repr=False)

    def covered(self, image: NDArray[T]) -> NDArray[T]:
        """(P,) values of an (H, W) image at the covered pixels, run after run."""
        offsets = np.cumsum(self.lengths) - self.lengths
        pixels = np.repeat(self.starts - offsets, self.lengths) + np.arange(self.lengths.sum())
        if self.order == "F":  # transposes the few pixels, not the whole image
            height, width = (np.uint32(side) for side in self.size)
            columns = pixels.astype(np.uint32) // height
            pixels = (pixels.astype(np.uint32) - columns * height) * width + columns
        values: NDArray[T] = image.ravel()[pixels]
        return values

    def sums(self, covered: NDArray[np.floating]) -> NDArray[np.float64]:
        """(A,) float64, sum over each atom of the (P,) values that `covered` gave."""
        offsets = np.cumsum(self.lengths) - self.lengths
        runs = np.add.reduceat(covered, offsets, dtype=np.float64) if len(offsets) else covered
        summed = np.zeros(len(self.areas))
        summed += np.bincount(self.labels, weights=runs, minlength=len(summed))
        return summed

    def labels_at(self, size: tuple[int, int]) -> NDArray[np.int32]:
        """(h, w) int32, the atom at each pixel of an image; A where there is none.

        Args:
            size: (h, w), at most that of the masks; each pixel shows the middle of what it covers.
        """
        labels = np.full(2 * len(self.labels) + 1, len(self.areas), np.int32)
        labels[1::2] = self.labels
        edges = np.column_stack([self.starts, self.starts + self.lengths]).ravel()
        if size != self.size:  # paints the pixels that are shown, not the whole image
            edges = np.searchsorted(_pixels_shown(self.size, size, self.order), edges)
        gaps = np.diff(edges, prepend=0, append=size[0] * size[1])
        painted = np.repeat(labels, gaps)
        if self.order == "C":
            return painted.reshape(size)
        return np.asarray(cv2.transpose(painted.reshape(size[::-1])))

    def exclusive(self, order: Sequence[int]) -> tuple[Rle, ...]:
        """COCO run-length encodings of masks of which no two share a pixel.

        Args:
            order: masks; a shared pixel goes to the first of them. Others are left out.

        Returns:
            One for each of `order`; a mask that keeps no pixel is empty.

        Raises:
            ValueError: the image is not flattened by columns.
        """
        if self.order != "F":
            raise ValueError("exclusive: expected atoms of encoded masks, got those of arrays")
        member = self.membership[list(order)]
        owners = np.where(member.any(axis=0), member.argmax(axis=0), len(member))
        runs = self.starts, self.lengths, owners[self.labels]
        return encode_runs(*runs, len(member), self.size)

    def intersections(self) -> NDArray[np.int64]:
        """(N, N) int64, number of pixels that each pair of masks shares; areas on the diagonal."""
        member = self.membership.astype(np.float64)  # whole numbers, far below 2^53
        shared: NDArray[np.int64] = ((member * self.areas) @ member.T).astype(np.int64)
        return shared


@lru_cache(maxsize=4)  # sizes
def _pixels_shown(
    full: tuple[int, int], small: tuple[int, int], order: Literal["C", "F"]
) -> NDArray[np.int64]:
    """The pixels of the flattened image that a smaller one shows, ascending."""
    rows, columns = (
        ((np.arange(after) + 0.5) * (before / after)).astype(np.int64)
        for before, after in zip(full, small, strict=True)
    )
    if order == "C":
        return (rows[:, None] * full[1] + columns).ravel()
    return (columns[:, None] * full[0] + rows).ravel()


def atoms(masks: NDArray[np.bool_]) -> Atoms:
    """Decompose (N, H, W) bool masks into atoms."""
    n, height, width = masks.shape
    stride = height * width + 1
    flat = np.zeros(n * stride + 1, bool)  # a False before each mask and one after the last
    flat[:-1].reshape(n, stride)[:, 1:] = masks.reshape(n, stride - 1)
    owners, boundaries = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), stride)
    return _sweep(owners, boundaries, n, (height, width), "C")


def atoms_of_rles(rles: Sequence[Rle], size: tuple[int, int]) -> Atoms:
    """Decompose encoded masks into atoms without decoding them.

    Raises:
        ValueError: counts are no run-length encoding of a mask of this size.
    """
    n, area = len(rles), size[0] * size[1]
    runs, sizes = runs_that_fill(rles, size)
    owners = np.repeat(np.arange(n), sizes)
    position = np.arange(len(runs)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    boundaries = np.cumsum(runs) - owners * area
    paired = position < np.repeat(sizes // 2 * 2, sizes)  # a foreground run has two boundaries
    return _sweep(owners[paired], boundaries[paired], n, size, "F")


def _sweep(
    owners: NDArray[np.int64],
    boundaries: NDArray[np.int64],
    n: int,
    size: tuple[int, int],
    order: Literal["C", "F"],
) -> Atoms:
    """Atoms from the pixels at which each mask begins or ends.

    Each run between two boundaries has a code with one bit for each mask. Crossing a boundary flips
    the bit of its mask. Runs with the same code are one atom.
    """
    ascending = np.argsort(boundaries, kind="stable")
    positions, owners = boundaries[ascending], owners[ascending]
    flips = np.zeros((len(positions), max(1, -(-n // 64))), np.uint64)
    bits = np.uint64(1) << (owners % 64).astype(np.uint64)
    flips[np.arange(len(positions)), owners // 64] = bits
    codes = np.bitwise_xor.accumulate(flips, axis=0)
    last = np.append(positions[1:] != positions[:-1], True)[: len(positions)]
    positions, codes = positions[last], codes[last]
    covered = np.flatnonzero(codes.any(axis=1))  # never the last position: all masks end there
    starts = positions[covered]
    lengths = positions[covered + 1] - starts
    of_atom, labels = _distinct_rows(codes[covered])  # (A, words)
    membership = np.zeros((n, len(of_atom)), bool)
    for i in range(n):
        membership[i] = of_atom[:, i // 64] >> np.uint64(i % 64) & np.uint64(1)
    areas = np.zeros(len(of_atom), np.int64)
    np.add.at(areas, labels, lengths)
    return Atoms(size, order, starts, lengths, labels, membership, areas)


def _distinct_rows(
    codes: NDArray[np.uint64],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The distinct rows of (R, words), and the (R,) number of each row among them."""
    # A sum that wraps around differs for different rows, but for about one pair in 2^64: sorting
    # it is ten times faster than sorting rows.
    factors = _ODD ** np.arange(1, codes.shape[1] + 1, dtype=np.uint64)
    for keys in (codes @ factors, _sortable(codes)):
        _, first, labels = np.unique(keys, return_index=True, return_inverse=True)
        if np.array_equal(codes[first][labels], codes):
            break
    return codes[first], labels


def _sortable(codes: NDArray[np.uint64]) -> NDArray[np.generic]:
    """(R,) one value a row of (R, words)."""
    rows = np.ascontiguousarray(codes)
    return rows.view([("", rows.dtype)] * rows.shape[1])[:, 0]
