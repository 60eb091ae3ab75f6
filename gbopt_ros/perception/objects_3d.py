"""Masks and a depth image to points and boxes in space.

Lengths are metres. Camera axes are those of ROS and OpenCV: x right, y down, z forward; the centre
of the top left pixel is (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros.structures import BoolMask, GboptError, Image

PERSPECTIVE_MODELS = ("", "plumb_bob", "rational_polynomial")
FISHEYE_MODEL = "equidistant"
# OpenCV's own criteria, 5 iterations, leave a wide lens a quarter of a pixel off.
_UNDISTORTION = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 1e-6)
_MAX_RAY_ERROR = 0.1  # pixels; a ray that comes back farther from its pixel is none
_RAYS_AT_ONCE = 100_000  # rays projected at once; OpenCV makes 30 derivatives of each
_GAP_M, _GAP_SHARE = 0.01, 0.02  # a gap in depth that ends an object: metres, or share of the depth
_SPARSE = 0.005  # share of the points of an object; a bin of depth with fewer is a gap
_TAIL = 1.0  # percent of the points left out at each end of a box, so that noise does not widen it
_YAWS = np.radians(np.arange(0.0, 90.0, 1.5))
_YAW_POINTS = 1000  # number of points that the yaw is found with
_TURNING_GAIN = 0.98  # a turned box must be smaller than an upright one by this factor
_MIN_POINTS = 20  # number of points, of an object or of the surface below it
_REACH_M = 0.05  # distance from an object within which the surface counts
_RING_PIXELS = 7  # width of the surroundings in which the surface below an object is looked for


@dataclass(frozen=True)
class Intrinsics:
    """A camera, as `sensor_msgs/CameraInfo` describes it.

    Attributes:
        size: (height, width) in pixels.
        focal: (fx, fy) in pixels.
        centre: (cx, cy) in pixels.
        distortion: coefficients of the model, () for a rectified image.
        model: name of the distortion model in ROS; "" without distortion.
    """

    size: tuple[int, int]
    focal: tuple[float, float]
    centre: tuple[float, float]
    distortion: tuple[float, ...] = ()
    model: str = ""

    def __post_init__(self) -> None:
        numbers = (*self.focal, *self.centre, *self.distortion)
        if not (np.isfinite(numbers).all() and min(self.focal) > 0 and min(self.size) > 0):
            raise GboptError(
                f"camera info: expected finite numbers, focal lengths and an image size above 0, "
                f"got focal lengths {self.focal} and size {self.size}; is the camera calibrated?"
            )
        if any(self.distortion) and self.model not in (*PERSPECTIVE_MODELS, FISHEYE_MODEL):
            raise GboptError(
                f"camera info: unknown distortion model {self.model!r}; take rectified images"
            )

    def rays(self) -> NDArray[np.float32]:
        """(H, W, 2): (x, y) at depth 1 of every pixel.

        NaN where the distortion model has no ray in front of the camera, as in the corners of a
        wide lens.
        """
        height, width = self.size
        columns, rows = np.meshgrid(np.arange(width), np.arange(height))
        pixels = np.stack([columns, rows], axis=-1).astype(np.float64)
        # The equidistant model bends rays even with coefficients of 0.
        bends = any(self.distortion) or (self.distortion and self.model == FISHEYE_MODEL)
        if not bends:
            return ((pixels - self.centre) / self.focal).astype(np.float32)
        points = pixels.reshape(-1, 1, 2)
        try:
            rays = self._undistorted(points)
        except cv2.error as error:
            raise GboptError(
                f"camera info: {len(self.distortion)} coefficients do not fit distortion model "
                f"{self.model!r}: {error.err}"
            ) from error
        with np.errstate(invalid="ignore"):  # rays that diverged
            errors = np.linalg.norm(self._projected(rays) - points, axis=2)
        rays[~(errors <= _MAX_RAY_ERROR)] = np.nan
        return rays.astype(np.float32).reshape(height, width, 2)

    @property
    def _matrix(self) -> NDArray[np.float64]:
        matrix = np.diag([*self.focal, 1.0])
        matrix[:2, 2] = self.centre
        return matrix

    def _undistorted(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(P, 1, 2) rays of pixels (P, 1, 2)."""
        coefficients = np.array(self.distortion)
        if self.model == FISHEYE_MODEL:
            return np.asarray(cv2.fisheye.undistortPoints(points, self._matrix, coefficients))
        straight = cv2.undistortImagePoints(points, self._matrix, coefficients, None, _UNDISTORTION)
        return (np.asarray(straight) - self.centre) / self.focal

    def _projected(self, rays: NDArray[np.float64]) -> NDArray[np.float64]:
        """(P, 1, 2) pixels of rays (P, 1, 2)."""
        coefficients, origin = np.array(self.distortion), np.zeros(3)
        if self.model == FISHEYE_MODEL:
            return np.asarray(cv2.fisheye.distortPoints(rays, self._matrix, coefficients))
        points = np.pad(rays, ((0, 0), (0, 0), (0, 1)), constant_values=1.0)
        parts = np.array_split(points, 1 + len(points) // _RAYS_AT_ONCE)
        projected = [
            cv2.projectPoints(part, origin, origin, self._matrix, coefficients)[0] for part in parts
        ]
        return np.concatenate(projected)


@dataclass(frozen=True)
class Box:
    """A box that is turned about the z axis.

    Attributes:
        centre: (x, y, z), metres.
        size: lengths along its own x, y and z axis, metres.
        yaw: angle from the x axis of the frame to that of the box, radians, 0 to pi / 2.
    """

    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float


@dataclass(frozen=True)
class ObjectPoints:
    """What a depth camera sees of an object.

    Attributes:
        index: number of its mask.
        points: (P, 3) float64, metres.
        colours: (P, 3) uint8 RGB.
        box: holds the points.
    """

    index: int
    points: NDArray[np.float64]
    colours: NDArray[np.uint8]
    box: Box


def locate(
    masks: NDArray[np.bool_],
    image: Image,
    depth: NDArray[np.float32],
    rays: NDArray[np.float32],
    pose: NDArray[np.float64],
    *,
    border: int,
    on_surface: bool,
) -> list[ObjectPoints]:
    """The objects of a frame; one with fewer than 20 measured pixels is left out.

    A box holds the visible points, which are those of the front. With `on_surface` it is extended
    down to the surface around the object.

    Args:
        masks: (N, H, W) bool.
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) metres along the optical axis; NaN where nothing was measured.
        rays: (H, W, 2), see `Intrinsics.rays`; depth without a ray counts as not measured.
        pose: (4, 4) from the camera to the frame of the result, whose z axis points up if
            `on_surface`.
        border: width of the border of a mask that is not trusted, pixels.
    """
    depth = np.where(np.isfinite(rays[..., 0]), depth, np.float32(np.nan))
    free = ~masks.any(axis=0) & np.isfinite(depth) if on_surface else None
    found = []
    for index, mask in enumerate(masks):
        pixels = object_pixels(mask, depth, border)
        if len(pixels[0]) < _MIN_POINTS:
            continue
        points = transformed(points_of(*pixels, depth, rays), pose)
        box = bounding_box(points)
        if free is not None:
            around = surroundings(mask, free)
            surface = surface_near(box, transformed(points_of(*around, depth, rays), pose))
            box = extended_down(box, surface)
        found.append(ObjectPoints(index, points, image[pixels], box))
    return found


def object_pixels(
    mask: BoolMask, depth: NDArray[np.float32], border: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows and columns of a mask at which the depth is that of the object.

    First the mask is eroded, and depths that a gap separates from the median are left out: holes of
    the mask, reflections. Then the border comes back where its depth continues that of the inside.
    At other pixels of the border the mask or the depth image shows what is behind, or a mixture.

    Args:
        mask: (H, W) bool.
        depth: (H, W) metres; NaN where nothing was measured.
        border: width of the border, pixels. A mask that is no wider is taken whole.
    """
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    part = slice(top, top + height), slice(left, left + width)
    mask, depth = mask[part], depth[part]
    measured = mask & np.isfinite(depth)
    rows, columns = np.nonzero(measured)
    if len(rows) == 0:
        return rows, columns
    inside = _eroded(mask, border) & measured
    if not inside.any():
        inside = measured.copy()
    # A depth that occurs: the mean of the middle two may lie in the gap between two halves.
    middle = float(np.percentile(depth[inside], 50, method="lower"))
    gap = max(_GAP_M, _GAP_SHARE * middle)
    inside[inside] = _around(depth[inside], middle, gap)
    square = _square(border + 1)  # one more, to reach over holes
    farthest = cv2.dilate(np.where(inside, depth, -np.inf).astype(np.float32), square)
    nearest = cv2.erode(np.where(inside, depth, np.inf).astype(np.float32), square)
    rows, columns = np.nonzero(measured & (depth <= farthest + gap) & (depth >= nearest - gap))
    return rows + top, columns + left


def points_of(
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    depth: NDArray[np.float32],
    rays: NDArray[np.float32],
) -> NDArray[np.float32]:
    """(P, 3) points in the camera frame at P pixels; `depth` (H, W) is along the optical axis."""
    z = depth[rows, columns]
    return np.column_stack([rays[rows, columns] * z[:, None], z]).astype(np.float32)


def transformed(points: NDArray[np.float32], transform: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P, 3) float64 points under a (4, 4) rigid transform.

    In the coordinates of a large map, float32 numbers are centimetres apart, or decimetres.
    """
    return points @ transform[:3, :3].T + transform[:3, 3]


def surroundings(mask: BoolMask, free: BoolMask) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows and columns of those pixels around a mask that are `free`, (H, W) bool."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    top, bottom = max(0, top - _RING_PIXELS), top + height + _RING_PIXELS
    left, right = max(0, left - _RING_PIXELS), left + width + _RING_PIXELS
    part = slice(top, bottom), slice(left, right)
    around = cv2.dilate(mask[part].view(np.uint8), _square(_RING_PIXELS)).astype(bool)
    rows, columns = np.nonzero(around & free[part])
    return rows + top, columns + left


def bounding_box(points: NDArray[np.floating]) -> Box:
    """The smallest box about the z axis that holds the points but for one in a hundred on each end.

    Args:
        points: (P, 3), at least one.
    """
    chosen = points[:: 1 + len(points) // _YAW_POINTS, :2]
    cosines, sines = np.cos(_YAWS), np.sin(_YAWS)
    along = chosen @ np.stack([cosines, sines])  # (P, angles)
    across = chosen @ np.stack([-sines, cosines])
    areas = _extent(along) * _extent(across)
    best = int(areas.argmin())
    yaw = float(_YAWS[best]) if areas[best] < _TURNING_GAIN * areas[0] else 0.0
    turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    own = np.column_stack([points[:, :2] @ turn.T, points[:, 2]])
    low, high = np.percentile(own, [_TAIL, 100 - _TAIL], axis=0)
    middle = (low + high) / 2
    x, y = middle[:2] @ turn
    size = high - low
    return Box(
        (float(x), float(y), float(middle[2])),
        (float(size[0]), float(size[1]), float(size[2])),
        yaw,
    )


def surface_near(box: Box, around: NDArray[np.floating]) -> float | None:
    """Height of the surface that an object stands on; None if little of it is seen.

    Args:
        around: (P, 3) points around the object; those far away are of the floor or a wall.
    """
    reach = np.hypot(*box.size[:2]) / 2 + _REACH_M
    near = around[np.hypot(*(around[:, :2] - box.centre[:2]).T) < reach]
    return float(np.median(near[:, 2])) if len(near) >= _MIN_POINTS else None


def extended_down(box: Box, surface: float | None) -> Box:
    """The box down to a height, if that is below it; its top stays."""
    x, y, z = box.centre
    top, bottom = z + box.size[2] / 2, z - box.size[2] / 2
    if surface is None or surface >= bottom:
        return box
    return Box((x, y, (top + surface) / 2), (*box.size[:2], top - surface), box.yaw)


def _extent(values: NDArray[np.floating]) -> NDArray[np.float64]:
    low, high = np.percentile(values, [_TAIL, 100 - _TAIL], axis=0)
    return np.asarray(high - low)


def _eroded(mask: BoolMask, width: int) -> BoolMask:
    outside = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
    return cv2.erode(mask.view(np.uint8), _square(width), **outside).astype(bool)


def _square(radius: int) -> NDArray[np.uint8]:
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)


def _around(depths: NDArray[np.float32], middle: float, gap: float) -> BoolMask:
    """(P,) whether no gap lies between a depth and the middle."""
    bins = np.clip(np.floor((depths - middle) / gap + 0.5), -10_000, 10_000).astype(np.int64)
    values, counts = np.unique(bins, return_counts=True)
    filled = {int(v) for v in values[counts >= max(1, _SPARSE * len(depths))]}
    low = high = 0
    while low - 1 in filled:
        low -= 1
    while high + 1 in filled:
        high += 1
    return np.asarray((bins >= low) & (bins <= high))
