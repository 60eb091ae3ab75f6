"""Colour and depth of a scene, as a depth camera on a robot measures them, with the true places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.simulation.camera import Camera
from gbopt_ros.simulation.scene import Scene, Visible
from gbopt_ros.simulation.simulator import Simulator
from gbopt_ros.structures import Image

NOISE = 0.006  # standard deviation at 1 m, metres; it grows with the square of the depth
HOLES = 0.1  # share of the pixels without a measurement


@dataclass(frozen=True)
class RgbdFrame:
    """One frame of a depth camera.

    Attributes:
        image: (240, 320, 3) uint8 RGB.
        depth: (240, 320) float32, metres along the optical axis; NaN where nothing was measured.
        objects: the visible objects with their true places.
        pose: (4, 4) from the camera (x right, y down, z forward) to the world (z up), metres.
    """

    image: Image
    depth: NDArray[np.float32]
    objects: tuple[Visible, ...]
    pose: NDArray[np.float64]


def render_rgbd(
    sim: Simulator, scene: Scene, cameras: Sequence[Camera], rng: np.random.Generator
) -> list[RgbdFrame]:
    """A recording: the scene as it stands, seen by one camera after the other."""
    frames = []
    for camera in cameras:
        image, objects = scene.render(camera, rng)
        depth = measured(scene.depth(camera), rng)
        frames.append(RgbdFrame(image, depth, objects, camera.pose(sim)))
    return frames


def measured(depth: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A depth image with the noise of a sensor, and holes as NaN; infinite depths are holes too."""
    is_there = np.isfinite(depth) & (rng.random(depth.shape) >= HOLES)
    true = np.where(is_there, depth, 1.0)
    noisy = true + NOISE * true**2 * rng.normal(size=depth.shape)
    return np.where(is_there, noisy, np.nan).astype(np.float32)
