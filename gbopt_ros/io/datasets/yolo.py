"""YOLO's segmentation labels: a text file an image, a polygon a mask.

A line is `0 x0 y0 x1 y1 ...`, in shares of the width and the height. A mask has one polygon: parts
and holes are joined by lines without a width, so that the pixels inside are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.io.limits import MAX_JSON_BYTES
from gbopt_ros.structures import GboptError, Rle

DATA_NAME, LABELS_NAME = "data.yaml", "labels"
_DIGITS = 6  # of a share; a thousandth of a pixel in an image of 1,000


def mask_to_polygon(rle: Rle) -> NDArray[np.float64]:
    """(P, 2) x and y in pixels of a closed polygon with the pixels of a mask inside; P may be 0."""
    # Twice as large, so that an outline runs between the centres of pixels, not through them.
    enlarged = mask_ops.decode(rle).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    outlines, _ = cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    closed = [np.concatenate([outline, outline[:1]])[:, 0] for outline in outlines]
    if not closed:
        return np.zeros((0, 2))
    back = closed[0][:1]
    path = [closed[0], *(points for loop in closed[1:] for points in (loop, back))]
    return (np.concatenate(path) + 0.5) / 2


def format_labels(rles: Sequence[Rle]) -> str:
    """The text of a label file. A mask without pixels has no polygon, and no line."""
    lines = []
    for rle in rles:
        height, width = rle["size"]
        shares = mask_to_polygon(rle) / (width, height)
        if len(shares) == 0:
            continue
        lines.append(" ".join(["0", *(f"{value:.{_DIGITS}f}" for value in shares.ravel())]))
    return "".join(f"{line}\n" for line in lines)


def read_labels(path: Path, size: tuple[int, int]) -> tuple[Rle, ...]:
    """The masks of a label file; classes do not count.

    Args:
        size: (height, width) of the image, pixels.

    Raises:
        GboptError: it cannot be read, or a line is no polygon.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise GboptError(f"{path}: expected at most {MAX_JSON_BYTES} bytes of labels")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GboptError(f"{path}: cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            _, *shares = map(float, line.split())
            if len(shares) < 6:
                raise ValueError(f"expected a class and a polygon, got {len(shares)} coordinates")
            scaled = [share * size[(i + 1) % 2] for i, share in enumerate(shares)]
            found.append(mask_ops.checked_rle([scaled], size))
        except ValueError as error:
            raise GboptError(f"{path}: line {number}: {error}") from error
    return tuple(found)
