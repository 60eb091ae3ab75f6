"""Motion boundaries and inside-outside maps of FST (Papazoglou & Ferrari 2013, Section 3.1).

Departure: flow is amplified where objects are slow. The constants fit the fast objects and the
sharp flow of the original; in video at 24 frames a second, at 400 pixels, hardly a boundary reaches
them. How far to amplify was chosen on four sequences of DAVIS (bear, car-turn, dog-agility,
elephant).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.structures import BoolMask

# Constants of the paper's released code, for flow in pixels of images of 400 pixels.
_LAMBDA_GRADIENT, _LAMBDA_ANGLE = 0.7, 1.0  # how fast each boundary probability rises
_SURE, _DOUBTFUL = 0.6, 0.25  # gradients above are boundaries alone; those below hardly
_BOUNDARY = 0.5  # probability of a boundary pixel
_MARGIN = 20 / 400  # of the longer side; flow is unreliable there, no boundary is believed
_MAJORITY = 5  # of eight rays
# Speed of an object that boundaries are clear at, as this percentile over the pixels of a frame;
# in pixels of images of 400 pixels. DAVIS' dog-agility has it, with no amplification.
_SPEED, _PERCENTILE = 12.0, 99
_GOOD = 0.2  # compactness of a region below which more sensitive boundaries are tried
_FURTHER = 1.5, 2.0, 3.0, 4.0
_MOST = 16.0  # of the amplification: below 0.75 pixels a motion may be an error of the flow


def gradient_magnitude(flow: NDArray[np.floating]) -> NDArray[np.float64]:
    """(H, W), norm of the gradient of both components of a flow (H, W, 2)."""
    return np.sqrt(sum(g**2 for axis in range(2) for g in np.gradient(flow[..., axis])))


def boundary_probability(flow: NDArray[np.floating]) -> NDArray[np.float64]:
    """(H, W) in [0, 1], Eq. 1 to 3.

    A strong gradient of the flow is a boundary. A weak one is a boundary where the direction
    differs from that of a neighbour too.
    """
    gradient = 1 - np.exp(-_LAMBDA_GRADIENT * gradient_magnitude(flow))
    angle = 1 - np.exp(-_LAMBDA_ANGLE * _angle_difference(flow) ** 2)
    doubtful = np.where(gradient > _DOUBTFUL, gradient * angle, 0.1 * gradient)
    return np.where(gradient > _SURE, gradient, doubtful)


def inside_map(flow: NDArray[np.floating]) -> BoolMask:
    """(H, W), pixels that motion boundaries surround.

    If they are no compact region, the flow is amplified further, as the released code tries larger
    values of lambda, and the most compact region is taken.
    """
    flow = amplified(flow)
    best = _surrounded(flow)
    if compactness(best) >= _GOOD:
        return best
    return max([best, *(_surrounded(factor * flow) for factor in _FURTHER)], key=compactness)


def amplified(flow: NDArray[np.floating]) -> NDArray[np.float64]:
    """A flow (H, W, 2) as if its objects moved as fast as those that lambda was set for.

    What stands out against the median motion is brought to that speed, if it is slower.
    """
    against = np.linalg.norm(flow - np.median(flow, axis=(0, 1)), axis=-1)
    speed = np.percentile(against, _PERCENTILE)
    return flow * np.clip(_SPEED / max(speed, 1e-6), 1, _MOST)


def compactness(mask: BoolMask) -> float:
    """Area over that of the ellipse with the same second moments: 1 for an ellipse, 0 for none."""
    points = np.stack(np.nonzero(mask)).astype(np.float64)
    if points.shape[1] < 3:
        return 0.0
    spread = np.sqrt(max(np.linalg.det(np.cov(points)), 0.0))
    return points.shape[1] / (4 * np.pi * spread) if spread > 0 else 0.0


def _surrounded(flow: NDArray[np.floating]) -> BoolMask:
    boundary = boundary_probability(flow) > _BOUNDARY
    margin = max(1, round(_MARGIN * max(boundary.shape)))
    trusted = np.zeros_like(boundary)
    trusted[margin:-margin, margin:-margin] = boundary[margin:-margin, margin:-margin]
    return rays_inside(trusted) >= _MAJORITY


def rays_inside(boundary: BoolMask) -> NDArray[np.int64]:
    """(H, W), how many of eight rays to the border cross a boundary an odd number of times.

    Adjacent boundary pixels of a ray are one crossing.
    """
    votes = np.zeros(boundary.shape, np.int64)
    for diagonal in (False, True):
        for turns in range(4):
            turned = np.rot90(boundary, turns)
            crossings = _crossings_upwards(turned, diagonal)
            votes += np.rot90(crossings % 2, -turns)
    return votes


def _crossings_upwards(boundary: BoolMask, diagonal: bool) -> NDArray[np.int64]:
    """(H, W), runs of boundary pixels from the top, or the top left, down to each pixel."""
    crossings = np.zeros(boundary.shape, np.int64)
    above = np.zeros(boundary.shape[1], np.int64)
    was = np.zeros(boundary.shape[1], bool)
    for row, now in zip(crossings, boundary, strict=True):
        row[:] = above + (now & ~was)
        above, was = row, now
        if diagonal:
            above, was = (np.concatenate([values[:1] * 0, values[:-1]]) for values in (above, was))
    return crossings


def _angle_difference(flow: NDArray[np.floating]) -> NDArray[np.float64]:
    """(H, W) in [0, pi], largest difference of direction to one of the four neighbours.

    A pixel at rest has no direction and differs from none.
    """
    angle = np.arctan2(flow[..., 1], flow[..., 0])
    moves = np.any(flow != 0, axis=-1)
    largest = np.zeros(angle.shape)
    for axis in range(2):
        low = np.arange(angle.shape[axis] - 1)
        first, second = (np.take(angle, low + step, axis) for step in (0, 1))
        both = np.take(moves, low, axis) & np.take(moves, low + 1, axis)
        step = np.where(both, np.abs((first - second + np.pi) % (2 * np.pi) - np.pi), 0)
        before, after = ([(0, 0), (0, 0)] for _ in range(2))
        before[axis], after[axis] = (1, 0), (0, 1)
        largest = np.maximum(largest, np.maximum(np.pad(step, before), np.pad(step, after)))
    return largest
