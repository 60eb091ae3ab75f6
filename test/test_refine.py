"""Masks follow the edges of the image, stay disjoint and are never lost."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gbopt_ros import masks as mask_ops
from gbopt_ros.learning.refine import refine_mask, refine_masks

SIZE = (96, 128)


def disc(centre: tuple[int, int], radius: int) -> np.ndarray:
    return cv2.circle(np.zeros(SIZE, np.uint8), centre, radius, 1, -1) > 0


def scene(*discs: np.ndarray) -> np.ndarray:
    """Bright discs on a dark textured floor."""
    image = np.random.default_rng(0).integers(20, 60, (*SIZE, 3)).astype(np.uint8)
    for index, mask in enumerate(discs):
        image[mask] = (230, 180 - 90 * index, 60)
    return image


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize("drawn", [21, 27])
def test_a_blunt_mask_moves_to_the_edge_of_the_object(drawn: int) -> None:
    truth, blunt = disc((60, 48), 24), disc((60, 48), drawn)
    refined = refine_mask(scene(truth), blunt)
    assert iou(blunt, truth) < 0.82
    assert iou(refined, truth) > 0.97


def test_it_is_deterministic() -> None:
    image, blunt = scene(disc((60, 48), 24)), disc((62, 48), 26)
    assert np.array_equal(refine_mask(image, blunt), refine_mask(image, blunt))


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros(SIZE, bool),
        np.eye(*SIZE, dtype=bool),  # too thin for a colour model of its inside
        np.ones(SIZE, bool),  # no outside
    ],
    ids=["empty", "thin", "everything"],
)
def test_a_mask_that_cannot_be_refined_stays(mask: np.ndarray) -> None:
    assert np.array_equal(refine_mask(scene(disc((60, 48), 24)), mask), mask)


def test_touching_masks_stay_disjoint_and_leave_each_other_their_pixels() -> None:
    left, right = disc((40, 48), 22), disc((84, 48), 22)
    blunt = [disc((42, 48), 24), disc((84, 48), 20) & ~disc((42, 48), 24)]
    image = scene(left, right)
    first, second = mask_ops.decode_all(
        refine_masks(image, mask_ops.encode_all(np.array(blunt))), SIZE
    )
    assert not (first & second).any()
    assert not (first & blunt[1]).any()
    assert iou(first, left) > iou(blunt[0], left)
    assert iou(second, right) > iou(blunt[1], right)


def test_no_masks() -> None:
    assert refine_masks(scene(), ()) == ()
