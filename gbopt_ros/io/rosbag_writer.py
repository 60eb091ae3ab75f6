"""Frames written as a rosbag2."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

from gbopt_ros.io.files import replacing_folder
from gbopt_ros.io.sources.images import (
    COMPRESSED_TYPE,
    COMPRESSIONS,
    IMAGE_TYPE,
    encode_image,
    image_fields,
)
from gbopt_ros.io.sources.rosbag_storage import (
    CHUNK_CRC,
    FOOTER_CRC,
    TYPESTORE,
    read_summary,
)
from gbopt_ros.structures import Frame, GboptError

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}

_TOPIC = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")


class _McapWithChecksums(McapWriter):
    """An MCAP file with the checksums of its chunks and its summary, which the library leaves 0."""

    def close_chunk(self) -> None:
        start, checksum = self.bio.tell(), crc32(self.chunk.bio.getbuffer())
        super().close_chunk()
        end = self.bio.tell()
        self.bio.seek(start + CHUNK_CRC)
        self.bio.write(checksum.to_bytes(4, "little"))
        self.bio.seek(end)

    def close(self, version: int, metadata: str) -> None:
        super().close(version, metadata)
        with self.path.open("r+b") as file:
            summary = read_summary(file)
            if summary is not None:
                file.seek(-FOOTER_CRC, os.SEEK_END)
                file.write(crc32(summary).to_bytes(4, "little"))


class _Writer(Writer):
    STORAGE_PLUGINS: Mapping[StoragePlugin, type] = {
        StoragePlugin.MCAP: _McapWithChecksums,
        StoragePlugin.SQLITE3: Sqlite3Writer,
    }


def write_rosbag(
    frames: Iterable[Frame],
    out: Path,
    *,
    storage: str = "mcap",
    topic: str,
    compressed: str | None = None,
    jpeg_quality: int = 90,
    frame_id: str | None = None,
) -> int:
    """Write frames as one image topic of a new rosbag2 folder.

    The stamp of a frame is the stamp in the header of its message and its log time. Raw and PNG
    images come back bit for bit; JPEG is lossy. The folder appears when it is complete. An MCAP
    file has checksums, so that damage is noticed when it is read; SQLite has none.

    Args:
        frames: read once, one at a time.
        out: folder to make; must not exist, or be empty.
        storage: "mcap" or "sqlite3".
        topic: absolute ROS name of the image topic.
        compressed: None for `sensor_msgs/Image` in rgb8, "jpeg" or "png" for
            `sensor_msgs/CompressedImage`.
        jpeg_quality: 1 to 100.
        frame_id: coordinate frame for every header; None takes each frame's own.

    Returns:
        The number of messages.

    Raises:
        GboptError: `out` exists or cannot be written, an argument is out of range, a stamp does
            not fit a ROS header, or there is no frame.
    """
    out = Path(out)
    _check_arguments(storage, topic, compressed, jpeg_quality)
    messages = (_message(frame, compressed, jpeg_quality, frame_id) for frame in frames)
    message_type = COMPRESSED_TYPE if compressed else IMAGE_TYPE
    with replacing_folder(out, WriterError, sqlite3.Error) as bag:
        count = 0
        with _Writer(bag, version=9, storage_plugin=STORAGES[storage]) as writer:
            connection = writer.add_connection(topic, message_type, typestore=TYPESTORE)
            for stamp_ns, message in messages:
                writer.write(connection, stamp_ns, TYPESTORE.serialize_cdr(message, message_type))
                count += 1
            if count == 0:
                raise GboptError(f"{out}: no frame to write, the source is empty")
    return count


def _check_arguments(storage: str, topic: str, compressed: str | None, jpeg_quality: int) -> None:
    if storage not in STORAGES:
        raise GboptError(f"storage: expected one of {', '.join(STORAGES)}, got {storage!r}")
    if not _TOPIC.fullmatch(topic):
        raise GboptError(f"topic: expected an absolute ROS name such as /camera, got {topic!r}")
    if compressed is not None and compressed not in COMPRESSIONS:
        raise GboptError(f"compressed: expected one of {COMPRESSIONS} or None, got {compressed!r}")
    if not 1 <= jpeg_quality <= 100:
        raise GboptError(f"jpeg_quality: expected 1 to 100, got {jpeg_quality}")


def _message(
    frame: Frame, compressed: str | None, jpeg_quality: int, frame_id: str | None
) -> tuple[int, Any]:
    """Stamp and message of a frame."""
    header = _header(frame, frame.frame_id if frame_id is None else frame_id)
    if compressed is None:
        message_class = TYPESTORE.types[IMAGE_TYPE]
        return frame.stamp_ns, message_class(header=header, **image_fields(frame.image))
    data = encode_image(frame.image, compressed, jpeg_quality)
    message_class = TYPESTORE.types[COMPRESSED_TYPE]
    return frame.stamp_ns, message_class(header=header, format=compressed, data=data)


def _header(frame: Frame, frame_id: str) -> Any:
    seconds, nanoseconds = divmod(frame.stamp_ns, 10**9)
    if not 0 <= seconds < 2**31:
        raise GboptError(
            f"frame {frame.index}: stamp {frame.stamp_ns} ns does not fit a ROS header "
            "(0 to 2^31 seconds)"
        )
    types = TYPESTORE.types
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)
