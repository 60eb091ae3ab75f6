"""Guided filters (He et al. 2013) that move masks to edges of an image, many masks at once.

In a window around each pixel a filter fits the mask as a linear function of the colour. It is
fitted at a smaller size than it is applied at (He and Sun 2015). The masks' pixels stand in one row
for all arithmetic, which costs little more for twelve masks than for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros.structures import Image

# In units of a mask's side, which is the square root of its area.
_BAND_OUTSIDE, _BAND_INSIDE = 0.1, 0.05  # the error of a mask head grows with the object
_RADIUS = 0.2  # of the filter's window
_SMOOTHNESS = 6.0**2  # grey levels squared: weaker edges are not followed

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class MaskToFilter:
    """A mask in a window of an image.

    Attributes:
        image: (h, w, 3) uint8, RGB.
        mask: (h, w) float32, the share of each pixel that the mask covers.
        side: square root of the mask's area, pixels.
    """

    image: Image
    mask: Plane
    side: float


def fit_guided_filters(objects: Sequence[MaskToFilter]) -> list[Plane]:
    """Masks as linear functions of the colour, Eq. 14 to 16 of He et al.

    Args:
        objects: N masks, each in a window of its own.

    Returns:
        N of (h, w, 4) float32: factors of red, green and blue, and what is added. Beyond a band
        around the outline they give the mask itself.
    """
    if not objects:
        return []
    shapes = [each.mask.shape for each in objects]
    ends = np.cumsum([each.mask.size for each in objects]).tolist()
    places = [slice(end - each.mask.size, end) for end, each in zip(ends, objects, strict=True)]
    widths = [2 * max(2, round(_RADIUS * each.side)) + 1 for each in objects]

    def mean(*planes: Plane) -> list[Plane]:
        means = [np.empty_like(plane) for plane in planes]
        for place, shape, width in zip(places, shapes, widths, strict=True):
            for plane, smooth in zip(planes, means, strict=True):
                window = plane[place].reshape(shape)
                cv2.blur(window, (width, width), dst=smooth[place].reshape(shape))
        return means

    colours = np.concatenate([each.image.reshape(-1, 3) for each in objects])
    r, g, b = guide = [np.ascontiguousarray(colour, np.float32) for colour in colours.T]
    mean_r, mean_g, mean_b = guide_mean = mean(r, g, b)
    # The covariance of the colours at every pixel, and its inverse by its cofactors.
    rr, rg, rb, gg, gb, bb = mean(r * r, r * g, r * b, g * g, g * b, b * b)
    rr, gg, bb = (
        square - middle * middle + np.float32(_SMOOTHNESS)
        for square, middle in zip((rr, gg, bb), guide_mean, strict=True)
    )
    rg, rb, gb = rg - mean_r * mean_g, rb - mean_r * mean_b, gb - mean_g * mean_b
    of_rg, of_rb, of_gb = rb * gb - rg * bb, rg * gb - rb * gg, rb * rg - rr * gb
    cofactors = (
        (gg * bb - gb * gb, of_rg, of_rb),
        (of_rg, rr * bb - rb * rb, of_gb),
        (of_rb, of_gb, rr * gg - rg * rg),
    )
    determinant = _dot((rr, rg, rb), cofactors[0])

    def fit(target: Plane) -> list[Plane]:
        target_mean, *products = mean(target, r * target, g * target, b * target)
        shared = [p - m * target_mean for p, m in zip(products, guide_mean, strict=True)]
        slope = [_dot(row, shared) / determinant for row in cofactors]
        return [*slope, target_mean - _dot(slope, guide_mean)]

    # The mask that is fitted follows the image already; a third fit changed nothing.
    *slope, offset = fit(np.concatenate([each.mask.ravel() for each in objects]))
    core, reach = _band(objects)
    rough = ((_dot(slope, guide) + offset > 0.5) & reach) | core
    fitted = np.stack(mean(*fit(rough.astype(np.float32))), axis=1)
    fitted[~reach] = 0
    fitted[core] = 0, 0, 0, 1
    return [fitted[place].reshape(*shape, 4) for place, shape in zip(places, shapes, strict=True)]


def apply_guided_filter(fitted: Plane, image: Image) -> Plane:
    """(h, w) float32, the filtered mask at the size of an image.

    Args:
        fitted: (h', w', 4) of `fit_guided_filters`.
        image: (h, w, 3) uint8, RGB, of the same window.
    """
    here = cv2.resize(fitted, image.shape[1::-1])
    colours_and_255 = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    terms = cv2.multiply(here, colours_and_255, dtype=cv2.CV_32F)
    total = np.array([[1, 1, 1, 1 / 255]], np.float32)
    return np.asarray(cv2.transform(terms, total), np.float32)  # the fastest sum over planes


def _band(objects: Sequence[MaskToFilter]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels that stay in the mask, and pixels that may be in it, of all masks in one row."""
    core, reach = [], []
    for each in objects:
        mask = (each.mask > 0.5).view(np.uint8)
        inside, outside = round(_BAND_INSIDE * each.side), round(_BAND_OUTSIDE * each.side)
        core.append(cv2.erode(mask, _disc(max(1, inside))).ravel())
        reach.append(cv2.dilate(mask, _disc(max(2, outside))).ravel())
    return np.concatenate(core) > 0, np.concatenate(reach) > 0


def _dot(first: Sequence[Plane], second: Sequence[Plane]) -> Plane:
    """The scalar product of two vectors of planes, at every pixel."""
    a, b, c = (x * y for x, y in zip(first, second, strict=True))
    total: Plane = a + b + c
    return total


def _disc(radius: int) -> cv2.typing.MatLike:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
