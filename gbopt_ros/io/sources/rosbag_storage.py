"""Messages of a rosbag2, complete or damaged, with or without its metadata.yaml.

The rosbags library refuses an MCAP file without a footer, as a killed recorder leaves it, and does
not notice an incomplete SQLite file. The storages here read the sound part of an MCAP file, detect
an incomplete SQLite file, and report the damage after the last message.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from zlib import crc32

from backports import zstd
from lz4.frame import LZ4FrameDecompressor
from rosbags.interfaces import Connection
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.reader import DirectoryReader
from rosbags.rosbag2.storage_mcap import DECOMPRESSORS, McapReader
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader
from rosbags.typesys import Stores, get_typestore

from gbopt_ros.io.limits import FREE_BYTES, MAX_CHUNK_BYTES

TYPESTORE = get_typestore(Stores.ROS2_JAZZY)
MCAP_MAGIC = b"\x89MCAP0\r\n"
SQLITE_MAGIC = b"SQLite format 3\0"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

CHUNK_CRC = 1 + 8 + 24
"""Bytes from the start of a chunk record of MCAP to its checksum."""
FOOTER_CRC = 4 + len(MCAP_MAGIC)
"""Bytes from the checksum of the summary to the end of an MCAP file."""

T = TypeVar("T")
Message = tuple[Connection, int, bytes]
"""Connection, log time in nanoseconds, CDR data."""


def read_summary(file: BinaryIO) -> bytes | None:
    """What the checksum of an MCAP file's summary covers, None if it has no summary.

    Raises:
        ValueError: the file has no footer.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(-(20 + FOOTER_CRC - 4), os.SEEK_END)
    start = int.from_bytes(file.read(8), "little")
    if start == 0:
        return None
    if not 0 < start < size - FOOTER_CRC:
        raise ValueError("its footer is damaged")
    file.seek(start)
    return file.read(size - FOOTER_CRC - start)


def _bounded(make: Callable[[], Any]) -> Callable[..., bytes]:
    """A decompressor that stops at the size that a chunk states, at `MAX_CHUNK_BYTES` at most."""

    def decompress(data: bytes, size: int = MAX_CHUNK_BYTES) -> bytes:
        if size > MAX_CHUNK_BYTES:
            raise ReaderError(f"a chunk of {size} bytes, at most {MAX_CHUNK_BYTES} are allowed")
        whole = b""
        while data and len(whole) <= size:  # one compressed frame after the other
            decompressor = make()
            whole += decompressor.decompress(data, max_length=size + 1 - len(whole))
            data = decompressor.unused_data if decompressor.eof else b""
        if len(whole) > size:
            raise ReaderError(f"more than {size} bytes in a compressed chunk")
        return whole

    return decompress


_decompress_zstd = _bounded(zstd.ZstdDecompressor)
# The library's own make all that the data say: 6 GB from 100 KB.
DECOMPRESSORS.update(lz4=_bounded(LZ4FrameDecompressor), zstd=_decompress_zstd)


