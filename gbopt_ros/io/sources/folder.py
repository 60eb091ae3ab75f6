"""A folder of images as a recording."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path

from gbopt_ros.io.sources.base import Record, Source, SourceOptions
from gbopt_ros.io.sources.images import read_image
from gbopt_ros.structures import GboptError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm", ".mpg", ".mpeg", ".y4m")
FOLDER_HZ = 30
_JPEG_SUFFIXES = (".jpg", ".jpeg")
# Nanoseconds, or seconds since 1970, of 10 digits from 2001 to 2286, with a fraction after them.
_STAMP = re.compile(r"(\d{17,19})|([1-9]\d{9})(\.\d{1,9}|\d{3}|\d{6})")


class FolderSource(Source):
    """Images of one folder, sub-folders not included, in natural order (`9.png`, `10.png`).

    A PNG beside a JPEG of the same stem is taken for a ground-truth mask, as in DAVIS and
    YCB-Video folders, and left out. Where every stem is a time stamp, images are in the order of
    these. A stamp has 17 to 19 digits, nanoseconds; or since 1970 16 digits, microseconds, 13,
    milliseconds, or 10 and a point, seconds. Otherwise stamps count from 0 at 30 Hz.
    """

    def __init__(self, path: Path, options: SourceOptions) -> None:
        super().__init__(path, options)
        self._files = list_images(path)
        if not self._files:
            raise GboptError(f"{path}: no image in this folder{_hint(path)}")

    @property
    def total(self) -> int:
        return len(self._files)

    def _records(self) -> Iterator[Record]:
        stamps = [s for file in self._files if (s := _stamp_ns(file.stem)) is not None]
        if len(stamps) < len(self._files):
            stamps = [round(i * 10**9 / FOLDER_HZ) for i in range(len(self._files))]
        # Natural order takes a fraction for a whole number: 5.2 before 5.19.
        in_time = sorted(zip(stamps, self._files, strict=True), key=itemgetter(0))
        for index, (stamp_ns, file) in enumerate(in_time):
            decode = partial(read_image, file, self.options.max_pixels)
            yield Record(index, stamp_ns, decode, file_name=file.name)


def _stamp_ns(name: str) -> int | None:
    """The time stamp that a name is, nanoseconds; None if it is none."""
    match = _STAMP.fullmatch(name)
    if match is None:
        return None
    nanoseconds, seconds, fraction = match.groups()
    return int(nanoseconds or seconds + fraction.removeprefix(".").ljust(9, "0"))


def list_images(folder: Path) -> list[Path]:
    """The image files of a folder in natural order, ground-truth masks and hidden files left out.

    Raises:
        GboptError: the folder cannot be read.
    """
    try:
        files = [
            file
            for file in folder.iterdir()
            if file.suffix.lower() in IMAGE_SUFFIXES
            and not file.name.startswith(".")
            and file.is_file()
        ]
    except OSError as error:
        raise GboptError(f"{folder}: cannot be read ({error.strerror})") from error
    photographs = {file.stem for file in files if file.suffix.lower() in _JPEG_SUFFIXES}
    return sorted(
        (f for f in files if f.suffix.lower() != ".png" or f.stem not in photographs),
        key=natural_key,
    )


def natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sorting key of a file name: runs of digits compare as numbers."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(p), "") if p.isdecimal() else (-1, p.casefold()) for p in parts], path.name


def _hint(folder: Path) -> str:
    """The end of the error message: what to name in its place, or what was expected."""
    for child in sorted(folder.iterdir(), key=natural_key):
        if child.suffix.lower() in VIDEO_SUFFIXES or os.path.isfile(child / "metadata.yaml"):
            return f", but a recording: {child}"
        if child.is_dir() and list_images(child):
            return f", but there are in {child}"
    return f": expected rosbag2 files or images ({', '.join(IMAGE_SUFFIXES)})"
