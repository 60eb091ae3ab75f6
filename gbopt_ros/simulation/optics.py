"""The effects of lens and sensor on a rendered image."""

from __future__ import annotations

import cv2
import numpy as np

from gbopt_ros.simulation.textures import Texture
from gbopt_ros.structures import Image


class Optics:
    """One camera's white balance, exposure, blur, vignetting and noise."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        row, column = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        falloff = 1 - rng.uniform(0, 0.15) * (row * row + column * column)
        slope = rng.uniform(-0.1, 0.1, 2)
        gain = falloff * (1 + slope[0] * row + slope[1] * column) * rng.uniform(0.8, 1.2)
        balance = np.clip(rng.normal(1, 0.05, 3), 0.85, 1.15)
        self._gain = (gain[..., None] * balance).astype(np.float32)
        self._contrast = float(rng.uniform(0.82, 1.15))
        self._gamma = float(rng.uniform(0.85, 1.2))
        self._blur = float(rng.uniform(0.25, 0.75)) if rng.random() < 0.35 else 0.0
        self._noise = float(rng.uniform(0.0, 0.018))

    def __call__(self, image: Texture, rng: np.random.Generator) -> Image:
        """(H, W, 3) float32 RGB in [0, 1] to uint8; `rng` gives the noise of this frame."""
        seen = np.clip(image * self._gain, 0, 1) ** self._gamma
        seen = (seen - 0.5) * self._contrast + 0.5
        if self._blur:
            seen = cv2.GaussianBlur(seen, (0, 0), self._blur)
        seen = seen + self._noise * rng.standard_normal(seen.shape, dtype=np.float32)
        return (np.clip(seen, 0, 1) * 255 + 0.5).astype(np.uint8)
