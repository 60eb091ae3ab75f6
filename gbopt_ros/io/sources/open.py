"""Recognises the kind of a recording and opens it, and tells whether it has changed."""

from __future__ import annotations

import re
from pathlib import Path

from gbopt_ros.io.json_file import printable
from gbopt_ros.io.limits import MAX_PIXELS
from gbopt_ros.io.sources.base import Source, SourceOptions
from gbopt_ros.io.sources.folder import IMAGE_SUFFIXES, FolderSource
from gbopt_ros.io.sources.rosbag import STORAGE_SUFFIXES, RosbagSource
from gbopt_ros.io.sources.rosbag_storage import MCAP_MAGIC, SQLITE_MAGIC, ZSTD_MAGIC
from gbopt_ros.io.sources.video import VideoSource
from gbopt_ros.structures import GboptError

_ADDRESS = re.compile(r"[a-z]+:/", re.IGNORECASE)  # of a stream; `Path` makes one slash of two
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def open_source(
    path: str | Path,
    *,
    topic: str | None = None,
    stride: int = 1,
    start: float | None = None,
    end: float | None = None,
    resize: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Source:
    """Open a recording: a rosbag2, a video file or a folder of images.

    A folder with metadata.yaml, `.mcap` or `.db3` files is a rosbag2, any other folder holds
    images. A file that starts with the signature of MCAP or SQLite is a storage file of a rosbag2,
    any other file is a video.

    Args:
        path: folder or file.
        topic: image topic of a rosbag2; None takes the only one.
        stride: every stride-th frame, counted from the first one in range.
        start: seconds from the recording's first frame.
        end: seconds from the recording's first frame, exclusive.
        resize: (width, height) in pixels that every frame is scaled to.
        max_pixels: images with more are left out as undecodable, and such a video is refused.

    Raises:
        GboptError: no such path, no recording there, or an argument out of range.
    """
    path = Path(path)
    options = SourceOptions(stride, start, end, resize, max_pixels)
    try:
        is_rosbag = _is_rosbag(path)
    except OSError as error:
        raise GboptError(f"{path}: cannot be read ({error.strerror})") from error
    if is_rosbag:
        return RosbagSource(path, options, topic)
    if topic is not None:
        raise GboptError(f"{path}: not a rosbag2, so it has no topic {topic}; name none")
    return FolderSource(path, options) if path.is_dir() else VideoSource(path, options)


def files_of_recording(path: Path) -> list[tuple[str, int, int]]:
    """Name, bytes and time of the last change (nanoseconds) of the files of a recording.

    This tells in no time whether a recording has changed; a digest would have to read it all.

    Raises:
        GboptError: it is not there, or cannot be read.
    """
    try:
        # Other children, such as links that lead nowhere, are not read either.
        files = filter(Path.is_file, path.iterdir()) if path.is_dir() else [path]
        stats = [(printable(file.name), file.stat()) for file in sorted(files)]
    except OSError as error:
        raise GboptError(f"{path}: cannot be read ({error.strerror})") from error
    return [(name, s.st_size, s.st_mtime_ns) for name, s in stats]


def _is_rosbag(path: Path) -> bool:
    if path.is_char_device() or (_ADDRESS.match(str(path)) and not path.exists()):
        raise GboptError(
            f"{path}: a camera or a stream, no recording; let its driver publish a topic, and name "
            "that: gbopt run --camera TOPIC"
        )
    if not path.exists():
        raise GboptError(f"{path}: no such file or folder")
    if path.is_dir():
        metadata = path / "metadata.yaml"
        stated = metadata.is_file() and b"rosbag2_bagfile_information" in metadata.read_bytes()
        return stated or any(file.suffix in STORAGE_SUFFIXES for file in path.iterdir())
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith((MCAP_MAGIC, SQLITE_MAGIC)):
        return True
    refusal = _refusal(path.suffix.lower(), head)
    if refusal:
        raise GboptError(f"{path}: {refusal}")
    return False


def _refusal(suffix: str, head: bytes) -> str:
    """Why a file cannot be a video; "" where it may be one."""
    if not head:
        return "the file is empty"
    if head.startswith(b"#ROSBAG"):
        return "a bag of ROS 1; convert it with `rosbags-convert`"
    if head.startswith(ZSTD_MAGIC):
        return "compressed with zstd; open the bag's folder, or decompress it with `zstd -d`"
    if suffix in STORAGE_SUFFIXES:
        kind = "an MCAP" if suffix == ".mcap" else "an SQLite"
        return f"named {suffix}, but it does not start as {kind} file does; it is damaged"
    if suffix in IMAGE_SUFFIXES:
        return "a single image; name its folder"
    # FFmpeg renders text files as a terminal does, and opens the files that a playlist names.
    if not head.startswith(b"YUV4MPEG2") and not _CONTROL.search(head):
        return "a text file; expected a rosbag2, a video file or a folder of images"
    return ""
