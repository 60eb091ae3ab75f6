"""A video file as a recording, read by OpenCV."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from gbopt_ros.io.sources.base import Record, Source, SourceOptions
from gbopt_ros.io.sources.images import UndecodableImage, check_pixels
from gbopt_ros.io.video_file import video_reader
from gbopt_ros.structures import GboptError, Image

logger = logging.getLogger(__name__)

_FALLBACK_HZ = 30.0
_BOXES = (
    *(b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"meta", b"udta", b"pnot"),
    *(b"styp", b"sidx", b"moof", b"mfra", b"emsg", b"prft", b"pdin"),
)


class VideoSource(Source):
    """Frames of a video file with the container's stamps, from 0 nanoseconds.

    Stamps strictly increase: one that does not is replaced by its predecessor plus a frame period.
    """

    def __init__(self, path: Path, options: SourceOptions) -> None:
        super().__init__(path, options)
        with _opened(path, options.max_pixels) as capture:
            count = round(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._total = count if count > 0 else None

    @property
    def total(self) -> int | None:
        """The container's own count; some containers only state a duration, so it is a guess."""
        return self._total

    def _records(self) -> Iterator[Record]:
        index = 0
        previous_ns = -1
        with _opened(self.path, self.options.max_pixels) as capture:
            period_ns = _period_ns(capture)
            while capture.grab():
                stamp_ns = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
                if stamp_ns <= previous_ns:
                    stamp_ns = previous_ns + period_ns
                stamp_ns = max(stamp_ns, 0)
                yield Record(index, stamp_ns, partial(_retrieve, capture))
                previous_ns = stamp_ns
                index += 1
        self._check_end(index)

    def _check_end(self, read: int) -> None:
        missing = missing_bytes(self.path)
        if missing:
            raise GboptError(
                f"{self.path}: cut off, the file lacks {missing} bytes; {read} frames before that "
                "were read; copy the file again, or use --end to stop before the damage"
            )
        if self._total is not None and read < 0.98 * self._total - 2:
            logger.warning(
                "%s: %d frames were read, about %d expected", self.path, read, self._total
            )


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[cv2.VideoCapture]:
    with video_reader(path) as capture:
        if not capture.isOpened():
            missing = missing_bytes(path)
            cause = f"cut off, it lacks {missing} bytes" if missing else "not a readable video"
            raise GboptError(
                f"{path}: {cause}; expected a rosbag2 (.mcap, .db3 or folder), a video file or a "
                "folder of images"
            )
        width, height = (
            int(capture.get(each)) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        try:
            check_pixels(width, height, max_pixels)
        except UndecodableImage as error:
            raise GboptError(f"{path}: frames of {error}") from error
        yield capture


def _period_ns(capture: cv2.VideoCapture) -> int:
    fps = capture.get(cv2.CAP_PROP_FPS)
    return round(1e9 / (fps if 0 < fps <= 1000 else _FALLBACK_HZ))


def _retrieve(capture: cv2.VideoCapture) -> Image:
    done, image = capture.retrieve()
    if not done or image is None:
        raise UndecodableImage("OpenCV cannot decode the frame")
    code = cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(image, code), np.uint8)


def missing_bytes(path: Path) -> int:
    """Bytes by which an MP4, MOV or AVI file is shorter than it says; 0 for any other file.

    Only the sizes of the top-level boxes are read. A decoder reports a normal end at the cut, so
    nothing else tells that the file is incomplete.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and len(head) >= 8:
            return max(0, 8 + int.from_bytes(head[4:8], "little") - size)
        if head[4:8] == b"ftyp":
            return max(0, _end_of_boxes(file, size) - size)
    return 0


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """End of the last top-level box of an ISO base media file, by the sizes that it states."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(16)
        if len(head) >= 8 and head[4:8] not in _BOXES:
            return size  # some cameras append data that are no boxes
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # the size follows in 64 bits
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:  # the box reaches to the end of the file
            return size
        position += max(length, 8)
    return position
