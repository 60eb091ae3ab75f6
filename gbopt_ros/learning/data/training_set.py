"""The training set of selected masks: a SQLite catalogue and image files.

    DIR/catalogue.sqlite    frames and their instances (WAL, one transaction per addition)
    DIR/images/             one image file per frame, named by the SHA-256 of its content

An image file is written before the transaction that adds its frame ends. So a crash can leave an
image without a frame, never a frame without an image; `collect_garbage` removes such images. An
image is decoded, and compared with its masks, before its frame is committed. When the set
exceeds its size limit, a policy evicts frames: "oldest" removes the oldest clips; "balanced" thins
out the longest clips, then the longest recordings, so that old recordings stay represented.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gbopt_ros.config import LearningConfig
from gbopt_ros.io.datasets.coco import CocoImage, image_size, write_coco
from gbopt_ros.io.files import collect_leftovers, is_full, make_parents, replacing
from gbopt_ros.io.json_file import Fields
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.learning.data.datasets import SelectedDataset, SelectedImage
from gbopt_ros.learning.data.image_file import ImageFile, checked_image, is_intact
from gbopt_ros.masks import check_rles
from gbopt_ros.structures import GboptError, Rle

log = logging.getLogger(__name__)

_CATALOGUE, _IMAGES = "catalogue.sqlite", "images"
_TIMEOUT_S = 60.0  # waiting time for the transaction of another process
_IN_WORDS = {
    "database or disk is full": "the disk is full",
    "database is locked": "it is locked by another process that writes it; try again",
    "attempt to write a readonly database": "it is read-only; choose a store that can be written",
    "unable to open database file": "it cannot be opened or made; choose a store that can be "
    "written",
}
"""What SQLite says, and what that means here."""
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
CREATE TABLE IF NOT EXISTS evictions (
    recording TEXT PRIMARY KEY,
    frames INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS instances_of_frame ON instances (frame);
CREATE INDEX IF NOT EXISTS frames_of_image ON frames (file_name);
"""


