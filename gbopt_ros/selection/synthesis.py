"""Appendix C: composites of the selected masks on one background photograph."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros.io.sources.images import read_image
from gbopt_ros.structures import BoolMask, Image

_OCTAVES = (4, 8, 16, 32, 64, 128)  # cells along the shorter side
_DECAY = 0.8  # of the amplitude from one octave to the next


def background_photograph(size: tuple[int, int], seed: int, path: str = "") -> Image:
    """The image to paste masks on.

    Args:
        size: (height, width).
        seed: of the texture; the same seed gives the same image.
        path: image file, scaled to `size` as in the paper. Empty: a texture.

    Returns:
        (H, W, 3) uint8, RGB; a texture is shared and cannot be written.

    Raises:
        GboptError: the file is no complete image.
    """
    if path:
        return np.asarray(cv2.resize(_read(path), size[::-1], interpolation=cv2.INTER_AREA))
    return _texture(size, seed)


def at_composite_size(values: NDArray[Any], side: int) -> NDArray[Any]:
    """An image or a map (H, W, ...), shrunk so that its shorter side is at most `side`.

    Args:
        values: uint8, or float32 of a smooth map: four pixels then make one.
        side: `selection.composite_side`, pixels; 0: the size stays.
    """
    height, width = values.shape[:2]
    scale = side / min(height, width) if side else 1.0
    if scale >= 1:
        return values
    size = round(scale * width), round(scale * height)
    way = cv2.INTER_AREA if values.dtype == np.uint8 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, size, interpolation=way))


_read = lru_cache(maxsize=1)(lambda path: read_image(Path(path)))


@lru_cache(maxsize=2)  # sizes
def _texture(size: tuple[int, int], seed: int) -> Image:
    """Coloured noise with the spectrum of natural images.

    Objects of any colour stand out from texture at every scale, as from a photograph.
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
    texture = np.clip(image + 128, 0, 255).astype(np.uint8)
    texture.flags.writeable = False
    return texture


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
