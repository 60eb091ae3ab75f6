"""Textured images, and images that moved by a known number of pixels."""

from __future__ import annotations

import cv2
import numpy as np


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8, random at several scales."""
    rng = np.random.default_rng(seed)
    layers = [
        sigma * cv2.GaussianBlur(rng.random((height, width, 3)), (0, 0), sigma)
        for sigma in (1.5, 3.0, 6.0)
    ]
    return cv2.normalize(sum(layers), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def moved(height: int, width: int, dx: int, dy: int) -> tuple[np.ndarray, np.ndarray]:
    """A textured image, and what it looks like after all of it went by (dx, dy) pixels."""
    big, edge = texture(height + 20, width + 20), 10
    return (
        big[edge : edge + height, edge : edge + width],
        big[edge - dy : edge - dy + height, edge - dx : edge - dx + width],
    )
