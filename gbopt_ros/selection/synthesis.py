"""Synthetic flow (Appendix C): composites of the selected masks on one background photograph."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros.structures import BoolMask, Image

_OCTAVES = (4, 8, 16, 32, 64, 128)  # cells along the shorter side
_DECAY = 0.8  # of the amplitude from one octave to the next


def background_photograph(size: tuple[int, int], seed: int) -> Image:
    """A textured image to paste masks on: coloured noise with the spectrum of natural images.

    The paper takes a photograph from the Internet, so that objects of any colour stand out of
    it; texture at every scale does the same and needs no download.

    Args:
        size: (height, width).
        seed: the same seed gives the same image.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    height, width = size
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    amplitude = 1.0
    for cells in _OCTAVES:
        if cells > min(size):
            break
        grid = rng.normal(0, amplitude, (cells, max(1, cells * width // height), 3))
        image += cv2.resize(grid.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        amplitude *= _DECAY
    image -= image.mean(axis=(0, 1))
    image *= 50.0 / max(float(image.std()), 1e-6)
    return np.clip(image + 128, 0, 255).astype(np.uint8)


def composite(image: Image, foreground: BoolMask, photograph: Image) -> Image:
    """The selected masks' pixels cut out of a frame and pasted on the photograph: I'_t.

    Args:
        image: (H, W, 3) uint8, RGB.
        foreground: (H, W) bool, the union of the masks.
        photograph: (H, W, 3) uint8, RGB.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    pasted: Image = photograph.copy()
    cv2.copyTo(np.ascontiguousarray(image), foreground.astype(np.uint8), pasted)
    return pasted


def synthetic_flow(
    inside: NDArray[np.floating], flow: NDArray[np.floating], foreground: BoolMask
) -> NDArray[np.float32]:
    """F'_t: the composites' flow on the masks of frame t, the mean of F_t outside them.

    Args:
        inside: (H, W, 2), the flow network's output on the pair of composites.
        flow: (H, W, 2), F_t.
        foreground: (H, W) bool, the union of the masks of frame t.

    Returns:
        (H, W, 2) float32, pixels.
    """
    synthetic = np.array(inside, np.float32)
    outside = flow[~foreground]
    if len(outside):
        synthetic[~foreground] = outside.mean(axis=0, dtype=np.float64)
    return synthetic
