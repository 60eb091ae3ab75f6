"""What a replay has written so far, so that one that was cut can go on.

Beside the temporary folder of an output lie the lists of `selected.json`, one entry a line, and a
journal. A clip is done once its frames and entries are on the disk and the journal says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from gbopt_ros.io.datasets.coco import image_size, segmentation_to_rle
from gbopt_ros.io.files import collect_leftovers, sync
from gbopt_ros.io.journal import JOURNAL_NAME, Journal
from gbopt_ros.io.json_file import Fields, parse_json
from gbopt_ros.structures import GboptError, Rle

PARTS = ("images", "annotations")
"""Lists of `selected.json`."""


@dataclass
class Progress:
    """What is written.

    Attributes:
        clips: facts of the clips, plain values by name.
        frames, masks: numbers of them.
        last_index: index of the last frame in the recording, -1 before the first.
    """

    clips: list[dict[str, Any]] = field(default_factory=list)
    frames: int = 0
    masks: int = 0
    last_index: int = -1


@dataclass(frozen=True)
class WrittenFrame:
    """A frame with its masks, one entry a mask, as its lists on disk tell."""

    index: int
    stamp_ns: int
    after_cut: bool
    rles: tuple[Rle, ...]
    confidences: tuple[float, ...]


def part_file(folder: Path, name: str) -> Path:
    """One of `PARTS`, of the output that is written into `folder`."""
    return folder.parent / f"{name}.part"


def frame_file(folder: Path, index: int) -> Path:
    """The image of a frame."""
    return folder / "frames" / f"{index:06d}.jpg"


def journal_of(folder: Path) -> Journal:
    """The journal of the output that is written into `folder`."""
    return Journal(folder.parent / JOURNAL_NAME)


def note_clip(folder: Path, progress: Progress, indices: Sequence[int]) -> None:
    """Note that the last clip of `progress` is done, once it is on the disk.

    Args:
        indices: its frames that no clip before it held.
    """
    parts = {name: part_file(folder, name) for name in PARTS}
    frames = (frame_file(folder, index) for index in indices)
    for path in (*frames, folder / "frames", *parts.values()):
        sync(path)
    entry = {"clip": progress.clips[-1], "frames": progress.frames, "masks": progress.masks}
    sizes = {name: path.stat().st_size for name, path in parts.items()}
    journal_of(folder).append(entry | {"last_index": progress.last_index, "bytes": sizes})


def take_over(folder: Path) -> Progress:
    """What a run that was cut has done; what belongs to no whole clip is removed.

    Raises:
        GboptError, FileNotFoundError: the run is damaged.
    """
    _, *done = journal_of(folder).read()
    entries = [Fields(entry, f"{JOURNAL_NAME}, clip {i}") for i, entry in enumerate(done)]
    clips = [entry.object("clip") for entry in entries]
    for clip in clips:
        clip.integer("flow_runs", low=0)  # `SelectionWriter.finish` sums them
    last, sizes = entries[-1], entries[-1].object("bytes")
    progress = Progress(
        [dict(clip.content) for clip in clips],
        last.integer("frames", low=0),
        last.integer("masks", low=0),
        last.integer("last_index", low=-1),
    )
    for name in PARTS:
        path, size = part_file(folder, name), sizes.integer(name, low=0)
        if path.stat().st_size < size:
            raise GboptError(f"{path.name}: expected {size} bytes or more")
        os.truncate(path, size)
    for path in (folder / "frames").iterdir():
        if not path.stem.isdecimal() or int(path.stem) > progress.last_index:
            path.unlink()
    collect_leftovers(folder)
    return progress


def written_frames(folder: Path) -> Iterator[WrittenFrame]:
    """The frames of a run that was cut, in order. Raises GboptError if a list is damaged."""
    masks = groupby(_entries(folder, "annotations"), lambda mask: mask.integer("image_id"))
    image_id, of_image = next(masks, (None, iter(())))
    for image in _entries(folder, "images"):
        found: list[Fields] = []
        if image_id == image.integer("id"):
            found = list(of_image)
            image_id, of_image = next(masks, (None, iter(())))
        size = image_size(image)
        yield WrittenFrame(
            image.integer("frame_index", low=0),
            image.integer("stamp_ns"),
            image.flag("after_cut", default=False),
            tuple(
                segmentation_to_rle(mask.content.get("segmentation"), size, mask.where)
                for mask in found
            ),
            tuple(mask.number("confidence") for mask in found),
        )


def _entries(folder: Path, name: str) -> Iterator[Fields]:
    """The entries that `append_entry` wrote."""
    part = part_file(folder, name)
    with part.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if entry := line.strip().removesuffix(b","):
                where = f"{part.name}, line {number}"
                yield Fields(parse_json(entry, where), where)


@contextmanager
def going_on(out: Path) -> Iterator[None]:
    """Errors of the run that was cut say how to get rid of it."""
    try:
        yield
    except (GboptError, FileNotFoundError) as error:
        raise GboptError(
            f"{out}: the run that was cut is damaged ({error}); start anew without --resume"
        ) from error
