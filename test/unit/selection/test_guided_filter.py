"""Guided filters: masks follow edges of the image, in a band around their outlines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.selection.guided_filter import (
    MaskToFilter,
    apply_guided_filter,
    fit_guided_filters,
)


def step(edge: int, outline: int, size: tuple[int, int] = (40, 60)) -> MaskToFilter:
    """An image that is dark left of `edge` and bright elsewhere; the mask ends at `outline`."""
    image = np.full((*size, 3), (40, 60, 50), np.uint8)
    image[:, edge:] = (200, 180, 160)
    mask = np.zeros(size, np.float32)
    mask[:, :outline] = 1
    return MaskToFilter(image, mask, side=32.0)


def drawn(fitted: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return apply_guided_filter(fitted, image) > 0.5


def test_guided_filter_moves_an_outline_to_the_edge_of_the_image() -> None:
    off = step(edge=30, outline=28)
    (fitted,) = fit_guided_filters([off])
    assert fitted.shape == (40, 60, 4) and fitted.dtype == np.float32
    np.testing.assert_array_equal(drawn(fitted, off.image), step(30, 30).mask > 0.5)


def test_guided_filter_is_applied_at_a_larger_size_than_it_is_fitted_at() -> None:
    off, large = step(edge=30, outline=28), step(90, 90, (120, 180))
    (fitted,) = fit_guided_filters([off])
    np.testing.assert_array_equal(drawn(fitted, large.image), large.mask > 0.5)


def test_guided_filter_leaves_a_mask_beyond_a_band_around_its_outline() -> None:
    far = step(edge=50, outline=20)
    (fitted,) = fit_guided_filters([far])
    found = drawn(fitted, far.image)
    assert found[:, :17].all() and not found[:, 24:].any()


def test_fit_guided_filters_fits_each_mask_as_if_it_were_alone() -> None:
    objects = [step(30, 28), step(20, 22, (25, 33)), step(12, 12, (50, 20))]
    for together, alone in zip(fit_guided_filters(objects), objects, strict=True):
        np.testing.assert_array_equal(together, fit_guided_filters([alone])[0])
    assert fit_guided_filters([]) == []
