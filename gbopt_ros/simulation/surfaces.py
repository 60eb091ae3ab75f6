"""Flat surfaces: metric canvases with floor texture, prints and soft stains, seen by a camera.

The planes are warped into the image by homography, not drawn by the renderer: the result is sharper
and no texture is loaded. The renderer only tells which pixels are plane, and which lie in shadow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros.simulation.textures import FLOORS, PRINTS, Texture, draw

CANVAS_PIXELS = 1024


@dataclass(frozen=True)
class Surface:
    """A plane in the world and its texture.

    Attributes:
        texture: (P, P, 3) float32 RGB in [0, 1]; mirrored beyond its edge.
        origin: (3,) metres, world position of the canvas centre.
        x_axis, y_axis: (3,) unit vectors of the canvas columns and rows.
        extent: side of the canvas, metres.
        facing: 1 if the seen side is that of x_axis cross y_axis, else -1.
    """

    texture: Texture
    origin: NDArray[np.float64]
    x_axis: NDArray[np.float64]
    y_axis: NDArray[np.float64]
    extent: float
    facing: int = 1

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,) unit vector towards the side that is seen."""
        return np.cross(self.x_axis, self.y_axis) * self.facing

    def homography(self, projection: NDArray[np.float64]) -> NDArray[np.float64]:
        """(3, 3): homogeneous plane metres to pixels, for a (3, 4) pixel projection."""
        plane = np.stack([self.x_axis, self.y_axis, self.origin], axis=1)
        return projection @ np.vstack([plane, [0, 0, 1]])

    def warp(self, homography: NDArray[np.float64], size: tuple[int, int]) -> Texture:
        """(height, width, 3) float32, the surface as the camera of `homography` sees it."""
        scale, half = self.extent / CANVAS_PIXELS, self.extent / 2
        to_metres = np.array([[scale, 0, -half], [0, scale, -half], [0, 0, 1]])
        return cv2.warpPerspective(
            self.texture,
            homography @ to_metres,
            size[::-1],
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )


def linear_form(coefficients: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """(height, width) of `a u + b v + c` over the pixels (u, v)."""
    a, b, c = coefficients
    return b * np.arange(size[0])[:, None] + (a * np.arange(size[1]) + c)[None, :]


def paint_canvas(
    rng: np.random.Generator,
    extent: float,
    prints: int,
    stains: int,
    pictures: Sequence[Texture],
) -> Texture:
    """A canvas with a tiled floor texture, flat prints lying on it, and dark soft stains."""
    tile_pixels = int(CANVAS_PIXELS * min(1.0, rng.uniform(0.5, 1.3) / extent))
    tile = draw(rng, FLOORS, 512)
    tile = cv2.resize(tile, (tile_pixels, tile_pixels), interpolation=cv2.INTER_AREA)
    after = CANVAS_PIXELS - tile_pixels
    canvas = cv2.copyMakeBorder(
        tile, after // 2, after - after // 2, after // 2, after - after // 2, cv2.BORDER_REFLECT
    )
    for _ in range(stains):
        _add_stain(rng, canvas, extent)
    for _ in range(prints):
        _add_print(rng, canvas, extent, pictures)
    return canvas


def _add_print(
    rng: np.random.Generator, canvas: Texture, extent: float, pictures: Sequence[Texture]
) -> None:
    if len(pictures) > 0 and rng.random() < 0.35:
        picture = pictures[int(rng.integers(len(pictures)))]
    else:
        picture = draw(rng, PRINTS, 160)
    scale = CANVAS_PIXELS / extent
    sides = rng.uniform(0.04, 0.24, 2) * scale
    spread = min(0.35, extent / 2)
    centre = CANVAS_PIXELS / 2 + rng.uniform(-spread, spread, 2) * scale
    angle = rng.uniform(0, 2 * np.pi)
    across = 0.5 * sides[0] * np.array([np.cos(angle), np.sin(angle)])
    along = 0.5 * sides[1] * np.array([-np.sin(angle), np.cos(angle)])
    corners = np.array(
        [centre - across - along, centre + across - along, centre - across + along], np.float32
    )
    low = np.floor(centre - np.abs(across) - np.abs(along)).astype(int) - 1
    high = np.ceil(centre + np.abs(across) + np.abs(along)).astype(int) + 2
    low, high = np.clip(low, 0, CANVAS_PIXELS), np.clip(high, 0, CANVAS_PIXELS)
    if np.any(high - low < 2):
        return
    rows, columns = picture.shape[:2]
    source = np.array([[0, 0], [columns, 0], [0, rows]], np.float32)
    matrix = cv2.getAffineTransform(source, corners - low.astype(np.float32))
    size = (int(high[0] - low[0]), int(high[1] - low[1]))
    warped = cv2.warpAffine(picture, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    round_print = rng.random() < 0.2
    outline = np.zeros((rows, columns), np.float32)
    if round_print:
        cv2.circle(outline, (columns // 2, rows // 2), min(rows, columns) // 2 - 1, 1.0, -1)
    else:
        outline[:] = 1
    alpha = cv2.warpAffine(outline, matrix, size)[..., None]
    region = canvas[low[1] : high[1], low[0] : high[0]]
    region[:] = region + alpha * (warped - region)


def _add_stain(rng: np.random.Generator, canvas: Texture, extent: float) -> None:
    """A dark soft ellipse, like the shadow of something out of view."""
    scale = CANVAS_PIXELS / extent
    centre = CANVAS_PIXELS / 2 + rng.uniform(-0.4, 0.4, 2) * scale
    axes = rng.uniform(0.02, 0.15, 2) * scale
    angle = rng.uniform(0, np.pi)
    reach = float(2.2 * axes.max())
    low = np.clip(np.floor(centre - reach), 0, CANVAS_PIXELS).astype(int)
    high = np.clip(np.ceil(centre + reach), 0, CANVAS_PIXELS).astype(int)
    row, column = np.mgrid[low[1] : high[1], low[0] : high[0]].astype(np.float32)
    dx, dy = column - centre[0], row - centre[1]
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / axes[0]
    v = (-dx * np.sin(angle) + dy * np.cos(angle)) / axes[1]
    softness = rng.uniform(1.0, 5.0)
    depth = rng.uniform(0.2, 0.65) * np.exp(-0.5 * (u * u + v * v) ** (softness / 2))
    canvas[low[1] : high[1], low[0] : high[0]] *= (1 - depth)[..., None]
