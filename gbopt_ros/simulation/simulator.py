"""One pybullet client of this process: loading without chatter, textures, random light."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros.simulation.textures import Texture
from gbopt_ros.structures import GboptError


def require_pybullet() -> None:
    """Raises GboptError where the extra `sim` is not installed."""
    if find_spec("pybullet") is None or find_spec("pybullet_data") is None:
        raise GboptError("the Tabletop world needs pybullet: pip install 'gbopt_ros[sim]'")


class Simulator:
    """A physics world in metres, z up, that is emptied before each scene."""

    STEP_S = 1 / 120

    def __init__(self) -> None:
        require_pybullet()
        import pybullet  # an optional extra, which greets on stdout when imported
        import pybullet_data

        self.bullet = pybullet
        self.models = Path(pybullet_data.getDataPath())
        self.bullet.connect(self.bullet.DIRECT)
        self._scratch = tempfile.TemporaryDirectory(prefix="gbopt_world_")
        self._texture_count = 0

    def reset(self) -> None:
        """Remove everything, so that a scene does not depend on earlier ones."""
        self.bullet.resetSimulation()
        self.bullet.setPhysicsEngineParameter(
            fixedTimeStep=self.STEP_S, deterministicOverlappingPairs=1, enableFileCaching=1
        )
        self.bullet.setGravity(0, 0, -9.81)

    def add_solid_plane(self, origin: NDArray[np.float64], normal: NDArray[np.float64]) -> None:
        """An infinite plane that objects rest on or bump into, and that is not rendered."""
        collision = self.bullet.createCollisionShape(
            self.bullet.GEOM_PLANE, planeNormal=normal.tolist()
        )
        # Without a visual shape the collision shape would be drawn; no camera looks up.
        hidden = self.bullet.createVisualShape(
            self.bullet.GEOM_SPHERE, radius=1e-6, visualFramePosition=[0, 0, 100]
        )
        self.bullet.createMultiBody(0, collision, hidden, origin.tolist())

    def step(self, seconds: float) -> None:
        for _ in range(round(seconds / self.STEP_S)):
            self.bullet.stepSimulation()

    def load_texture(self, texture: Texture) -> int:
        """Texture id of an (S, S, 3) float32 RGB image in [0, 1]; valid until the next reset."""
        self._texture_count += 1  # the renderer takes equal file names for equal textures
        path = Path(self._scratch.name) / f"{self._texture_count}.bmp"
        bgr = np.ascontiguousarray((255 * texture[:, :, ::-1]).astype(np.uint8))
        cv2.imwrite(str(path), bgr)
        texture_id = int(self.bullet.loadTexture(str(path)))
        path.unlink()
        return texture_id


def random_light(rng: np.random.Generator) -> dict[str, Any]:
    """Keyword arguments of `getCameraImage` for one random lamp."""
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 2.0)
    tint = np.clip(1 + rng.normal(0, 0.05, 3), 0.8, 1.0)
    ambient = rng.uniform(0.35, 0.65)
    return {
        "lightDirection": [float(np.cos(azimuth)), float(np.sin(azimuth)), float(height)],
        "lightColor": tint.tolist(),
        "lightDistance": 2.0,
        "lightAmbientCoeff": float(ambient),
        "lightDiffuseCoeff": float(rng.uniform(0.75, 1.05) - 0.5 * ambient),
        "lightSpecularCoeff": float(rng.choice([0.0, 0.05, rng.uniform(0.1, 0.6)])),
        "shadow": int(rng.random() < 0.75),
    }
