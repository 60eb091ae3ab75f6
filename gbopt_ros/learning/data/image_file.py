"""Image files of the training set: checked before they are stored, and whenever they are listed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from gbopt_ros.io.files import sha256_of
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.io.sources.images import UndecodableImage, decode_image
from gbopt_ros.masks import areas, check_rles, decode, is_consistent
from gbopt_ros.structures import GboptError, Rle

DIGEST_DIGITS = 32  # of the SHA-256 that an image file is named by
_MAX_DIFFERENCE = 16.0  # mean, in grey levels of 255; JPEG of quality 50 changes up to 11


class ImageFile(NamedTuple):
    """An image file with a name made of its content, so that equal images are stored once."""

    name: str
    content: bytes


def checked_image(frame: SelectedFrame) -> ImageFile:
    """The image file of a frame that can be learnt from.

    Raises:
        GboptError: the image is damaged, or the masks do not fit it; the message says what to do.
    """
    path = frame.image_path
    try:
        content = path.read_bytes()
        found = decode_image(np.frombuffer(content, np.uint8)).shape[:2]
        if found != tuple(frame.size):
            raise ValueError(f"expected {frame.size} (height, width) in pixels, got {found}")
        for rle in frame.rles:
            if tuple(rle["size"]) != tuple(frame.size) or not is_consistent(rle):
                raise ValueError(f"a mask does not fill the image, its size is {rle['size']}")
        if not all(math.isfinite(score) for score in frame.scores):
            raise ValueError(f"expected finite scores, got {frame.scores}")
        if not all(0 <= confidence <= 1 for confidence in frame.confidences):
            raise ValueError(f"expected confidences in [0, 1], got {frame.confidences}")
    except (OSError, UndecodableImage, ValueError) as error:
        raise GboptError(
            f"{path}: frame {frame.frame_index} of {frame.recording} cannot be learnt from: "
            f"{getattr(error, 'strerror', None) or error}; replay the recording again"
        ) from error
    return ImageFile(digest_of(content) + path.suffix, content)


def digest_of(content: bytes) -> str:
    """What an image file with this content is named by."""
    return hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS]


def check_labels(path: Path, size: tuple[int, int], rles: Sequence[Rle]) -> None:
    """Check masks that a person gives to an image of a training set.

    Args:
        path: the image, for the message.
        size: its (height, width) in pixels.

    Raises:
        GboptError: a mask has another size or no pixel.
    """
    try:
        check_rles(rles, size)
    except ValueError as error:
        raise GboptError(f"{path}: {error}; label the image as it was exported") from error
    if not areas(rles).all():
        raise GboptError(f"{path}: mask {int(areas(rles).argmin())} has no pixel; remove it")


def shows_the_same(path: Path, content: bytes, rles: Sequence[Rle]) -> bool:
    """Whether an image file of a training set and another one show the same, encoded differently.

    They do where neither the images nor their parts under any mask differ much. A file that is
    gone or damaged might have shown anything.

    Args:
        path: the file of the training set.
        content: the other file, of the same size in pixels.
        rles: masks in it.
    """
    try:
        before = decode_image(np.fromfile(path, np.uint8))
    except (OSError, UndecodableImage):
        return True
    after = decode_image(np.frombuffer(content, np.uint8))
    if before.shape != after.shape:
        return True
    difference = cv2.absdiff(before, after).mean(axis=2)
    parts = [difference, *(difference[decode(rle)] for rle in rles)]
    return max(float(part.mean()) for part in parts) <= _MAX_DIFFERENCE


def is_intact(path: Path, size: int) -> bool:
    """Whether it is a file of this number of bytes with the content that it is named by."""
    try:
        return path.stat().st_size == size and sha256_of(path).startswith(path.stem)
    except OSError:
        return False