class TrainingSet:
    """Frames with selected masks on disk, limited in size.

    Args:
        folder: created if it does not exist.
        max_bytes: maximum size of the image files; 0: no limit.
        policy: what leaves a full set, as in `LearningConfig`.

    Raises:
        GboptError: the folder cannot be written, or its catalogue is damaged.
    """

    def __init__(self, folder: Path, max_bytes: int, policy: str = LearningConfig.policy) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._thin_out = {"oldest": self._drop_oldest, "balanced": self._halve_longest}[policy]
        self._images = folder / _IMAGES
        with self._errors("is unusable"):
            make_parents(self._images / "any")
            collect_leftovers(self._images)
            self._database = sqlite3.connect(
                folder / _CATALOGUE, timeout=_TIMEOUT_S, isolation_level=None
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

    @contextmanager
    def together(self, may_collect: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Make several changes at once: all of them, or none after an error.

        Args:
            may_collect: asked after the changes, whether image files that belong to no frame any
                more may be removed at once. A training that began before may still read them. If
                not, they stay until `collect_garbage`.

        Raises:
            GboptError: the set cannot be written.
        """
        if self._database.in_transaction:
            yield
            return
        try:
            with self._transaction():
                yield
        except Exception:
            if may_collect():  # images without a frame take space on a full disk
                with suppress(GboptError):
                    self.collect_garbage()
            raise
        if may_collect():
            self.collect_garbage()

    def add(
        self, frames: Iterable[SelectedFrame], *, may_collect: Callable[[], bool] = lambda: True
    ) -> int:
        """Add frames, all or none of them; returns how many have masks.

        A frame replaces the one with the same recording and index, and those of other recordings
        with the same image: when a recording is replayed with a newer network, its latest masks
        are kept, even under another name. A frame without a mask only removes what it replaces,
        since it does not say that its image shows no object.

        Args:
            may_collect: as of `together`.

        Raises:
            GboptError: an image is damaged, masks or confidences do not fit it, the set cannot be
                written, or the byte limit is too small for a single clip (policy "oldest") or frame
                ("balanced").
        """
        added = replaced = 0
        with self.together(may_collect):
            for frame in frames:
                image = checked_image(frame)
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
        if replaced:
            log.info("%d frames were known already; their masks are replaced", replaced)
        return added

    def remove(self, recording: str) -> int:
        """Remove a recording; returns how many frames it had.

        Raises:
            GboptError: there is no such recording; the message lists those that there are.
        """
        with self.together():
            removed = self._database.execute(
                "DELETE FROM frames WHERE recording = ?", (recording,)
            ).rowcount
            if not removed:
                held = self._query("SELECT DISTINCT recording FROM frames ORDER BY recording")
                names = ", ".join(name for (name,) in held) or "none"
                raise GboptError(f"{self._folder}: no recording {recording!r}; there are: {names}")
        return removed

    def labelled_images(self) -> SelectedDataset:
        """All frames but those whose image file is damaged or missing, with a warning."""
        query = """
            SELECT id, file_name, height, width, bytes, recording, clip_id, stamp_ns, model_version
            FROM frames ORDER BY recording, frame_index
        """
        entries, sizes = [], {}
        with self._transaction("DEFERRED"):
            for row in self._rows(query):
                path = self._images / row.text("file_name")
                sizes[path] = row.integer("bytes")
                entries.append(
                    SelectedImage(
                        path,
                        *self._instances(row),
                        recording=row.text("recording"),
                        clip_id=row.integer("clip_id"),
                        stamp_ns=row.integer("stamp_ns"),
                        model_version=row.text("model_version"),
                    )
                )
        damaged = {path for path, size in sizes.items() if not is_intact(path, size)}
        if damaged:
            recordings = sorted({entry.recording for entry in entries if entry.path in damaged})
            log.warning(
                "%d images are damaged and left out, such as %s; they are of %s: learn their "
                "replays again, or --forget them",
                len(damaged), min(damaged), ", ".join(recordings),
            )  # fmt: skip
        return SelectedDataset(entry for entry in entries if entry.path not in damaged)

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
            for row in self._rows(query):
                extra: dict[str, Any] = {"recording": row.text("recording")}
                extra |= {key: row.integer(key) for key in ("clip_id", "frame_index", "stamp_ns")}
                extra["model_version"] = row.text("model_version")
                image = CocoImage(row.integer("id"), row.text("file_name"), *image_size(row), extra)
                images.append(image)
                rles[image.id], _ = self._instances(row)
        write_coco(path, images, rles)

    def collect_garbage(self) -> None:
        """Remove image files that belong to no frame."""
        with self._transaction():  # waits for a process that is adding images
            named = {row[0] for row in self._query("SELECT file_name FROM frames")}
            for path in self._images.iterdir():
                if path.name not in named and path.is_file():
                    path.unlink(missing_ok=True)
        collect_leftovers(self._images)

    def _instances(self, frame: Fields) -> tuple[tuple[Rle, ...], tuple[float, ...]]:
        """The masks of a row of `frames` and their confidences."""
        rows = self._rows(
            "SELECT counts, confidence FROM instances WHERE frame = ? ORDER BY rowid",
            (frame.integer("id"),),
        )
        size = image_size(frame)
        rles = tuple(Rle(size=[*size], counts=row.text("counts")) for row in rows)
        try:
            check_rles(rles, size)
        except ValueError as error:
            raise GboptError(f"{frame.where}: frame {frame.integer('id')}: {error}") from error
        return rles, tuple(row.number("confidence") for row in rows)

    def _insert(self, frame: SelectedFrame, image: ImageFile) -> None:
        target = self._images / image.name
        if not is_intact(target, len(image.content)):
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

    @property
    def evicted(self) -> dict[str, int]:
        """How many frames have left the full set so far, by recording."""
        return dict(self._query("SELECT recording, frames FROM evictions ORDER BY recording"))

    def _evict(self) -> None:
        """Thin the set out until it keeps its limit, log what leaves, and count it."""
        if not self._max_bytes or self.bytes <= self._max_bytes:
            return
        held = "SELECT recording, count(*) FROM frames GROUP BY recording"
        before = dict(self._query(held))
        while self.bytes > self._max_bytes:
            self._thin_out()
        after = dict(self._query(held))
        gone = {
            name: n - after.get(name, 0) for name, n in before.items() if n > after.get(name, 0)
        }
        self._database.executemany(
            "INSERT INTO evictions (recording, frames) VALUES (?, ?) "
            "ON CONFLICT (recording) DO UPDATE SET frames = frames + excluded.frames",
            list(gone.items()),
        )
        log.warning(
            "the training set is full (learning.max_bytes %d): %d frames leave it: %s",
            self._max_bytes,
            sum(gone.values()),
            ", ".join(f"{count} of {name}" for name, count in gone.items()),
        )

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

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[Fields]:
        """Rows by the names of their columns; SQLite holds any type in any column."""
        with self._errors():
            found = self._database.execute(query, values)
            names = [column[0] for column in found.description]
            where = f"{self._folder}: training set catalogue"
            return [Fields(dict(zip(names, row, strict=True)), where) for row in found]

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
            reason, cause = str(error), error
            if reason == "disk I/O error" and is_full(self._folder):
                reason = "database or disk is full"
                cause = sqlite3.OperationalError(reason)
            message = f"{self._folder}: training set catalogue {what}: "
            raise GboptError(message + _IN_WORDS.get(reason, reason)) from cause


def drop_images(folder: Path, recordings: Iterable[str]) -> None:
    """Remove the image files of recordings from a training set, before `remove` removes the frames.

    On a full disk this makes the room that SQLite needs to remove anything. It writes nothing. If
    the process ends in between, the frames are left out of what is learnt until they are removed.

    Raises:
        GboptError: the catalogue cannot be read.
    """
    gone, images = set(recordings), folder / _IMAGES
    query = "SELECT file_name, recording FROM frames"
    try:
        database = sqlite3.connect(folder / _CATALOGUE, isolation_level=None)
        try:
            database.execute("PRAGMA locking_mode=EXCLUSIVE")  # else it needs a file for sharing
            rows = database.execute(query).fetchall()
        finally:
            database.close()
    except sqlite3.Error as error:
        raise GboptError(f"{folder}: training set catalogue cannot be read: {error}") from error
    alone = {name for name, _ in rows} - {name for name, held in rows if held not in gone}
    for path in images.iterdir() if images.is_dir() else ():
        if path.name in alone:
            path.unlink(missing_ok=True)
