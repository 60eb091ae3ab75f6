"""What moves against its surroundings: evidence for objects that needs no network.

Between two views of a table from different places, or of things that somebody moves, the table
itself moves by a homography; what stands on it, or is moved, does not. A flat print moves as the
table does, however much it looks like an object. Not in the paper.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# Of the shorter side of the image. Flow that does not lead back to where it started says nothing:
# the pixel was hidden in one of the two frames. The homography need not fit better than the flow.
_RETURN_ERROR = _FIT_ERROR = 1 / 240
_GRID = 4  # pixels between those that the homography is fitted to,
_SURE = 0.8  # of this background probability at least,
_FEWEST = 0.1  # and no smaller share of all of them,
_INLIERS = 0.5  # of which it must fit this share

# Log-odds of an object: bias + slope * log(residual + floor), the residual in thousandths of the
# shorter side, fitted by benchmarks/parallax.py.
BIAS, SLOPE, FLOOR = -2.3, 1.1, 0.6
_NEUTRAL = float(np.exp(-BIAS / SLOPE)) - FLOOR  # the residual that says nothing
# Something stands out against the surroundings where this percentile of the residuals is not below
# that, about what flow is wrong by.
_PERCENTILE, _LEAST = 98, 3.0


def plane_residual(
    flow: NDArray[np.floating], back: NDArray[np.floating], background: NDArray[np.floating]
) -> NDArray[np.float32]:
    """How far the flow departs from the motion of the surroundings, in thousandths of a side.

    The surroundings are taken to be a plane: the homography is fitted, robustly, to the flow of
    pixels that are sure to be background.

    That nothing departs says nothing of an object that stands still where the camera does not
    move, or only turns: small residuals are known only where the surroundings move in the image
    and something stands out against them. Where the camera turns while something else is moved,
    things that stand still are mistaken for surroundings.

    Args:
        flow: (H, W, 2), pixels (x, y), measured from this frame to another one.
        back: (H, W, 2), measured from that frame to this one.
        background: (H, W), probability that a pixel of this frame belongs to no object.

    Returns:
        (H, W) float32, NaN where nothing is known: where the other frame does not show the pixel,
        outside the region that the plane was fitted in, and everywhere where too little is sure to
        be background or fits no plane.
    """
    height, width = background.shape
    side = min(height, width)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    here = np.stack([columns, rows], axis=-1)
    there = here + flow.astype(np.float32)
    returned = cv2.remap(
        back.astype(np.float32),
        there,
        None,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(1e6, 1e6),
    )
    known = np.linalg.norm(there + returned - here, axis=-1) < _RETURN_ERROR * side
    grid = np.zeros_like(known)
    grid[_GRID // 2 :: _GRID, _GRID // 2 :: _GRID] = True
    fitted = grid & known & (background > _SURE)
    nothing = np.full((height, width), np.nan, np.float32)
    if np.count_nonzero(fitted) < max(4, _FEWEST * np.count_nonzero(grid)):
        return nothing
    homography, inliers = cv2.findHomography(
        here[fitted], there[fitted], cv2.RANSAC, _FIT_ERROR * side, maxIters=500
    )
    if homography is None or inliers.mean() < _INLIERS:
        return nothing
    low, high = (edge(here[fitted][inliers[:, 0] > 0], axis=0) for edge in (np.min, np.max))
    known &= np.all((here >= low - _GRID) & (here <= high + _GRID), axis=-1)
    with_surroundings = cv2.perspectiveTransform(here.reshape(-1, 1, 2), homography)
    residual = np.linalg.norm(there - with_surroundings.reshape(there.shape), axis=-1)
    residual *= 1000 / side
    moves = np.median(np.linalg.norm(flow[fitted], axis=-1)) > _FIT_ERROR * side
    if not moves or np.percentile(residual[known], _PERCENTILE) < _LEAST:
        known &= residual > _NEUTRAL
    return np.where(known, residual, np.nan).astype(np.float32)


def motion_evidence(residual: NDArray[np.floating]) -> NDArray[np.float32]:
    """(H, W) float32, log-odds of an object that `residual_motion` gives; 0 where it is NaN."""
    known = np.isfinite(residual)
    evidence = BIAS + SLOPE * np.log(np.where(known, residual, 0.0) + FLOOR)
    return np.where(known, evidence, 0.0).astype(np.float32)
