"""The training set of selected masks: a SQLite catalogue and image files.

    DIR/catalogue.sqlite    frames and their instances (WAL, one transaction per addition)
    DIR/images/             one image file per frame, named by the SHA-256 of its content

An image file is written before the transaction that adds its frame. So a crash can leave an image
without a frame, never a frame without an image; `collect_garbage` removes such images. When the set
exceeds its size limit, a policy evicts frames: "oldest" removes the oldest clips; "balanced" thins
out the longest clips, then the longest recordings, so that old recordings stay represented.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from gbopt_ros.config import LearningConfig
from gbopt_ros.io.datasets.coco import CocoImage, write_coco
from gbopt_ros.io.files import replacing
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.learning.data.datasets import SelectedDataset, SelectedImage
from gbopt_ros.structures import GboptError, Rle

log = logging.getLogger(__name__)

_TIMEOUT_S = 60.0  # waiting time for the transaction of another process
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
    model_version TEXT NOT NULL DEFAULT '',
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
    """Frames with selected masks on disk, limited in size.

    Args:
        folder: created if it does not exist.
        max_bytes: maximum size of the image files.
        policy: what leaves a full set, as in `LearningConfig`.

    Raises:
        GboptError: the folder cannot be written, or its catalogue is damaged.
    """

    def __init__(self, folder: Path, max_bytes: int, policy: str = LearningConfig.policy) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._thin_out = {"oldest": self._drop_oldest, "balanced": self._halve_longest}[policy]
        self._images = folder / "images"
        with self._errors("is unusable"):
            self._images.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                folder / "catalogue.sqlite", timeout=_TIMEOUT_S, isolation_level=None
            )
            try:
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA foreign_keys=ON")
                self._database.executescript(_SCHEMA)
                self._add_missing_column()
            except (sqlite3.Error, GboptError):
                self._database.close()
                raise

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> TrainingSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of frames."""
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
        """Add frames, all or none of them; returns how many have masks.

        A frame replaces the one with the same recording and index, and those of other recordings
        with the same image: when a recording is replayed with a newer network, its latest masks
        are kept, even under another name. A frame without a mask only removes what it replaces,
        since it does not say that its image shows no object.

        Args:
            may_collect: asked after the frames are added, whether image files of evicted frames
                may be removed at once. A training that began before may still read them. If not,
                they stay until `collect_garbage`.

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
                    # Not in the same recording: where nothing moves, its frames are equal.
                    replaced += self._database.execute(
                        "DELETE FROM frames WHERE file_name = ? AND recording != ?",
                        (image.name, frame.recording),
                    ).rowcount
                    if frame.rles:
                        added += 1
                        self._insert(frame, image)
                self._evict()
        except Exception:
            if added and may_collect():  # images without a frame take space on a full disk
                with suppress(GboptError):
                    self.collect_garbage()
            raise
        if replaced:
            log.info("%d frames were known already; their masks are replaced", replaced)
        if may_collect():
            self.collect_garbage()
        return added

    def remove(self, recording: str) -> int:
        """Remove a recording; returns how many frames it had.

        Raises:
            GboptError: there is no such recording; the message lists those that there are.
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
        """All frames but those whose image file is damaged or missing."""
        query = """
            SELECT id, file_name, height, width, bytes, recording, clip_id, stamp_ns, model_version
            FROM frames ORDER BY recording, frame_index
        """
        entries, damaged = [], []
        with self._transaction("DEFERRED"):
            for frame, name, height, width, size, *about in self._query(query):
                path = self._images / name
                if not _has_size(path, size):
                    damaged.append(path)
                    continue
                instances = self._instances(frame, height, width)
                entries.append(SelectedImage(path, *instances, *about))
        if damaged:
            log.warning("%d images are damaged and left out, such as %s", len(damaged), damaged[0])
        return SelectedDataset(entries)

    def newest_clips(self, count: int) -> list[tuple[str, int]]:
        """Recording and number of the clips with two frames or more that were added last.

        The clip that was added last comes first. Stamps would not tell: the clock of a robot may
        show the same time at every start.
        """
        return self._query(
            "SELECT recording, clip_id FROM frames GROUP BY recording, clip_id "
            "HAVING count(*) > 1 ORDER BY max(id) DESC LIMIT ?",
            (count,),
        )

    def export_coco(self, path: Path) -> None:
        """Write the set as a COCO dataset whose file names are relative to `images/`."""
        query = (
            "SELECT id, file_name, height, width, recording, clip_id, frame_index, stamp_ns, "
            "model_version FROM frames ORDER BY id"
        )
        images, rles = [], {}
        with self._transaction("DEFERRED"):
            for row in self._query(query):
                identity, file_name, height, width, recording, clip, index, stamp, version = row
                extra = {
                    "recording": recording,
                    "clip_id": clip,
                    "frame_index": index,
                    "stamp_ns": stamp,
                    "model_version": version,
                }
                images.append(CocoImage(identity, file_name, height, width, extra))
                rles[identity], _ = self._instances(identity, height, width)
        write_coco(path, images, rles)

    def collect_garbage(self) -> None:
        """Remove image files that belong to no frame."""
        with self._transaction():  # waits for a process that is adding images
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
            "width, bytes, model_version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                frame.recording,
                frame.clip_id,
                frame.frame_index,
                frame.stamp_ns,
                image.name,
                *frame.size,
                len(image.content),
                frame.model_version,
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

    def _add_missing_column(self) -> None:
        """Sets of older releases do not know which network proposed their masks."""
        if self._knows_versions():
            return
        with self._transaction():
            if not self._knows_versions():  # another process may have been faster
                self._database.execute(
                    "ALTER TABLE frames ADD COLUMN model_version TEXT NOT NULL DEFAULT ''"
                )

    def _knows_versions(self) -> bool:
        columns = self._database.execute("PRAGMA table_info(frames)").fetchall()
        return "model_version" in {name for _, name, *_ in columns}

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
        """Remove every second frame of the longest clip; of equally long clips, the oldest.

        Where each clip has one frame left, the longest recording is thinned out instead; where
        each recording has one frame left, the oldest recording is removed.
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
        with self._errors():
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """A transaction; exceptions roll it back.

        Args:
            kind: SQLite's kind. "IMMEDIATE" holds the write lock from the start, which protects
                image files too. "DEFERRED" reads one state of the set without waiting, whatever
                another process writes meanwhile.
        """
        with self._errors():
            self._database.execute(f"BEGIN {kind}")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # on some errors SQLite has ended it
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self, what: str = "failed") -> Iterator[None]:
        """Turn errors of the disk and of SQLite into GboptError."""
        try:
            yield
        except OSError as error:
            raise GboptError(f"{self._folder}: training set cannot be written ({error})") from error
        except sqlite3.Error as error:
            message = f"{self._folder}: training set catalogue {what} ({error})"
            raise GboptError(message) from error


class _ImageFile(NamedTuple):
    """An image file with a name made of its content, so that equal images are stored once."""

    name: str
    content: bytes


def _read(path: Path) -> _ImageFile:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GboptError(f"{path}: cannot be read ({error.strerror})") from error
    return _ImageFile(hashlib.sha256(content).hexdigest()[:32] + path.suffix, content)


def _has_size(path: Path, size: int) -> bool:
    """Whether it is a file with this number of bytes."""
    try:
        return path.stat().st_size == size
    except OSError:
        return False
