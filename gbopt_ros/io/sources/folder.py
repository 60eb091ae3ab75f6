"""A folder of images as a recording."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gbopt_ros.io.sources.base import Record, Source, SourceOptions
from gbopt_ros.io.sources.images import read_image
from gbopt_ros.structures import GboptError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm", ".mpg", ".mpeg", ".y4m")
FOLDER_HZ = 30
_JPEG_SUFFIXES = (".jpg", ".jpeg")
_STAMP = re.compile(r"\d{16,19}")


class FolderSource(Source):
    """Images of one folder, sub-folders not included, in natural order (`9.png`, `10.png`).

    A PNG beside a JPEG of the same stem is taken for a ground-truth mask, as in DAVIS and
    YCB-Video folders, and left out. Where every stem is a number of 16 to 19 digits, it is the
    stamp in nanoseconds. Otherwise stamps count from 0 at 30 Hz.
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
        stamped = all(_STAMP.fullmatch(file.stem) for file in self._files)
        for index, file in enumerate(self._files):
            stamp_ns = int(file.stem) if stamped else round(index * 10**9 / FOLDER_HZ)
            decode = partial(read_image, file, self.options.max_pixels)
            yield Record(index, stamp_ns, decode, file_name=file.name)


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
