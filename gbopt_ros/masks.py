"""Operations on masks: run-length encoding, boxes, overlaps.

Only this module calls pycocotools' masks, which crash or take all memory on values that no image
has. Masks from a file or a message come in through `checked_rle` or `check_rles`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from gbopt_ros.structures import BoolMask, Rle

_MAX_PIXELS = 1 << 30  # of a mask; its lengths and areas are then far below 2^32
_MAX_COORDINATE = 1e6  # pixels
_MAX_OUTLINE = 1 << 22  # pixels; pycocotools keeps 5 points of each in memory
_AREAS_AT_ONCE = 255  # under NumPy 2, pycocotools fails on the areas of more masks


def encode(mask: BoolMask) -> Rle:
    """COCO run-length encoding of an (H, W) bool mask."""
    return encode_all(mask[None])[0]


def encode_all(masks: NDArray[np.bool_]) -> tuple[Rle, ...]:
    """COCO run-length encodings of (N, H, W) bool masks."""
    if len(masks) == 0:
        return ()
    n, height, width = masks.shape
    columns_first = np.empty((n, width, height), np.uint8)
    for column_major, mask in zip(columns_first, masks, strict=True):
        cv2.transpose(np.ascontiguousarray(mask, np.uint8), column_major)  # far faster than NumPy
    return tuple(_rle(encoded) for encoded in coco_mask.encode(columns_first.transpose(2, 1, 0)))


def encode_labels(labels: NDArray[np.integer], n: int) -> tuple[Rle, ...]:
    """COCO run-length encodings of n masks that share no pixel.

    Args:
        labels: (H, W), i + 1 where mask i is, else 0.
    """
    height, width = labels.shape
    flat = np.asarray(cv2.transpose(labels.astype(np.int32))).ravel()
    starts = np.flatnonzero(np.append(True, flat[1:] != flat[:-1])[: len(flat)])
    lengths = np.diff(starts, append=len(flat))
    return encode_runs(starts, lengths, flat[starts].astype(np.int64) - 1, n, (height, width))


def encode_runs(
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    owners: NDArray[np.int64],
    n: int,
    size: tuple[int, int],
) -> tuple[Rle, ...]:
    """COCO run-length encodings of n masks, from runs of the image flattened column by column.

    Args:
        starts, lengths: (R,) pixels; the runs are in order and do not overlap.
        owners: (R,) the mask of each run; runs with other numbers than 0 to n - 1 are of none.
        size: (height, width).
    """
    encoded: list[dict[str, list[int]]] = []
    for mask in range(n):
        mine = np.flatnonzero(owners == mask)
        edges = np.zeros(2 * len(mine) + 2, np.int64)
        edges[1:-1:2] = starts[mine]
        edges[2:-1:2] = edges[1:-1:2] + lengths[mine]
        edges[-1] = size[0] * size[1]
        apart = edges[2:-2:2] != edges[3:-1:2]
        if not apart.all():  # runs that touch are one
            edges = edges[np.concatenate([[True, True], np.repeat(apart, 2), [True, True]])]
        runs = (edges[1:] - edges[:-1]).tolist()
        encoded.append({"size": [*size], "counts": runs if runs[-1] else runs[:-1]})
    return tuple(map(_rle, coco_mask.frPyObjects(encoded, *size))) if encoded else ()


def _rle(encoded: Any) -> Rle:
    return Rle(size=[int(v) for v in encoded["size"]], counts=encoded["counts"].decode("ascii"))


def checked_rle(segmentation: Any, size: tuple[int, int]) -> Rle:
    """A `segmentation` of a COCO or YouTube-VIS file as a compressed RLE.

    Args:
        segmentation: what JSON gave: polygons, or run lengths, uncompressed (a list) or compressed
            (text). Polygons of fewer than three points enclose nothing and are left out.
        size: (height, width) of the image, pixels.

    Raises:
        ValueError: malformed, of another size, run lengths that do not fill the size, or polygons
            that reach far beyond any image; the message says which.
    """
    if isinstance(segmentation, list):
        check_size(size)
        polygons = [polygon for polygon in map(_polygon, segmentation) if len(polygon) >= 6]
        if not polygons:
            raise ValueError("expected a polygon of three points or more")
        return _rle(coco_mask.merge(coco_mask.frPyObjects(polygons, *size)))
    if not isinstance(segmentation, dict):
        kind = type(segmentation).__name__
        raise ValueError(f"expected polygons, or run lengths with size and counts, got {kind}")
    if segmentation.get("size") != list(size):
        raise ValueError(f"size {segmentation.get('size')}, expected {list(size)} (height, width)")
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        check_size(size)
        if not all(type(n) is int and n >= 0 for n in counts) or sum(counts) != math.prod(size):
            raise ValueError(f"run lengths of a mask do not fill {list(size)}")
        return _rle(coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size))
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    if not isinstance(counts, str):
        raise ValueError(f"expected counts as text or a list, got {type(counts).__name__}")
    rle = Rle(size=list(size), counts=counts)
    check_rles([rle], size)
    return rle


def _polygon(points: Any) -> list[float]:
    """The numbers x0, y0, x1, y1 ... of a polygon. Raises ValueError."""
    numbers = isinstance(points, list) and all(type(v) in (int, float) for v in points)
    if not numbers or len(points) % 2:
        raise ValueError("expected each polygon as a list x0, y0, x1, y1 ... of numbers")
    if not all(abs(v) <= _MAX_COORDINATE for v in points):  # NaN neither
        raise ValueError(f"a polygon reaches beyond {_MAX_COORDINATE:.0f} pixels")
    corners = [*zip(points[::2], points[1::2], strict=True)]
    closed = corners + corners[:1]
    outline = sum(max(abs(a - c), abs(b - d)) for (a, b), (c, d) in pairwise(closed))
    if outline > _MAX_OUTLINE:
        raise ValueError(f"a polygon's outline is longer than {_MAX_OUTLINE} pixels")
    return [float(v) for v in points]


def check_rles(rles: Sequence[Rle], size: tuple[int, int]) -> None:
    """Raise ValueError unless all masks are of this size, (height, width), and fill it.

    If the runs of a mask do not fill its size exactly, pycocotools reads beyond its buffers or
    never returns. The message names the first bad mask.
    """
    for number, rle in enumerate(rles):
        if list(rle["size"]) != list(size):
            raise ValueError(
                f"mask {number}: size {list(rle['size'])}, expected {list(size)} (height, width)"
            )
    runs_that_fill(rles, size)


def is_consistent(rle: Rle) -> bool:
    """Whether a mask fills its own size, see `check_rles`."""
    try:
        check_rles([rle], (rle["size"][0], rle["size"][1]))
    except ValueError:
        return False
    return True


def check_size(size: tuple[int, int]) -> None:
    """Raise ValueError unless (height, width) is the size of an image that fits in memory."""
    whole = all(isinstance(side, int) and side > 0 for side in size)
    if not whole or math.prod(size) > _MAX_PIXELS:
        raise ValueError(
            f"size {list(size)}: expected a height and a width of 1 or more and at most "
            f"{_MAX_PIXELS} pixels in all"
        )


def runs_that_fill(
    rles: Sequence[Rle], size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lengths of the runs of N masks of one size, column by column, background first.

    Returns:
        (R,) the runs, mask after mask, and (N,) the number of runs of each mask.

    Raises:
        ValueError: a mask does not fill the size; the message names the first.
    """
    check_size(size)
    runs, sizes = _run_lengths([rle["counts"] for rle in rles])
    starts = np.cumsum(sizes) - sizes
    wrong = np.add.reduceat(runs, starts) != math.prod(size)
    wrong |= np.minimum.reduceat(runs, starts) < 0
    if wrong.any():
        raise ValueError(f"mask {int(wrong.argmax())}: run lengths do not fill {list(size)}")
    return runs, sizes


