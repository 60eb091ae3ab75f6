"""Plane residual: how far the flow departs from the motion of the surroundings. Not in the paper.

A table moves by a homography between two views. So does a flat print on it, even if it looks like
an object. Objects that stand on the table, or that somebody moves, depart from the homography.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

# In units of the shorter side of the image. If the flow to the other frame and back misses a pixel
# by more, the pixel is unknown: one of the frames hides it. The homography need not fit better.
_RETURN_ERROR = _FIT_ERROR = 1 / 240
# The homography is fitted to pixels of a grid that are sure to be background. It must fit enough of
# them, and they must be enough of the grid.
_GRID = 6  # pixels
_SURE = 0.8  # smallest background probability
_FEWEST = 0.1  # smallest share of the grid
_INLIERS = 0.5  # smallest share of the fitted pixels

# Log-odds of an object: bias + slope * log(residual + floor), fitted by
# experiments/plane_residual.py; the residual in thousandths of the shorter side.
BIAS, SLOPE, FLOOR = -2.3, 1.1, 0.6
_NEUTRAL = float(np.exp(-BIAS / SLOPE)) - FLOOR  # the residual whose log-odds are 0
# Something stands out if this share of the residuals reaches the error of the flow.
_FEWEST_OUTSTANDING, _LEAST = 0.02, 3.0


def plane_residual(
    flow: NDArray[np.floating], back: NDArray[np.floating], background: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Distance of the flow from the motion of the surroundings, in thousandths of a side.

    The surroundings are taken to be a plane. Its homography is fitted robustly to the flow of
    pixels that are sure to be background.

    A small residual is evidence against an object only where the surroundings move and something
    stands out against them: an object at rest shows nothing to a camera at rest, or one that only
    turns. Elsewhere small residuals are unknown. If the camera turns while something else is
    moved, objects at rest are mistaken for surroundings.

    Args:
        flow: (H, W, 2), pixels (x, y), from this frame to another one.
        back: (H, W, 2), pixels (x, y), from that frame to this one.
        background: (H, W), probability that a pixel of this frame belongs to no object.

    Returns:
        (H, W) float32, NaN where unknown: where the other frame does not show the pixel, outside
        the region of the fit, and everywhere if too little is sure to be background or fits no
        plane.
    """
    height, width = background.shape
    side = min(height, width)
    here = _places(height, width)
    there = here + flow.astype(np.float32)
    returned = cv2.remap(
        back.astype(np.float32), there, None, cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT, borderValue=(1e6, 1e6),
    )  # fmt: skip
    known = _lengths(there + returned - here) < _RETURN_ERROR * side
    grid = slice(_GRID // 2, None, _GRID), slice(_GRID // 2, None, _GRID)
    fitted = known[grid] & (background[grid] > _SURE)
    unknown = np.full((height, width), np.nan, np.float32)
    if np.count_nonzero(fitted) < max(4, _FEWEST * fitted.size):
        return unknown
    fitted_here = here[grid][fitted]
    homography, inliers = cv2.findHomography(
        fitted_here, there[grid][fitted], cv2.RANSAC, _FIT_ERROR * side, maxIters=500
    )
    if homography is None or inliers.mean() < _INLIERS:
        return unknown
    x, y, w, h = cv2.boundingRect(fitted_here[inliers[:, 0] > 0])
    near = np.zeros_like(known)
    near[max(0, y - _GRID) : y + h + _GRID, max(0, x - _GRID) : x + w + _GRID] = True
    known &= near
    with_surroundings = cv2.perspectiveTransform(here.reshape(-1, 1, 2), homography)
    residual = _lengths(there - with_surroundings.reshape(there.shape)) * np.float32(1000 / side)
    moves = np.median(_lengths(flow[grid][fitted])) > _FIT_ERROR * side
    outstanding = np.count_nonzero(known & (residual >= _LEAST))
    if not moves or outstanding < _FEWEST_OUTSTANDING * np.count_nonzero(known):
        known &= residual > _NEUTRAL
    return np.where(known, residual, np.nan).astype(np.float32)


def _lengths(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """(...,) float32, of vectors (..., 2). cv2.magnitude rounds as the memory happens to lie."""
    x, y = vectors[..., 0].astype(np.float32), vectors[..., 1].astype(np.float32)
    lengths: NDArray[np.float32] = np.sqrt(x * x + y * y)
    return lengths


@lru_cache(maxsize=2)  # sizes
def _places(height: int, width: int) -> NDArray[np.float32]:
    """(H, W, 2) float32, x and y of every pixel; shared, so it cannot be written."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    places = np.stack([columns, rows], axis=-1)
    places.flags.writeable = False
    return places


def motion_evidence(residual: NDArray[np.floating]) -> NDArray[np.float32]:
    """(H, W) float32, log-odds of an object given its `plane_residual`; 0 where it is NaN."""
    known = np.isfinite(residual)
    evidence = BIAS + SLOPE * np.log(np.where(known, residual, 0.0) + FLOOR)
    return np.where(known, evidence, 0.0).astype(np.float32)
