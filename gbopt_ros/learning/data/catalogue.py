"""The catalogue of a training set in SQLite: its tables, and their rows as masks and frames."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gbopt_ros.io.datasets.coco import image_size
from gbopt_ros.io.files import is_full
from gbopt_ros.io.json_file import Fields
from gbopt_ros.learning.data.verdicts import StoredFrame, StoredMask, Verdict
from gbopt_ros.masks import check_rles
from gbopt_ros.structures import GboptError, Rle

CATALOGUE_NAME = "catalogue.sqlite"
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
    confidence REAL NOT NULL,
    verdict INTEGER NOT NULL DEFAULT 0,
    track_id INTEGER
);
CREATE TABLE IF NOT EXISTS evictions (
    recording TEXT PRIMARY KEY,
    frames INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS instances_of_frame ON instances (frame);
CREATE INDEX IF NOT EXISTS frames_of_image ON frames (file_name);
"""
_NEWER_COLUMNS = (
    ("frames", "model_version", "TEXT NOT NULL DEFAULT ''"),
    ("instances", "verdict", "INTEGER NOT NULL DEFAULT 0"),
    ("instances", "track_id", "INTEGER"),
)
"""Table, name and kind of the columns that sets of older releases do not have."""
_IN_WORDS = {
    "database or disk is full": "the disk is full",
    "database is locked": "it is locked by another process that writes it; try again",
    "attempt to write a readonly database": "it is read-only; choose a store that can be written",
    "unable to open database file": "it cannot be opened or made; choose a store that can be "
    "written",
}
"""What SQLite says, and what that means here."""


class Catalogue:
    """The SQLite file of a training set (WAL).

    Args:
        folder: of the training set, which exists.

    Raises:
        GboptError: the file cannot be opened or made, or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with self._errors("is unusable"):
            self._database = sqlite3.connect(
                folder / CATALOGUE_NAME, timeout=_TIMEOUT_S, isolation_level=None
            )
            try:
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA foreign_keys=ON")
                self._database.executescript(_SCHEMA)
                self._add_missing_columns()
            except Exception:
                self._database.close()
                raise

    def close(self) -> None:
        self._database.close()

    def query(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Rows as they are.

        Raises:
            GboptError: as all that reads or writes here, where SQLite or the disk fails.
        """
        with self._errors():
            return self._database.execute(query, values).fetchall()

    def rows(self, query: str, values: tuple[object, ...] = ()) -> list[Fields]:
        """Rows by the names of their columns; SQLite holds any type in any column."""
        with self._errors():
            found = self._database.execute(query, values)
            names = [column[0] for column in found.description]
            where = f"{self._folder}: training set catalogue"
            return [Fields(dict(zip(names, row, strict=True)), where) for row in found]

    def execute(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """Run a statement that changes rows."""
        with self._errors():
            return self._database.execute(statement, values)

    def executemany(self, statement: str, values: Iterable[tuple[object, ...]]) -> None:
        """Run a statement once for each row of values."""
        with self._errors():
            self._database.executemany(statement, values)

    @property
    def in_transaction(self) -> bool:
        return self._database.in_transaction

    @contextmanager
    def transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """A transaction, or the one that is under way; exceptions roll it back.

        Args:
            kind: SQLite's kind. "IMMEDIATE" holds the write lock from the start, which protects
                image files too. "DEFERRED" reads one state of the set without waiting, whatever
                another process writes meanwhile.
        """
        if self._database.in_transaction:
            yield
            return
        with self._errors():
            self._database.execute(f"BEGIN {kind}")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # on some errors SQLite has ended it
                    self._database.execute("ROLLBACK")
                raise

    def _add_missing_columns(self) -> None:
        if not self._missing_columns():
            return
        with self.transaction():
            for table, name, kind in self._missing_columns():  # another process may be faster
                self._database.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")

    def _missing_columns(self) -> list[tuple[str, str, str]]:
        found = {
            (table, name)
            for table in ("frames", "instances")
            for _, name, *_ in self._database.execute(f"PRAGMA table_info({table})").fetchall()
        }
        return [column for column in _NEWER_COLUMNS if column[:2] not in found]

    @contextmanager
    def _errors(self, what: str = "failed") -> Iterator[None]:
        """Turn errors of the disk and of SQLite into GboptError."""
        try:
            yield
        except OSError as error:
            raise unwritable(self._folder, error) from error
        except sqlite3.Error as error:
            reason, cause = str(error), error
            if reason == "disk I/O error" and is_full(self._folder):
                reason = "database or disk is full"
                cause = sqlite3.OperationalError(reason)
            message = f"{self._folder}: training set catalogue {what}: "
            raise GboptError(message + _IN_WORDS.get(reason, reason)) from cause
        except UnicodeDecodeError as error:  # SQLite quotes damaged text in its message
            raise GboptError(f"{self._folder}: training set catalogue {what}: damaged") from error


def unwritable(folder: Path, error: OSError) -> GboptError:
    """What is told where the disk does not take a training set."""
    return GboptError(f"{folder}: training set cannot be written ({error})")


def stored_frame(row: Fields, instances: Sequence[Fields], images: Path) -> StoredFrame:
    """A row of `frames` and its rows of `instances`.

    Args:
        images: folder of the image files.

    Raises:
        GboptError: a column holds something else, or a mask does not fill the image.
    """
    size = image_size(row)
    frame = StoredFrame(
        row.integer("id"),
        images / row.text("file_name"),
        row.integer("bytes"),
        size,
        row.text("recording"),
        row.integer("clip_id"),
        row.integer("frame_index"),
        row.integer("stamp_ns"),
        row.text("model_version"),
        tuple(_stored_mask(instance, size) for instance in instances),
    )
    try:
        check_rles([mask.rle for mask in frame.masks], size)
    except ValueError as error:
        raise GboptError(f"{row.where}: frame {frame.id}: {error}") from error
    return frame


def _stored_mask(row: Fields, size: tuple[int, int]) -> StoredMask:
    has_track = row.content["track_id"] is not None
    return StoredMask(
        Rle(size=[*size], counts=row.text("counts")),
        row.number("score"),
        row.number("confidence"),
        Verdict(row.integer("verdict", low=-1, high=1)),
        row.integer("track_id") if has_track else None,
    )
