"""The tables of a training set's catalogue, and their rows as masks and frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gbopt_ros.io.datasets.coco import image_size
from gbopt_ros.io.json_file import Fields
from gbopt_ros.learning.data.verdicts import StoredFrame, StoredMask, Verdict
from gbopt_ros.masks import check_rles
from gbopt_ros.structures import GboptError, Rle

SCHEMA = """
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
NEWER_COLUMNS = (
    ("frames", "model_version", "TEXT NOT NULL DEFAULT ''"),
    ("instances", "verdict", "INTEGER NOT NULL DEFAULT 0"),
    ("instances", "track_id", "INTEGER"),
)
"""Table, name and kind of the columns that sets of older releases do not have."""


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
