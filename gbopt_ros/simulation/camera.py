"""A pinhole camera that looks at a point, and its projection matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.perception.objects_3d import Intrinsics
from gbopt_ros.simulation.simulator import Simulator

HEIGHT, WIDTH = 240, 320
SUPERSAMPLING = 2  # the renderer does not smooth edges; frames are averaged down
NEAR_M, FAR_M = 0.05, 8.0


@dataclass(frozen=True)
class Camera:
    """Angles in degrees, lengths in metres; `pitch` is the angle below the horizon."""

    target: tuple[float, float, float]
    distance: float
    yaw: float
    pitch: float
    fov_y: float

    @property
    def pixels_per_metre(self) -> float:
        """Resolution of the final image at the distance of the target."""
        return self.intrinsics().focal[1] / self.distance

    @property
    def forward(self) -> NDArray[np.float64]:
        """(2,) horizontal unit vector of the viewing direction."""
        yaw = math.radians(self.yaw)
        return np.array([-math.sin(yaw), math.cos(yaw)])

    def intrinsics(self) -> Intrinsics:
        """Of the final image."""
        focal = HEIGHT / 2 / math.tan(math.radians(self.fov_y) / 2)
        return Intrinsics((HEIGHT, WIDTH), (focal, focal), ((WIDTH - 1) / 2, (HEIGHT - 1) / 2))

    def pose(self, sim: Simulator) -> NDArray[np.float64]:
        """(4, 4): from the camera (x right, y down, z forward) to the world, metres."""
        view, _ = self.matrices(sim)  # to x right, y up, z backward
        return np.linalg.inv(np.reshape(view, (4, 4)).T) @ np.diag([1.0, -1.0, -1.0, 1.0])

    def matrices(self, sim: Simulator) -> tuple[list[float], list[float]]:
        """View and projection matrix, column-major, for `getCameraImage`."""
        view = sim.bullet.computeViewMatrixFromYawPitchRoll(
            self.target, self.distance, self.yaw, -self.pitch, 0, 2
        )
        projection = sim.bullet.computeProjectionMatrixFOV(
            self.fov_y, WIDTH / HEIGHT, NEAR_M, FAR_M
        )
        return view, projection


def pixel_projection(
    matrices: tuple[Sequence[float], Sequence[float]], size: tuple[int, int]
) -> NDArray[np.float64]:
    """(3, 4): homogeneous world points to homogeneous pixels of a (height, width) image.

    Args:
        matrices: view and projection matrix of the renderer, column-major.
    """
    view, projection = matrices
    clip = np.reshape(projection, (4, 4)).T @ np.reshape(view, (4, 4)).T
    height, width = size
    return np.stack(
        [
            width / 2 * clip[0] + (width / 2 - 0.5) * clip[3],
            -height / 2 * clip[1] + (height / 2 - 0.5) * clip[3],
            clip[3],
        ]
    )


def random_camera(rng: np.random.Generator) -> Camera:
    return Camera(
        target=(float(rng.uniform(-0.04, 0.04)), float(rng.uniform(-0.04, 0.04)), 0.03),
        distance=float(rng.uniform(0.42, 0.75)),
        yaw=float(rng.uniform(0, 360)),
        pitch=float(rng.uniform(22, 75)),
        fov_y=float(rng.uniform(42, 56)),
    )


class CameraPath:
    """Smooth random motion around a first camera: orbit, rise, approach and translation."""

    def __init__(self, rng: np.random.Generator, first: Camera) -> None:
        self._first = first
        still = rng.random() < 0.15
        spread = np.array([1.1, 0.5, 0.004, 3e-3, 3e-3])  # degrees and metres a frame
        rates = np.clip(rng.normal(0, 1, 5), -2, 2) * spread
        self._rates = np.zeros(5) if still else rates
        self._phases = rng.uniform(0, 2 * math.pi, 5)

    def at(self, frame: int) -> Camera:
        """The camera of a frame; its speed swings slowly by a third."""
        swing = np.sin(0.35 * frame + self._phases) - np.sin(self._phases)
        yaw, pitch, distance, x, y = self._rates * (frame + swing)
        first = self._first
        return replace(
            first,
            yaw=first.yaw + float(yaw),
            pitch=float(np.clip(first.pitch + pitch, 18, 82)),
            distance=float(np.clip(first.distance + distance, 0.38, 0.85)),
            target=(first.target[0] + float(x), first.target[1] + float(y), first.target[2]),
        )
