"""The training set that selections are collected in: a SQLite catalogue beside image files.

    DIR/catalogue.sqlite    frames and their instances (WAL, one transaction a clip)
    DIR/images/             one JPEG a frame, named by the SHA-256 of its content

A frame's image is in place before the transaction that names it, so a crash leaves at most an
image that nothing names; `collect_garbage` removes those. Over the byte limit a policy decides what
leaves: "oldest" drops the oldest clips; "balanced" thins out the longest clips, then the longest
recordings, so that what was seen long ago stays represented.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gbopt_ros.config import LearningConfig
from gbopt_ros.io.datasets.coco import CocoImage, write_coco
from gbopt_ros.io.files import replacing
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.io.sources.images import read_image
from gbopt_ros.structures import GboptError, LabelledImage, Rle

log = logging.getLogger(__name__)

_PATIENCE_S = 60.0  # that one process waits for another's transaction
_SCHEMA = """
CREATE TABLE IF NOT EXISTS frames (
    id INTEGER PRIMARY KEY,
    recording TEXT NOT NULL,
    clip_id INTEGER NOT NULL,
    frame_index INTEGER NOT NULL,
    stamp_ns INTEGER NOT NULL,
    file_name TEXT NOT NULL,
    height INTEGER NOT NULL,
    width INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    UNIQUE (recording, frame_index)
);
CREATE TABLE IF NOT EXISTS instances (
    frame INTEGER NOT NULL REFERENCES frames (id) ON DELETE CASCADE,
    counts TEXT NOT NULL,
    score REAL NOT NULL,
    confidence REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS instances_of_frame ON instances (frame);
CREATE INDEX IF NOT EXISTS frames_of_image ON frames (file_name);
"""


class TrainingSet:
    """Selected frames on disk, capped by bytes.

    Args:
        folder: made if it does not exist.
        max_bytes: of the image files.
        policy: what leaves when they take more, as in `LearningConfig`.

    Raises:
        GboptError: the folder cannot be written, or its catalogue is damaged.
    """

    def __init__(self, folder: Path, max_bytes: int, policy: str = LearningConfig.policy) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._thin_out = {"oldest": self._drop_oldest, "balanced": self._halve_longest}[policy]
        self._images = folder / "images"
        try:
            self._images.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                folder / "catalogue.sqlite", timeout=_PATIENCE_S, isolation_level=None
            )
        except OSError as error:
            raise GboptError(f"{folder}: training set cannot be written ({error})") from error
        except sqlite3.Error as error:
            raise GboptError(f"{folder}: training set catalogue is unusable ({error})") from error
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA foreign_keys=ON")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._database.close()
            raise GboptError(f"{folder}: training set catalogue is unusable ({error})") from error

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> TrainingSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Frames."""
        return int(self._query("SELECT count(*) FROM frames")[0][0])

    @property
    def instance_count(self) -> int:
        return int(self._query("SELECT count(*) FROM instances")[0][0])

    @property
    def bytes(self) -> int:
        """Size of all images, bytes."""
        return int(self._query("SELECT coalesce(sum(bytes), 0) FROM frames")[0][0])

    def add(
        self, frames: Iterable[SelectedFrame], *, may_collect: Callable[[], bool] = lambda: True
    ) -> int:
        """Add frames, replacing those of the same recording and index; returns how many.

        They replace those of the same image, too: a recording that is selected in again, by a
        newer network, keeps its latest masks under whatever name. Frames without an instance are
        left out: nothing selected says nothing about the image. One that the set holds goes, too.
        All frames enter the set, or none does.

        Args:
            may_collect: whether the images of evicted clips may go at once, asked when the frames
                are in the set: a training that began before still reads them, and one that begins
                later does not know them. Where not, they stay until `collect_garbage`.

        Raises:
            GboptError: an image cannot be read, the set cannot be written, or the byte limit is
                too small for a single clip (policy "oldest") or frame ("balanced").
        """
        added = replaced = 0
        try:
            with self._transaction():
                for frame in frames:
                    image = _read(frame.image_path)
                    self._database.execute(
                        "DELETE FROM frames WHERE recording = ? AND frame_index = ?",
                        (frame.recording, frame.frame_index),
                    )
                    # Not in this one: where nothing moves, frames of a recording are equal.
                    replaced += self._database.execute(
                        "DELETE FROM frames WHERE file_name = ? AND recording != ?",
                        (image.name, frame.recording),
                    ).rowcount
                    if frame.rles:
                        added += 1
                        self._insert(frame, image)
                self._evict()
        except Exception:
            if added and may_collect():  # on a full disk, images that nothing names are in the way
                with suppress(GboptError):
                    self.collect_garbage()
            raise
        if replaced:
            log.info("%d frames were there already; their masks are replaced", replaced)
        if may_collect():
            self.collect_garbage()
        return added

    def remove(self, recording: str) -> int:
        """Take a recording out; returns how many frames it had.

        Raises:
            GboptError: the set holds no such recording; the message lists those that it holds.
        """
        with self._transaction():
            removed = self._database.execute(
                "DELETE FROM frames WHERE recording = ?", (recording,)
            ).rowcount
            if not removed:
                held = self._query("SELECT DISTINCT recording FROM frames ORDER BY recording")
                names = ", ".join(name for (name,) in held) or "none"
                raise GboptError(f"{self._folder}: no recording {recording!r}; there are: {names}")
        self.collect_garbage()
        return removed

    def labelled_images(self) -> SelectedDataset:
        """All frames, as a pool for training; those whose image was damaged are left out."""
        query = """
            SELECT id, file_name, height, width, bytes, recording, clip_id FROM frames
            ORDER BY recording, frame_index
        """
        entries, damaged = [], []
        with self._transaction("DEFERRED"):
            for frame, name, height, width, size, recording, clip_id in self._query(query):
                path = self._images / name
                if not _has_size(path, size):
                    damaged.append(path)
                    continue
                instances = self._instances(frame, height, width)
                entries.append(
                    SelectedImage(path, *instances, recording=recording, clip_id=clip_id)
                )
        if damaged:
            log.warning("%d images are damaged and left out, such as %s", len(damaged), damaged[0])
        return SelectedDataset(entries)

    def export_coco(self, path: Path) -> None:
        """Write the whole set as a COCO dataset whose file names are relative to `images/`."""
        query = (
            "SELECT id, file_name, height, width, recording, clip_id, frame_index, stamp_ns "
            "FROM frames ORDER BY id"
        )
        images, rles = [], {}
        with self._transaction("DEFERRED"):
            for row in self._query(query):
                identity, file_name, height, width, recording, clip, index, stamp = row
                extra = {
                    "recording": recording,
                    "clip_id": clip,
                    "frame_index": index,
                    "stamp_ns": stamp,
                }
                images.append(CocoImage(identity, file_name, height, width, extra))
                rles[identity], _ = self._instances(identity, height, width)
        write_coco(path, images, rles)

    def collect_garbage(self) -> None:
        """Remove images that the catalogue does not name."""
        with self._transaction():  # else images that another process is adding would go
            named = {row[0] for row in self._query("SELECT file_name FROM frames")}
            for path in self._images.iterdir():
                if path.name not in named:
                    path.unlink(missing_ok=True)

    def _instances(
        self, frame: int, height: int, width: int
    ) -> tuple[tuple[Rle, ...], tuple[float, ...]]:
        """The masks of a frame and their confidences."""
        rows = self._query(
            "SELECT counts, confidence FROM instances WHERE frame = ? ORDER BY rowid", (frame,)
        )
        rles = tuple(Rle(size=[height, width], counts=counts) for counts, _ in rows)
        return rles, tuple(confidence for _, confidence in rows)

    def _insert(self, frame: SelectedFrame, image: _ImageFile) -> None:
        target = self._images / image.name
        if not _has_size(target, len(image.content)):
            with replacing(target) as aside:
                aside.write_bytes(image.content)
        cursor = self._database.execute(
            "INSERT INTO frames (recording, clip_id, frame_index, stamp_ns, file_name, height, "
            "width, bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                frame.recording,
                frame.clip_id,
                frame.frame_index,
                frame.stamp_ns,
                image.name,
                *frame.size,
                len(image.content),
            ),
        )
        self._database.executemany(
            "INSERT INTO instances (frame, counts, score, confidence) VALUES (?, ?, ?, ?)",
            [
                (cursor.lastrowid, rle["counts"], score, confidence)
                for rle, score, confidence in zip(
                    frame.rles, frame.scores, frame.confidences, strict=True
                )
            ],
        )

    def _evict(self) -> None:
        while self.bytes > self._max_bytes:
            self._thin_out()

    def _drop_oldest(self) -> None:
        """Remove the oldest clip."""
        clips = self._query(
            "SELECT recording, clip_id FROM frames GROUP BY recording, clip_id "
            "ORDER BY min(id) LIMIT 2"
        )
        if len(clips) == 1:
            raise self._too_small("clip")
        self._database.execute("DELETE FROM frames WHERE recording = ? AND clip_id = ?", clips[0])

    def _halve_longest(self) -> None:
        """Remove every second frame of the longest clip, of equally long ones of the oldest.

        Where every clip has one frame left, that of every second clip of the longest recording;
        where every recording has one left, the oldest recording.
        """
        for group in ("recording, clip_id", "recording"):
            *key, count = self._query(
                f"SELECT {group}, count(*) FROM frames GROUP BY {group} "
                "ORDER BY count(*) DESC, min(id) LIMIT 1"
            )[0]
            if count > 1:
                where = " AND ".join(f"{column} = ?" for column in group.split(", "))
                frames = self._query(
                    f"SELECT id FROM frames WHERE {where} ORDER BY frame_index", tuple(key)
                )
                self._database.executemany("DELETE FROM frames WHERE id = ?", frames[1::2])
                return
        if len(self) == 1:
            raise self._too_small("frame")
        self._database.execute("DELETE FROM frames WHERE id = (SELECT min(id) FROM frames)")

    def _too_small(self, what: str) -> GboptError:
        return GboptError(
            f"{self._folder}: one {what} alone takes {self.bytes} bytes, the training set "
            f"may hold {self._max_bytes}; raise learning.max_bytes"
        )

    def _query(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise GboptError(f"{self._folder}: training set catalogue failed ({error})") from error

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """Holds the write lock from its first line on: image files belong to it too.

        Args:
            kind: of SQLite; "DEFERRED" reads one state of the set, whatever another process writes
                meanwhile (frames that it replaces may leave their ids to others), and never waits.
        """
        try:
            self._database.execute(f"BEGIN {kind}")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # SQLite ends it by itself on some errors
                    self._database.execute("ROLLBACK")
                raise
        except OSError as error:
            raise GboptError(f"{self._folder}: training set cannot be written ({error})") from error
        except sqlite3.Error as error:
            raise GboptError(f"{self._folder}: training set catalogue failed ({error})") from error


@dataclass(frozen=True)
class SelectedImage:
    """An image file with the instances that are learnt.

    Attributes:
        confidences: one of each of `rles`.
    """

    path: Path
    rles: tuple[Rle, ...]
    confidences: tuple[float, ...]
    recording: str = ""
    clip_id: int = 0


class SelectedDataset:
    """Selected frames, decoded when drawn."""

    def __init__(self, entries: Sequence[SelectedImage]) -> None:
        self._entries = tuple(entries)

    @property
    def entries(self) -> tuple[SelectedImage, ...]:
        return self._entries

    def with_confidences(self, confidences: Iterable[Iterable[float]]) -> SelectedDataset:
        """The same frames and masks, with other confidences, one of each mask of each frame."""
        return SelectedDataset(
            [
                replace(entry, confidences=tuple(map(float, values)))
                for entry, values in zip(self._entries, confidences, strict=True)
            ]
        )

    def subsample(self, most: int) -> SelectedDataset:
        """No more than so many frames, at even distances."""
        count = min(most, len(self))
        return SelectedDataset([self._entries[i * len(self) // count] for i in range(count)])

    def filter_by_confidence(self, minimum: float) -> SelectedDataset:
        """The masks of at least this confidence, but no fewer than the surer half of all.

        Confidences are fitted for a network; what another one proposes may never reach the
        minimum. Frames without a mask leave the pool.
        """
        minimum = confidence_cutoff((e.confidences for e in self._entries), minimum)
        entries = []
        for entry in self._entries:
            sure = [i for i, value in enumerate(entry.confidences) if value >= minimum]
            if sure:
                entries.append(
                    replace(
                        entry,
                        rles=tuple(entry.rles[i] for i in sure),
                        confidences=tuple(entry.confidences[i] for i in sure),
                    )
                )
        return SelectedDataset(entries)

    @property
    def instance_count(self) -> int:
        """Instances that are learnt."""
        return sum(len(entry.rles) for entry in self._entries)

    def recordings(self, indices: Iterable[int]) -> list[str]:
        """The names of the recordings that these frames are of, sorted."""
        return sorted({self._entries[index].recording for index in indices})

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> LabelledImage:
        entry = self._entries[index]
        return LabelledImage(read_image(entry.path), entry.rles)


class _ImageFile(NamedTuple):
    """An image file, named after what is in it: equal images have one name."""

    name: str
    content: bytes


def _read(path: Path) -> _ImageFile:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GboptError(f"{path}: cannot be read ({error.strerror})") from error
    return _ImageFile(hashlib.sha256(content).hexdigest()[:32] + path.suffix, content)


def _has_size(path: Path, size: int) -> bool:
    """Whether it is a file of so many bytes."""
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def confidence_cutoff(confidences: Iterable[Sequence[float]], minimum: float) -> float:
    """The minimum or, where more than half of all confidences are below it, their median."""
    values = [value for of_frame in confidences for value in of_frame]
    return min(minimum, float(np.median(values))) if values else minimum
