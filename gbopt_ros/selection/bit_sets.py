"""Sets of small numbers as the bits of an integer: one operation for a whole set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = 2**64 - 1


def bits(bit_set: int) -> Iterator[int]:
    """The members of a bit set, ascending."""
    start = 0
    while bit_set:
        word = bit_set & _WORD  # operations on whole sets of thousands would be slow
        while word:
            low = word & -word
            yield start + low.bit_length() - 1
            word ^= low
        bit_set >>= 64
        start += 64


def bit_sets(rows: NDArray[np.bool_]) -> list[int]:
    """Each row of (R, n) bool as a bit set."""
    packed = np.packbits(rows, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def as_rows(bit_sets: Sequence[int], n: int) -> NDArray[np.bool_]:
    """(R, n) bool; the inverse of `bit_sets`."""
    size = max(1, -(-n // 8))  # bytes
    packed = np.frombuffer(b"".join(b.to_bytes(size, "little") for b in bit_sets), np.uint8)
    rows = np.unpackbits(packed.reshape(-1, size), axis=1, count=n, bitorder="little")
    return rows.astype(bool)