def _run_lengths(counts: Sequence[str | bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The runs of the compressed COCO counts of N masks, decoded in one pass.

    A character holds 5 bits of a number, low bits first. 0x20 marks that more follow, and 0x10 of
    the last character is the sign. From the fourth run on, a number is the difference to the run
    before the last.

    Returns:
        (R,) the runs, mask after mask, and (N,) the number of runs of each mask.

    Raises:
        ValueError: counts are no such encoding; the message names the first bad mask.
    """
    n = len(counts)
    texts = [c if isinstance(c, bytes) else c.encode("utf-8", "surrogatepass") for c in counts]
    lengths = np.array([len(text) for text in texts], np.int64)
    codes = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    owners = np.repeat(np.arange(n), lengths)
    more = (codes & 0x20) != 0
    last = np.flatnonzero(~more)
    first = np.concatenate([[0], last + 1])[: len(last)]
    digits = last - first + 1
    bad = lengths == 0
    bad[owners[(codes < 0) | (codes > 63)]] = True
    bad[owners[last[digits > 7]]] = True  # no run of any image needs more
    bad[lengths > 0] |= more[np.cumsum(lengths)[lengths > 0] - 1]
    if bad.any():
        raise ValueError(f"mask {int(bad.argmax())}: counts are no run lengths")
    if n == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    place = np.arange(len(codes)) - np.repeat(first, digits)
    values = np.add.reduceat((codes & 0x1F) << (5 * place), first)
    values = np.where(codes[last] & 0x10, values - (1 << (5 * digits)), values)
    sizes = np.bincount(owners[last], minlength=n)
    starts = np.cumsum(sizes) - sizes
    position = np.arange(len(values)) - np.repeat(starts, sizes)
    runs: NDArray[np.int64] = values.copy()
    for parity in (0, 1):  # sums over every second run of a mask, without the first run
        chained = (position > 0) & (position % 2 == parity)
        steps = np.where(chained, values, 0)
        sums = np.cumsum(steps)
        before = np.repeat((sums - steps)[starts], sizes)
        runs[chained] = (sums - before)[chained]
    return runs, sizes


def decode(rle: Rle) -> BoolMask:
    """(H, W) bool."""
    mask: BoolMask = np.asarray(cv2.transpose(coco_mask.decode(rle).T)).view(bool)
    return mask


def decode_all(rles: Sequence[Rle], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(N, H, W) bool; `size` is (height, width) and gives the shape where N is 0."""
    masks = np.zeros((len(rles), *size), dtype=bool)
    for mask, rle in zip(masks, rles, strict=True):
        mask[:] = decode(rle)
    return masks


def decode_crops(rles: Sequence[Rle], boxes: NDArray[np.floating]) -> list[BoolMask]:
    """Parts of masks of one size, in a fraction of the time of `decode`.

    Args:
        boxes: (N, 4) xyxy in whole pixels, right and bottom exclusive, within the image.

    Returns:
        N arrays (h, w) bool, contiguous: what is in the box of each mask.
    """
    if not rles:
        return []
    height, width = rles[0]["size"]
    runs, sizes = runs_that_fill(rles, (height, width))
    crops = []
    for of_mask, box in zip(np.split(runs, np.cumsum(sizes)[:-1]), boxes.astype(int), strict=True):
        x0, y0, x1, y1 = box
        ends = np.clip(np.cumsum(of_mask), x0 * height, x1 * height)
        lengths = np.diff(ends, prepend=x0 * height)
        columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(x1 - x0, height)
        crops.append(np.ascontiguousarray(columns[:, y0:y1].T))
    return crops


def areas(rles: Sequence[Rle]) -> NDArray[np.int64]:
    """(N,) int64, pixels."""
    if not rles:
        return np.zeros(0, np.int64)
    starts = range(0, len(rles), _AREAS_AT_ONCE)
    parts = [coco_mask.area(list(rles[i : i + _AREAS_AT_ONCE])) for i in starts]
    return np.concatenate(parts).astype(np.int64)


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


def inside_matrix(masks: Sequence[Rle], regions: Sequence[Rle]) -> NDArray[np.float64]:
    """(len(masks), len(regions)) float64, the share of every mask that is inside of every region.

    It is the overlap of a detection with a crowd in COCO's evaluation.
    """
    if not masks or not regions:
        return np.zeros((len(masks), len(regions)))
    return np.asarray(coco_mask.iou(list(masks), list(regions), [1] * len(regions)), np.float64)


def overlap_matrix(first: Sequence[Rle], second: Sequence[Rle]) -> NDArray[np.float64]:
    """(len(first), len(second)) float64, intersection over the smaller mask of every pair."""
    overlap: NDArray[np.float64] = np.maximum(
        inside_matrix(first, second), inside_matrix(second, first).T
    )
    return overlap


def union(rles: Sequence[Rle], size: tuple[int, int]) -> Rle:
    """The union of masks."""
    if not rles:
        return encode(np.zeros(size, bool))
    return _rle(coco_mask.merge(list(rles)))


def make_exclusive(masks: NDArray[np.bool_], scores: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Give each shared pixel of (N, H, W) masks to the mask with the highest score.

    With equal scores the lower index wins. Returns (N, H, W) bool, no two share a pixel.
    """
    exclusive: NDArray[np.bool_] = masks.copy()
    taken = np.zeros(masks.shape[1:], bool)
    for i in np.argsort(-np.asarray(scores), kind="stable"):
        exclusive[i] &= ~taken
        taken |= masks[i]
    return exclusive
