"""Appendix C: composites of the selected masks on one background photograph."""

from __future__ import annotations

import cv2
import numpy as np

from gbopt_ros.structures import BoolMask, Image

_OCTAVES = (4, 8, 16, 32, 64, 128)  # cells along the shorter side
_DECAY = 0.8  # of the amplitude from one octave to the next


def background_photograph(size: tuple[int, int], seed: int) -> Image:
    """A textured image to paste masks on: coloured noise with the spectrum of natural images.

    Objects of any colour stand out from texture at every scale, as from the paper's photograph.

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
    """I'_t: the pixels of the selected masks of a frame, pasted on the photograph.

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
