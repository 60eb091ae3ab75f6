"""Video files as OpenCV opens them; it takes their names, and nothing else, on trust."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# FFmpeg's messages on stderr repeat the errors of this package.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2

# OpenCV 5 moved it.
_set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel


@contextmanager
def video_reader(path: Path) -> Iterator[cv2.VideoCapture]:
    """A video file for reading, or a capture that is not open if it is none."""
    with _plain_name(path) as name:
        level = _set_log_level(0)  # what a caller raises replaces OpenCV's warnings
        try:
            capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
        finally:
            _set_log_level(level)
        try:
            yield capture
        finally:
            capture.release()


@contextmanager
def _plain_name(path: Path) -> Iterator[str]:
    """A name by which OpenCV and FFmpeg find this file.

    FFmpeg takes a name such as `2026-01-02T10:30:00.avi` for a protocol unless it is absolute.
    OpenCV crashes on a name that is no UTF-8; then this is a link to the file.
    """
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory(prefix="gbopt-") as folder:
            link = Path(folder, "video" + os.fsencode(path.suffix).decode("ascii", "ignore"))
            link.symlink_to(name)
            yield str(link)
    else:
        yield name
