"""Where recordings are cut into shards: at ends of clips, so that every clip is whole in one.

A plan needs the stamps of the frames and the size of the first; the other images are not decoded.
An image that turns out undecodable or of another size moves the ends of clips; then the recording
is planned once more with what is known by now, and only shards that moved are selected again.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from gbopt_ros.bulk.recordings import Recording
from gbopt_ros.config import ClipConfig
from gbopt_ros.io.clip_cutter import cut_clips
from gbopt_ros.io.files import write_text
from gbopt_ros.io.json_file import Fields, to_json
from gbopt_ros.structures import Frame, GboptError

SizeChange = tuple[int, int, int]
"""Index of a frame, height and width: frames have this size until the next change, pixels."""


@dataclass(frozen=True)
class Timeline:
    """What is known about the frames of a recording.

    Attributes:
        indices: positions in the recording, increasing.
        stamps_ns: capture times, one an index, nanoseconds.
        skipped: indices of images that cannot be decoded.
        sizes: from the first frame on.
    """

    indices: tuple[int, ...]
    stamps_ns: tuple[int, ...]
    skipped: tuple[int, ...] = ()
    sizes: tuple[SizeChange, ...] = ()

    def hours(self, max_gap_s: float) -> float:
        """Hours that the frames show; gaps between clips do not count."""
        steps = (b - a for a, b in pairwise(self.stamps_ns))
        return sum(step for step in steps if 0 < step <= max_gap_s * 1e9) / 3.6e12

    def frames(self) -> Iterator[Frame]:
        """The decodable frames, with images that are blank and take no memory."""
        skipped, changes = {*self.skipped}, iter(self.sizes)
        blank, change = np.zeros((1, 1, 3), np.uint8), next(changes, None)
        for index, stamp_ns in zip(self.indices, self.stamps_ns, strict=True):
            while change is not None and change[0] <= index:
                blank = np.broadcast_to(np.uint8(0), (*change[1:], 3))
                change = next(changes, None)
            if index not in skipped:
                yield Frame(blank, stamp_ns, index)

    def save(self, path: Path) -> None:
        """Write it atomically. Raises GboptError if that fails."""
        write_text(path, to_json(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Timeline:
        """Read what `save` wrote. Raises GboptError if the file is damaged."""
        try:
            content = Fields.read(path)
            indices, stamps_ns, skipped = (
                tuple(content.integers(name)) for name in ("indices", "stamps_ns", "skipped")
            )
            if len(indices) != len(stamps_ns):
                raise GboptError(
                    f"{path}: expected {len(indices)} stamps, one a frame, got {len(stamps_ns)}"
                )
            return cls(indices, stamps_ns, skipped, size_changes(content))
        except GboptError as error:
            raise GboptError(f"{error}; remove it, and the recording is planned anew") from error


@dataclass(frozen=True)
class Shard:
    """Consecutive whole clips of a recording.

    Attributes:
        first, last: indices of its first and last frame.
        first_new: index of the first frame that no earlier shard holds.
        first_clip: number of its first clip in the recording.
        clips: number of clips.
        frames: number of frames that no earlier shard holds.
    """

    first: int
    last: int
    first_new: int
    first_clip: int
    clips: int
    frames: int


def read_timeline(recording: Recording) -> Timeline:
    """Read the stamps of a recording and decode its first image.

    Raises:
        GboptError: the recording is damaged, empty, or not there.
    """
    source = recording.open()
    indices: list[int] = []
    stamps: list[int] = []
    skipped: list[int] = []
    sizes: list[SizeChange] = []
    for record in source.records():
        indices.append(record.index)
        stamps.append(record.stamp_ns)
        if not sizes:
            frame = source.decode(record)
            if frame is None:
                skipped.append(record.index)
            else:
                sizes.append((indices[0], *frame.size))
    if not sizes:
        raise source.no_frame()
    return Timeline(tuple(indices), tuple(stamps), tuple(skipped), tuple(sizes))


def cut_shards(timeline: Timeline, config: ClipConfig, shard_frames: int) -> list[Shard]:
    """Cut a recording into shards of at least `shard_frames` frames; the last may have fewer."""
    clips = cut_clips(
        timeline.frames(),
        config.length,
        max_gap_s=config.max_gap_s,
        overlap=config.overlap,
        max_pixels=config.max_pixels,
    )
    shards: list[Shard] = []
    last = -1
    for clip in clips:
        new = [frame.index for frame in clip.frames if frame.index > last]
        one = Shard(clip.frames[0].index, new[-1], new[0], clip.clip_id, 1, len(new))
        last = one.last
        if shards and shards[-1].frames < shard_frames:
            before = shards[-1]
            shards[-1] = replace(
                before, last=last, clips=before.clips + 1, frames=before.frames + one.frames
            )
        else:
            shards.append(one)
    return shards


def with_findings(
    timeline: Timeline, skipped: Iterable[int], sizes: Iterable[SizeChange]
) -> Timeline:
    """The timeline with what shards found.

    Args:
        skipped: indices of images that could not be decoded.
        sizes: sizes of frames, the first of each shard and the changes in it, in any order.
    """
    changes: list[SizeChange] = []
    for change in sorted({*timeline.sizes, *sizes}):
        if not changes or changes[-1][1:] != change[1:]:
            changes.append(change)
    return replace(
        timeline,
        skipped=tuple(sorted({*timeline.skipped, *skipped})),
        sizes=tuple(changes),
    )


def size_changes(content: Fields) -> tuple[SizeChange, ...]:
    """The field `sizes` of a JSON object. Raises GboptError if it is something else."""
    changes: list[SizeChange] = []
    for entry in content.items("sizes"):
        numbers = Fields({"sizes": entry}, content.where).integers("sizes")
        if len(numbers) != 3 or numbers[0] < 0 or min(numbers[1:]) < 1:
            raise GboptError(
                f"{content.where}: sizes: expected [index, height, width], got "
                f"{reprlib.repr(numbers)}"
            )
        changes.append((numbers[0], numbers[1], numbers[2]))
    return tuple(changes)
