"""A rosbag2 as a recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection

from gbopt_ros.io.sources.base import Record, Source, SourceOptions
from gbopt_ros.io.sources.folder import natural_key
from gbopt_ros.io.sources.images import (
    COMPRESSED_TYPE,
    IMAGE_TYPE,
    IMAGE_TYPES,
    UndecodableImage,
    image_from_compressed_message,
    image_from_message,
)
from gbopt_ros.io.sources.rosbag_storage import (
    TYPESTORE,
    ZSTD_MAGIC,
    DamagedBag,
    open_storages,
    read_messages,
)
from gbopt_ros.structures import GboptError, Image

STORAGE_SUFFIXES = (".mcap", ".db3")
_DECODERS = {IMAGE_TYPE: image_from_message, COMPRESSED_TYPE: image_from_compressed_message}


class RosbagSource(Source):
    """One image topic of a rosbag2.

    The stamp of a frame is that of the header, or the log time where the header has 0. Frames come
    in the order of their log times, or of the file where an MCAP file has no index.
    """

    def __init__(self, path: Path, options: SourceOptions, topic: str | None = None) -> None:
        """Args:
            path: rosbag2 folder, with or without metadata.yaml, or one storage file.
            options: the frames to read.
            topic: image topic; None takes the only one that has messages.

        Raises:
            GboptError: unreadable bag, no such topic, a topic of another type, or several image
                topics and none named.
        """
        super().__init__(path, options)
        self._files = storage_files(path)
        try:
            with open_storages(self._files) as storages:
                connections = [c for storage in storages for c in storage.connections]
                damage = next((storage.damage for storage in storages if storage.damage), "")
        except DamagedBag as error:
            raise GboptError(f"{error}; {_recovery(error.path)}") from error
        self.topic = _choose_topic(path, connections, topic, damage)
        count = sum(c.msgcount for c in connections if self._is_wanted(c))
        self._total = None if damage or count == 0 else count

    @property
    def total(self) -> int | None:
        return self._total

    def _is_wanted(self, connection: Connection) -> bool:
        return connection.topic == self.topic and connection.msgtype in IMAGE_TYPES

    def _records(self) -> Iterator[Record]:
        index = 0
        try:
            with open_storages(self._files) as storages:
                for connection, log_time, data in read_messages(storages, self._is_wanted):
                    yield self._record(index, connection.msgtype, log_time, data)
                    index += 1
        except DamagedBag as error:
            raise GboptError(
                f"{error}; {index} frames before the damage were read; {_recovery(error.path)}, or "
                "use --end to stop before the damage"
            ) from error

    def _record(self, index: int, message_type: str, log_time: int, data: bytes) -> Record:
        """Read the header now, decode the image later."""
        if data[:4] == ZSTD_MAGIC:
            raise GboptError(
                f"{self.path}: its messages are compressed with zstd; open the bag's folder, whose "
                "metadata.yaml says so"
            )
        try:
            message: Any = TYPESTORE.deserialize_cdr(data, message_type)
            stamp = message.header.stamp
        except Exception as error:  # damaged bytes make the library raise anything
            reason = f"not a {message_type} message ({error})"
            return Record(index, log_time, partial(_undecodable, reason))
        stamp_ns = stamp.sec * 10**9 + stamp.nanosec or log_time
        decode = partial(_DECODERS[message_type], message, self.options.max_pixels)
        return Record(index, stamp_ns, decode, message.header.frame_id)


def storage_files(path: Path) -> list[Path]:
    """What to open for a bag: a folder with metadata.yaml itself, otherwise the storage files."""
    if path.is_file() or (path / "metadata.yaml").exists():
        return [path]
    found = (file for file in path.iterdir() if file.suffix in STORAGE_SUFFIXES)
    return sorted(found, key=natural_key)


def _choose_topic(path: Path, connections: list[Connection], topic: str | None, damage: str) -> str:
    """The topic that is asked for, or the only one; compressed images also go by the base name."""
    types = {c.topic: c.msgtype for c in connections}
    counts = Counter({name: 0 for name in types})
    for connection in connections:
        counts[connection.topic] += connection.msgcount
    images = sorted(name for name, kind in types.items() if kind in IMAGE_TYPES)
    listing = ", ".join(f"{t} ({types[t]}, {counts[t]} messages)" for t in images) or "none"
    if topic in images:
        return topic
    if topic in types:
        raise GboptError(
            f"{path}: topic {topic} is of type {types[topic]}, expected "
            f"{' or '.join(IMAGE_TYPES)}; image topics are: {listing}"
        )
    if f"{topic}/compressed" in images:
        return f"{topic}/compressed"
    if topic is not None:
        raise GboptError(f"{path}: no topic {topic}; image topics are: {listing}")
    if not images:
        cause = f"{damage}, and no image topic comes before that" if damage else "no image topic"
        others = ", ".join(sorted(types)) or "none"
        raise GboptError(f"{path}: {cause}; its topics are: {others}")
    # `ros2 bag record --all` also records topics on which nothing is published.
    alive = [name for name in images if counts[name] > 0] or images
    if len(alive) > 1:
        raise GboptError(
            f"{path}: several image topics, name the one to read (topic=... in Python): {listing}"
        )
    return alive[0]


def _recovery(path: Path) -> str:
    if path.suffix == ".db3":
        return f"recover what is left with `sqlite3 {path.name} .recover`"
    if path.suffix == ".mcap":
        return f"recover what is left with `mcap recover {path.name}`"
    return (
        "recover what is left of each file with `mcap recover` or `sqlite3 FILE .recover`, then "
        "renew metadata.yaml with `ros2 bag reindex`"
    )


def _undecodable(reason: str) -> Image:
    raise UndecodableImage(reason)