class Mcap(McapReader):
    """An MCAP file; one without a usable footer or index is read from its start.

    Attributes:
        damage: what is wrong with the file, "" if nothing is.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.damage = ""

    def open(self) -> None:
        try:
            super().open()
            self._check_summary()
        except Exception as error:  # damaged bytes make the library raise anything
            if not self.data_start:
                raise ReaderError(f"not a readable MCAP file of ROS 2 ({error})") from error
            self.damage = f"its end is missing or damaged ({error})"
            self._open_damaged()

    def _check_summary(self) -> None:
        """Raise ReaderError if the index is not what its writer made."""
        assert self.bio is not None
        summary = read_summary(self.bio)
        self.bio.seek(-FOOTER_CRC, os.SEEK_END)
        stated = int.from_bytes(self.bio.read(4), "little")
        if summary is not None and stated and stated != crc32(summary):
            self.close()
            raise ReaderError("checksum of its index")

    def _open_damaged(self) -> None:
        self.chunks.clear()
        self.bio = self.path.open("rb")
        self.data_end = self.path.stat().st_size
        with suppress(Exception):  # ends at the damage; the topics before it are known then
            self.meta_scan()

    @property
    def _is_scanned(self) -> bool:
        """Messages are read in file order, for want of an index of all chunks."""
        return not self.chunks or not all(c.message_index_offsets for c in self.chunks)

    def messages(
        self,
        connections: Collection[Connection],
        start: int | None = None,
        stop: int | None = None,
    ) -> Generator[Message, None, None]:
        if not self._is_scanned:
            yield from super().messages(connections, start, stop)
            return
        yield from self.messages_scan(connections, start, stop)
        if self.damage:
            raise ReaderError(self.damage)
        if self.bio is not None and self.bio.tell() < self.data_end:
            raise ReaderError(f"a chunk before byte {self.bio.tell()} is damaged")


class Sqlite3(Sqlite3Reader):
    """An SQLite file, opened only if all of it is there."""

    damage = ""  # a damaged file does not open

    def open(self) -> None:
        _check_sqlite(Path(str(self.path)))
        super().open()


def _check_sqlite(path: Path) -> None:
    """Raise `ReaderError` where SQLite would silently read only a part."""
    for suffix in ("-wal", "-journal"):
        beside = path.with_name(path.name + suffix)
        if beside.exists() and beside.stat().st_size > 0:
            raise ReaderError(
                f"the recording was not closed, {beside.name} holds a part of it; run "
                f"`sqlite3 {path.name} .tables` in its folder once to complete it"
            )
    with path.open("rb") as file:
        head = file.read(100)
    if not head.startswith(SQLITE_MAGIC) or len(head) < 100:
        raise ReaderError("not an SQLite file")
    page = int.from_bytes(head[16:18], "big")
    pages = int.from_bytes(head[28:32], "big")
    expected = (65536 if page == 1 else page) * pages
    size = path.stat().st_size
    # Two equal counters mean that the number of pages in the header is up to date.
    if head[24:28] == head[92:96] and size < expected:
        raise ReaderError(f"cut off: {expected} bytes expected, {size} found")


def _check_room(packed: Collection[Path]) -> None:
    """Raise `ReaderError` where files that are compressed as a whole would fill the disk.

    The library unpacks them into the temporary folder. How large they are is told by unpacking
    them: what their headers say may be wrong.
    """
    if not packed:
        return
    folder = tempfile.gettempdir()
    room = left = max(0, shutil.disk_usage(folder).free - FREE_BYTES)
    for path in packed:
        with zstd.open(path, "rb") as file:
            while left >= 0 and (block := file.read(1 << 20)):
                left -= len(block)
        if left < 0:
            raise ReaderError(
                f"unpacked, it takes more than the {room} bytes that {folder} has room for; unpack "
                "it elsewhere with `zstd -d`, or set TMPDIR"
            )


class Folder(DirectoryReader):
    """A rosbag2 folder with metadata.yaml."""

    STORAGE_PLUGINS: Mapping[str, type] = {"mcap": Mcap, "sqlite3": Sqlite3}

    def open(self) -> None:
        _check_room(sorted(Path(str(self.path)).glob("*.zstd")))
        super().open()
        if not all(
            isinstance(c.topic, str) and isinstance(c.msgtype, str) and isinstance(c.msgcount, int)
            for c in self.connections
        ):
            raise ReaderError("metadata.yaml: expected text and whole numbers of every topic")
        self._is_compressed = self.metadata.compression_mode == "message"
        self.metadata = self.metadata._replace(compression_mode=None)

    def messages(
        self,
        connections: Collection[Connection],
        start: int | None = None,
        stop: int | None = None,
    ) -> Generator[Message, None, None]:
        for connection, log_time, data in super().messages(connections, start, stop):
            yield connection, log_time, _decompress_zstd(data) if self._is_compressed else data

    @property
    def damage(self) -> str:
        return next((s.damage for s in self.storages if isinstance(s, Mcap) and s.damage), "")


Storage = Folder | Mcap | Sqlite3


@contextmanager
def open_storages(files: Collection[Path]) -> Iterator[list[Storage]]:
    """Open a folder with metadata.yaml, or storage files that follow each other.

    Raises:
        DamagedBag: one of them cannot be read at all.
    """
    with ExitStack() as stack:
        storages = []
        for path in files:
            storage = _storage_class(path)(path)
            _sound(storage.open, path)
            stack.callback(storage.close)
            storages.append(storage)
        yield storages


def _storage_class(path: Path) -> type[Storage]:
    if path.is_dir():
        return Folder
    with path.open("rb") as file:
        return Sqlite3 if file.read(16) == SQLITE_MAGIC else Mcap


class DamagedBag(Exception):
    """A file of a bag cannot be read, or not to its end.

    Attributes:
        path: the damaged file, or the folder if the damage is not in a single file.
    """

    def __init__(self, path: object, cause: object) -> None:
        super().__init__(f"{path}: {cause}")
        self.path = Path(str(path))


def _sound(call: Callable[[], T], path: object) -> T:
    try:
        return call()
    except StopIteration:
        raise
    except Exception as error:  # damaged bytes make the library raise anything
        raise DamagedBag(path, str(error) or type(error).__name__) from error


def read_messages(
    storages: Collection[Storage], wanted: Callable[[Connection], bool]
) -> Iterator[Message]:
    """The messages of the wanted connections, one file after the other.

    Raises:
        DamagedBag: after the last message before the damage, or where there are fewer messages
            than the file or metadata.yaml states.
    """
    for storage in storages:
        connections = [c for c in storage.connections if wanted(c)]
        messages = iter(storage.messages(connections)) if connections else iter(())
        count = 0
        while True:
            try:
                message = _sound(partial(next, messages), storage.path)
            except StopIteration:
                break
            yield message
            count += 1
        stated = sum(c.msgcount for c in connections)
        if storage.damage:
            raise DamagedBag(storage.path, storage.damage)
        if count < stated:
            raise DamagedBag(storage.path, f"{stated} messages are stated, {count} are there")
