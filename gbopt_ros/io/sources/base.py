"""The base class of all recordings: a stream of frames with a stride, a range and a size."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gbopt_ros.io.limits import MAX_PIXELS
from gbopt_ros.io.sources.images import UndecodableImage, check_pixels
from gbopt_ros.structures import Frame, GboptError, Image

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceOptions:
    """The frames of a recording to read, and their size.

    Attributes:
        stride: every stride-th frame, counted from the first one in range.
        start: seconds from the recording's first frame; None is 0.
        end: seconds from the recording's first frame, exclusive; None is its end.
        resize: (width, height) in pixels; None keeps the size.
        max_pixels: images with more are not decoded.
    """

    stride: int = 1
    start: float | None = None
    end: float | None = None
    resize: tuple[int, int] | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise GboptError(f"stride: expected at least 1, got {self.stride}")
        for name, value in (("start", self.start), ("end", self.end)):
            if value is not None and not 0 <= value < float("inf"):
                raise GboptError(f"{name}: expected seconds from the first frame, got {value}")
        if self.end is not None and self.end <= (self.start or 0):
            raise GboptError(f"end: expected more than start, got {self.start or 0} to {self.end}")
        if self.resize is not None and min(self.resize) < 1:
            raise GboptError(f"resize: expected a positive width and height, got {self.resize}")
        if self.resize is not None:
            try:
                check_pixels(*self.resize, self.max_pixels)
            except UndecodableImage as error:
                raise GboptError(f"resize: {error}") from error


@dataclass(frozen=True)
class Record:
    """One image of a recording, not decoded yet.

    Attributes:
        index: position in the recording, counted from 0.
        stamp_ns: capture time, nanoseconds.
        decode: gives the image or raises `UndecodableImage`; valid until the next record is read.
        frame_id: coordinate frame of the ROS header, "" where there is none.
        file_name: as of `Frame`.
    """

    index: int
    stamp_ns: int
    decode: Callable[[], Image]
    frame_id: str = ""
    file_name: str = ""


class Source(ABC):
    """A recording. Iterating streams its frames; every iteration starts afresh.

    Undecodable images are left out, counted in `skipped`, and logged once as a warning. A damaged
    recording gives the frames before the damage and then raises a `GboptError`.

    Attributes:
        path: the file or folder.
        name: its name without folder and suffix.
        options: the frames to read.
        skipped: number of undecodable images in the latest iteration so far.
    """

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.path = path
        self.name = path.stem if path.is_file() else path.resolve().name
        self.options = options
        self.skipped = 0
        self._failure = ""  # of the first undecodable image in the latest iteration
        self._seconds = 0.0  # from the first image to the latest one read
        self._logged: set[int] = set()

    @property
    @abstractmethod
    def total(self) -> int | None:
        """Number of images in the whole recording, None if unknown."""

    @abstractmethod
    def _records(self) -> Iterator[Record]:
        """All images of the recording, in order."""

    @property
    def count(self) -> int | None:
        """Expected number of frames, None if unknown."""
        in_part = self.options.start is not None or self.options.end is not None
        if self.total is None or in_part:
            return None
        return -(-self.total // self.options.stride)

    def __iter__(self) -> Iterator[Frame]:
        """Frames in the order of the recording.

        Raises:
            GboptError: the recording is damaged, or it gives no frame.
        """
        self.skipped, self._failure = 0, ""
        yielded = 0
        for record in self.records():
            frame = self.decode(record)
            if frame is not None:
                yield frame
                yielded += 1
        if yielded == 0:
            raise self.no_frame()

    def decode(self, record: Record) -> Frame | None:
        """The frame of the latest record of `records`; None, and counted, if it is undecodable."""
        try:
            image = self._resized(record.decode())
        except UndecodableImage as error:
            self._skip(record, error)
            return None
        return Frame(image, record.stamp_ns, record.index, record.frame_id, record.file_name)

    def no_frame(self) -> GboptError:
        """The error of a recording that gave no frame."""
        if self.skipped:
            reason = f"none of {self.skipped} images can be decoded; {self._failure}"
        elif self._seconds < (self.options.start or 0.0):
            reason = (
                f"no image from second {self.options.start:g} on, it is {self._seconds:.1f} s "
                "long; start earlier"
            )
        else:
            reason = "no image in the requested range"
        return GboptError(f"{self.path}: {reason}")

    def records(self) -> Iterator[Record]:
        """The images in range, strided; they are not decoded.

        Raises:
            GboptError: the recording is damaged or empty.
        """
        first_ns: int | None = None
        in_range = 0
        for record in self._records():
            if first_ns is None:
                first_ns = record.stamp_ns
            self._seconds = (record.stamp_ns - first_ns) / 1e9
            if self.options.end is not None and self._seconds >= self.options.end:
                return
            if self.options.start is not None and self._seconds < self.options.start:
                continue
            if in_range % self.options.stride == 0:
                yield record
            in_range += 1
        if first_ns is None:
            raise GboptError(f"{self.path}: empty, it holds no image")

    def _resized(self, image: Image) -> Image:
        height, width = image.shape[:2]
        new_width, new_height = self.options.resize or (width, height)
        if (new_width, new_height) == (width, height):
            return image
        shrinks = new_width * new_height < width * height
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(
            cv2.resize(image, (new_width, new_height), interpolation=method), np.uint8
        )

    def _skip(self, record: Record, error: UndecodableImage) -> None:
        self.skipped += 1
        self._failure = self._failure or f"frame {record.index}: {error}"
        if record.index not in self._logged:
            self._logged.add(record.index)
            logger.warning(
                "%s: frame %d (stamp %d ns) skipped: %s",
                self.path,
                record.index,
                record.stamp_ns,
                error,
            )
