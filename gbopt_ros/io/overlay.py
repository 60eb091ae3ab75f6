"""Masks drawn over images, and videos of such images."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gbopt_ros import masks as mask_ops
from gbopt_ros.io.files import abandon, replacing, unwritable
from gbopt_ros.structures import GboptError, Image, Rle

# H.264 plays everywhere. OpenCV's wheels have no encoder of it, and their VP9 takes 0.2 s an image.
_CODEC, _OPTIONS = "libx264", {"preset": "superfast"}
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_GOLDEN = 0.618034  # step of the hue in turns; consecutive colours are never alike
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def colour(index: int) -> tuple[int, int, int]:
    """A saturated RGB colour for each index from 0, distinct for all that share an image."""
    saturation, value = ((0.85, 1.0), (0.6, 1.0), (0.95, 0.8))[index // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.56 + index * _GOLDEN) % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_masks(
    image: Image,
    rles: Sequence[Rle],
    labels: Sequence[str] | None = None,
    alpha: float = 0.5,
    colours: Sequence[int] | None = None,
) -> Image:
    """A copy of an (H, W, 3) uint8 RGB image with masks in colour, outlined by one pixel.

    Where masks overlap, the one that comes first is on top; all outlines are visible.

    Args:
        rles: S masks of the image's size, most important first.
        labels: S short texts such as scores, one beside each mask.
        alpha: opacity of the fill, 0 to 1.
        colours: S indices of `colour`, such as track ids; by default 0 to S - 1.
    """
    if any(tuple(rle["size"]) != image.shape[:2] for rle in rles):
        raise ValueError(f"masks must have the size of the image, {image.shape[:2]}")
    palette = np.array([colour(i) for i in (range(len(rles)) if colours is None else colours)])
    fill = np.full(image.shape[:2], -1, np.int32)
    outline = np.full(image.shape[:2], -1, np.int32)
    boxes = mask_ops.boxes_xyxy(rles).astype(int)
    crops = mask_ops.decode_crops(rles, boxes)
    for i in reversed(range(len(rles))):
        x0, y0, x1, y1 = boxes[i]
        if x1 <= x0 or y1 <= y0:
            continue
        # The frame of one pixel lets the erosion see where the mask ends.
        inside = np.pad(crops[i], 1)
        inner = cv2.erode(inside.astype(np.uint8), _CROSS).astype(bool)
        fill[y0:y1, x0:x1][inside[1:-1, 1:-1]] = i
        outline[y0:y1, x0:x1][(inside & ~inner)[1:-1, 1:-1]] = i

    drawn = image.copy()
    filled, outlined = fill >= 0, outline >= 0
    if filled.any():
        mixed = (1 - alpha) * image[filled] + alpha * palette[fill[filled]]
        drawn[filled] = np.rint(mixed).astype(np.uint8)
        drawn[outlined] = palette[outline[outlined]]
    for i in reversed(range(len(labels or ()))):
        assert labels is not None
        _draw_label(drawn, labels[i], boxes[i], palette[i])
    return drawn


def _draw_label(image: Image, text: str, box: np.ndarray, rgb: np.ndarray) -> None:
    """Text on a patch of the mask's colour, above the box or, without room there, in it."""
    height, width = image.shape[:2]
    scale = max(0.35, min(height, width) / 1000)
    (text_width, text_height), baseline = cv2.getTextSize(text, _FONT, scale, 1)
    patch_width, patch_height = text_width + 4, text_height + baseline + 2
    x = int(np.clip(box[0], 0, max(0, width - patch_width)))
    y = int(box[1]) - patch_height
    y = int(np.clip(y if y >= 0 else box[1], 0, max(0, height - patch_height)))
    corner = (x + patch_width - 1, y + patch_height - 1)
    cv2.rectangle(image, (x, y), corner, rgb.tolist(), cv2.FILLED)
    ink = (0, 0, 0) if rgb @ (0.299, 0.587, 0.114) > 110 else (255, 255, 255)
    cv2.putText(image, text, (x + 2, y + text_height + 1), _FONT, scale, ink, 1, cv2.LINE_AA)


OVERLAY_FPS = 10.0
"""Frames per second of the overlay of a replay, whatever the speed of the recording."""


class OverlayWriter:
    """Writes RGB images as an mp4 video; a context manager. Nothing is left after a failure.

    Args:
        path: replaced when the video is complete.
        fps: frames per second, 0.001 to 1000.
        size: (height, width) pixels of the video; None takes it from the first image. Images of
            another size are scaled to fit, with black bars. Odd sizes grow by a pixel.

    Raises:
        GboptError: no encoder, or the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float, size: tuple[int, int] | None = None) -> None:
        if not 1e-3 <= fps <= 1e3:
            raise GboptError(f"video: expected 0.001 to 1000 frames per second, got {fps}")
        self._path = Path(path)
        self._fps = fps
        self._size = size
        self._stream: Any = None  # of PyAV

    def __enter__(self) -> OverlayWriter:
        import av  # here: nodes draw masks, write no video, and do without its 17 MB

        with ExitStack() as files:
            aside = files.enter_context(replacing(self._path, av.FFmpegError))
            # Without `file:`, FFmpeg takes some names for protocols.
            self._video = files.enter_context(av.open(f"file:{aside}", "w", format="mp4"))
            self._files = files.pop_all()
        return self

    def write(self, image: Image) -> None:
        """Append an (H, W, 3) uint8 RGB image."""
        import av

        try:
            if self._stream is None:
                self._size = _even(self._size or image.shape[:2])
                rate = Fraction(self._fps).limit_denominator(1001)
                self._stream = self._video.add_stream(_CODEC, rate, options=_OPTIONS)
                self._stream.height, self._stream.width = self._size
                self._stream.pix_fmt = "yuv420p"
            assert self._size is not None
            frame = av.VideoFrame.from_ndarray(_letterbox(image, self._size), format="rgb24")
            self._video.mux(self._stream.encode(frame))
        except (OSError, av.FFmpegError) as error:
            raise unwritable(self._path, error) from error

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            abandon(self._files)
            return
        with self._files:
            if self._stream is None:
                raise GboptError(f"{self._path}: no image was given, a video needs at least one")
            self._video.mux(self._stream.encode())


def _even(size: tuple[int, ...]) -> tuple[int, int]:
    # The codecs halve the resolution of colours.
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def _letterbox(image: Image, size: tuple[int, int]) -> Image:
    """The image scaled to fit (height, width), centred on black."""
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    if _even((height, width)) == size:
        return cv2.copyMakeBorder(
            image, 0, size[0] - height, 0, size[1] - width, cv2.BORDER_REPLICATE
        )
    scale = min(size[0] / height, size[1] / width)
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    framed = np.zeros((*size, 3), np.uint8)
    framed[top : top + inner[0], left : left + inner[1]] = cv2.resize(
        image, (inner[1], inner[0]), interpolation=method
    )
    return framed
