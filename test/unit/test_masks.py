"""Mask operations by hand, on random masks, and on what is no mask."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from gbopt_ros.masks import (
    areas,
    boxes_xyxy,
    check_rles,
    checked_rle,
    decode,
    decode_all,
    decode_crops,
    encode,
    encode_all,
    encode_labels,
    iou_matrix,
    make_exclusive,
    overlap_matrix,
    union,
)
from gbopt_ros.structures import Rle

mask_stacks = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7).flatmap(
    lambda shape: arrays(bool, shape)
)


def rectangle(top: int, left: int, bottom: int, right: int, size: int = 4) -> np.ndarray:
    """(size, size) bool, bottom and right exclusive."""
    mask = np.zeros((size, size), bool)
    mask[top:bottom, left:right] = True
    return mask


# --------------------------------------------------------------------------------- RLE and boxes


def test_encode_gives_the_rle_of_coco() -> None:
    rle = encode(rectangle(1, 2, 3, 4))
    # Column by column 9 pixels off, 2 on, 2 off, 2 on, 1 off; from the fourth run on, what is
    # written is the difference to the run before the last: 9 2 2 0 -1.
    assert rle == {"size": [4, 4], "counts": "9220O"}
    np.testing.assert_array_equal(decode(rle), rectangle(1, 2, 3, 4))


@given(mask_stacks, st.data())
def test_decode_crops_gives_parts_of_decoded_masks(masks: np.ndarray, data: st.DataObject) -> None:
    n, height, width = masks.shape
    sides = [
        (sorted(data.draw(st.tuples(st.integers(0, side), st.integers(0, side)))))
        for _ in range(n)
        for side in (width, height)
    ]
    boxes = np.array([(*low_high,) for low_high in sides]).reshape(n, 2, 2).transpose(0, 2, 1)
    boxes = boxes.reshape(n, 4)
    crops = decode_crops(encode_all(masks), boxes)
    for mask, (x0, y0, x1, y1), crop in zip(masks, boxes, crops, strict=True):
        assert crop.flags.c_contiguous
        np.testing.assert_array_equal(crop, mask[y0:y1, x0:x1])
    assert decode_crops((), np.zeros((0, 4))) == []


@given(mask_stacks)
@settings(max_examples=60, deadline=None)
def test_encode_all_and_decode_all_round_trip(masks: np.ndarray) -> None:
    rles = encode_all(masks)
    assert all(rle["size"] == list(masks.shape[1:]) for rle in rles)
    assert all(isinstance(rle["counts"], str) for rle in rles)
    decoded = decode_all(rles, masks.shape[1:])
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, masks)
    np.testing.assert_array_equal(areas(rles), masks.sum(axis=(1, 2)))


def test_encode_all_takes_masks_that_are_not_contiguous() -> None:
    masks = np.random.default_rng(0).random((3, 8, 10)) < 0.5
    view = masks[:, ::2, ::-1]
    np.testing.assert_array_equal(decode_all(encode_all(view), (4, 10)), view)


@given(
    array_shapes(min_dims=2, max_dims=2, max_side=7).flatmap(
        lambda size: arrays(int, size, elements=st.integers(0, 3))
    )
)
@settings(max_examples=60, deadline=None)
def test_encode_labels_encodes_each_label_as_a_mask_of_its_own(labels: np.ndarray) -> None:
    masks = np.stack([labels == number for number in (1, 2, 3)])
    assert encode_labels(labels, 3) == encode_all(masks)


def test_encode_labels_beyond_the_numbers_of_16_bits() -> None:
    n = 33_000
    np.testing.assert_array_equal(areas(encode_labels(np.arange(1, n + 1)[None], n)), np.ones(n))


def test_boxes_xyxy_exclude_the_right_and_bottom_edge() -> None:
    masks = np.stack([rectangle(1, 2, 3, 4), rectangle(0, 0, 1, 1), rectangle(0, 0, 4, 4)])
    boxes = boxes_xyxy(encode_all(masks))
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes, [[2, 1, 4, 3], [0, 0, 1, 1], [0, 0, 4, 4]])


def test_boxes_xyxy_of_a_mask_without_pixels_are_empty() -> None:
    (box,) = boxes_xyxy(encode_all(np.zeros((1, 4, 6), bool)))
    assert (box[2] - box[0]) * (box[3] - box[1]) == 0


def test_iou_matrix_of_every_pair() -> None:
    first = encode_all(np.stack([rectangle(0, 0, 2, 2), rectangle(0, 0, 4, 4)]))
    second = encode_all(
        np.stack([rectangle(0, 0, 2, 2), rectangle(0, 1, 2, 3), rectangle(2, 2, 4, 4)])
    )
    np.testing.assert_allclose(iou_matrix(first, second), [[1, 1 / 3, 0], [1 / 4, 1 / 4, 1 / 4]])


def test_overlap_matrix_divides_by_the_smaller_mask() -> None:
    """On either side of a pair."""
    first = encode_all(np.stack([rectangle(0, 0, 2, 2), rectangle(0, 0, 4, 4)]))
    second = encode_all(np.stack([rectangle(0, 1, 4, 3), rectangle(0, 0, 1, 1)]))
    np.testing.assert_allclose(overlap_matrix(first, second), [[2 / 4, 1], [1, 1]])


def test_mask_operations_on_no_masks() -> None:
    some = encode_all(rectangle(0, 0, 2, 2)[None])
    assert encode_all(np.zeros((0, 4, 4), bool)) == encode_labels(np.zeros((4, 4), int), 0) == ()
    assert decode_all((), (3, 5)).shape == (0, 3, 5)
    assert areas(()).shape == (0,)
    assert boxes_xyxy(()).shape == (0, 4)
    assert iou_matrix((), some).shape == (0, 1)
    assert iou_matrix(some, ()).shape == (1, 0)
    assert overlap_matrix((), some).shape == (0, 1)
    assert overlap_matrix(some, ()).shape == (1, 0)
    assert make_exclusive(np.zeros((0, 4, 4), bool), np.zeros(0)).shape == (0, 4, 4)


def test_union_of_masks() -> None:
    masks = np.stack([rectangle(0, 0, 2, 3), rectangle(1, 2, 3, 4)])
    np.testing.assert_array_equal(decode(union(encode_all(masks), (4, 4))), masks.any(axis=0))
    assert not decode(union([], (4, 4))).any()


# ------------------------------------------------------------------------------------- exclusive


def test_make_exclusive_gives_a_shared_pixel_to_the_higher_score() -> None:
    masks = np.stack([rectangle(0, 0, 2, 3), rectangle(1, 2, 3, 4)])
    before = masks.copy()
    first, second = make_exclusive(masks, np.array([0.9, 0.8]))
    assert first[1, 2] and not second[1, 2]
    first, second = make_exclusive(masks, np.array([0.8, 0.9]))
    assert second[1, 2] and not first[1, 2]
    np.testing.assert_array_equal(masks, before)


def test_make_exclusive_prefers_the_lower_index_at_equal_scores() -> None:
    masks = np.stack([rectangle(0, 0, 4, 4), rectangle(0, 0, 4, 4)])
    first, second = make_exclusive(masks, np.array([0.5, 0.5]))
    assert first.all() and not second.any()


@given(mask_stacks, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_make_exclusive_keeps_the_union(masks: np.ndarray, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 3, len(masks)) / 2
    exclusive = make_exclusive(masks, scores)
    assert exclusive.sum(axis=0).max(initial=0) <= 1
    assert not (exclusive & ~masks).any()
    np.testing.assert_array_equal(exclusive.any(axis=0), masks.any(axis=0))


# ------------------------------------------------------------------- masks from a file or a message


def test_every_mask_operation_takes_300_masks() -> None:
    masks = np.random.default_rng(0).random((300, 5, 7)) < 0.3
    rles = encode_all(masks)
    np.testing.assert_array_equal(areas(rles), masks.sum(axis=(1, 2)))
    np.testing.assert_array_equal(decode_all(rles, (5, 7)), masks)
    np.testing.assert_array_equal(decode(union(rles, (5, 7))), masks.any(axis=0))
    shared = np.einsum("ahw,bhw->ab", masks.astype(int), masks.astype(int))
    either = areas(rles)[:, None] + areas(rles) - shared
    np.testing.assert_allclose(iou_matrix(rles, rles), shared / np.maximum(either, 1))
    boxes = boxes_xyxy(rles)
    np.testing.assert_array_equal(boxes, np.concatenate([boxes_xyxy([rle]) for rle in rles]))
    assert make_exclusive(masks, np.arange(300.0)).sum() == masks.any(axis=0).sum()
    check_rles(rles, (5, 7))


SQUARE = [1, 1, 3, 1, 3, 3, 1, 3]


@pytest.mark.parametrize(
    "segmentation",
    [
        [SQUARE],
        [[float(v) for v in SQUARE]],
        [[1, 1, 3, 1], SQUARE, [2, 2], []],  # too few points to enclose anything
        [[1, 1, 3, 1, 3, 3], [1, 1, 1, 3, 3, 3]],  # two triangles
        {"size": [4, 4], "counts": [5, 2, 2, 2, 5]},
        {"size": [4, 4], "counts": "52203"},
        {"size": [4, 4], "counts": b"52203"},
    ],
)
def test_checked_rle_of_polygons_and_run_lengths(segmentation: Any) -> None:
    found = checked_rle(segmentation, (4, 4))
    np.testing.assert_array_equal(decode(found), rectangle(1, 1, 3, 3))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1e9, 0, 3, 1, 3, 3]], "reaches beyond 1000000 pixels"),
        ([[0, 0, 10**40, 1, 3, 3]], "reaches beyond"),
        ([[float("nan"), 0, 3, 1, 3, 3]], "reaches beyond"),
        ([[0, 0, 1e6, 1e6] * 9], "outline is longer than"),
        ([[0, 0, 3, 1, 3]], "x0, y0, x1, y1"),
        ([["0", "0", "3", "1", "3", "3"]], "x0, y0, x1, y1"),
        ([[True, 0, 3, 1, 3, 3]], "x0, y0, x1, y1"),
        (SQUARE, "x0, y0, x1, y1"),
        ([], "three points or more"),
        ([[1, 1, 3, 1]], "three points or more"),
        (None, "got NoneType"),
        ("52203", "got str"),
        ({"size": [4, 5], "counts": "52203"}, r"size \[4, 5\], expected \[4, 4\]"),
        ({"size": [4, 4]}, "got NoneType"),
        ({"size": [4, 4], "counts": [8, 9]}, "do not fill"),
        ({"size": [4, 4], "counts": [-8, 24]}, "do not fill"),
        ({"size": [4, 4], "counts": [2**40]}, "do not fill"),
        ({"size": [4, 4], "counts": [[16]]}, "do not fill"),
        ({"size": [4, 4], "counts": "zzzz"}, "no run lengths"),
        ({"size": [4, 4], "counts": "\ud800"}, "no run lengths"),
        ({"size": [4, 4], "counts": "5"}, "do not fill"),
    ],
)
def test_checked_rle_refuses_what_would_crash(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_rle(segmentation, (4, 4))


@pytest.mark.parametrize(("limit", "fits"), [(8, True), (7, False)])
def test_checked_rle_measures_the_outline_of_a_polygon_once(
    limit: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gbopt_ros.masks._MAX_OUTLINE", limit)  # of a square of 2x2 pixels it is 8
    with nullcontext() if fits else pytest.raises(ValueError, match="outline is longer"):
        checked_rle([SQUARE], (4, 4))


@pytest.mark.parametrize("size", [(10**9, 4), (0, 4), (-4, -4), (40_000, 40_000)])
def test_masks_have_the_size_of_an_image(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="a height and a width of 1 or more"):
        checked_rle([SQUARE], size)
    with pytest.raises(ValueError, match="a height and a width of 1 or more"):
        check_rles([Rle(size=[*size], counts="52203")], size)
