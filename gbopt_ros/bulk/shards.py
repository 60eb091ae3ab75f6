"""What a worker does: plan a recording, or select the masks of a shard into an atomic folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gbopt_ros.bulk.plan import Shard, SizeChange, read_timeline, size_changes
from gbopt_ros.bulk.recordings import Recording
from gbopt_ros.config import Config
from gbopt_ros.io.json_file import Fields
from gbopt_ros.io.selection_format import SelectionWriter
from gbopt_ros.structures import Frame, GboptError, Selection

if TYPE_CHECKING:
    from gbopt_ros.pipeline import Pipeline

_RUN = "run.json"


def digest(*parts: object) -> str:
    """A name of 16 hexadecimal digits for plain values."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def shard_name(shard: Shard, identity: Mapping[str, Any]) -> str:
    """Name of the folder of a shard.

    Args:
        identity: all else that decides its content, plain values by name.
    """
    return f"{shard.first:08d}-{digest(identity, shard.first, shard.last)}"


@dataclass(frozen=True)
class PlanTask:
    """Read the stamps of a recording and write them to a file."""

    recording: Recording
    path: Path


@dataclass(frozen=True)
class ShardTask:
    """Select the masks of a shard into a folder."""

    recording: Recording
    shard: Shard
    folder: Path


@dataclass(frozen=True)
class Failed:
    """A task that failed.

    Attributes:
        reason: one line.
        fatal: whether every other task would fail, too.
    """

    reason: str
    fatal: bool = False


@dataclass(frozen=True)
class ShardReport:
    """What the folder of a finished shard tells.

    Attributes:
        frames, masks: numbers of those written, frames shared with the shard before included.
        skipped: indices of images that could not be decoded.
        sizes: size of the first frame, and changes.
    """

    frames: int
    masks: int
    skipped: tuple[int, ...]
    sizes: tuple[SizeChange, ...]


def read_report(folder: Path) -> ShardReport | None:
    """What a shard tells; None if it is not there. Raises GboptError if the folder is damaged."""
    path = folder / _RUN
    if not path.is_file():
        return None
    content = Fields.read(path)
    counts = content.object("counts")
    return ShardReport(
        counts.integer("frames", low=0),
        counts.integer("masks", low=0),
        tuple(content.integers("skipped")),
        size_changes(content),
    )


class ShardWorker:
    """Plans recordings and selects masks; it loads the networks once, for its first shard.

    Args:
        config: all settings.
        frames, overlay: whether shards hold the images, and a video of the masks.
        folder: working folder, which relative paths in the configuration begin at.
    """

    def __init__(self, config: Config, frames: bool, overlay: bool, folder: Path) -> None:
        os.chdir(folder)
        self._config, self._frames, self._overlay = config, frames, overlay
        self._pipeline: Pipeline | None = None
        self._reader: _ForwardReader | None = None

    def ready(self) -> None:
        """Called once, to learn that the worker has started."""

    def do(self, task: PlanTask | ShardTask) -> Failed | None:
        """Do a task. What it gives is on the disk; what goes wrong is returned."""
        try:
            if isinstance(task, PlanTask):
                read_timeline(task.recording).save(task.path)
                return None
            if self._pipeline is None:
                failed = self._load()
                if failed is not None:
                    return failed
            self._select(task)
        except Exception as error:
            self._leave_recording()
            return Failed(_reason(error))
        return None

    def _load(self) -> Failed | None:
        """Load the networks. One thread on a CPU, where workers share the cores."""
        import torch

        from gbopt_ros.models.device import resolve_device
        from gbopt_ros.pipeline import Pipeline

        try:
            self._on_gpu = resolve_device(self._config.device).type == "cuda"
            if not self._on_gpu:
                torch.set_num_threads(1)
            self._pipeline = Pipeline(self._config)
        except Exception as error:
            return Failed(f"the networks cannot be loaded: {_reason(error)}", fatal=True)
        return None

    def _select(self, task: ShardTask) -> None:
        if read_report(task.folder) is not None:  # a worker of a run that was killed finished it
            return
        assert self._pipeline is not None
        overlap = self._config.clip.overlap
        if self._reader is None or self._reader.recording != task.recording:
            self._leave_recording()
            self._reader = _ForwardReader(task.recording, overlap)
        before = dict(self._pipeline.seconds)
        frames = self._reader.frames(task.shard.first, task.shard.last)
        with SelectionWriter(
            task.folder,
            task.recording.name,
            frames=self._frames,
            overlay=self._overlay,
            linker=self._config.tracks.linker(),
        ) as writer:
            sizes: list[SizeChange] = []
            for selection in self._pipeline.run(frames, prefetch=self._on_gpu):
                writer.add(selection)
                sizes += _sizes(selection)
            writer.finish(
                source=str(task.recording.path),
                config=self._config.to_dict(),
                shard=asdict(task.shard),
                skipped=self._reader.skipped_in(task.shard.first, task.shard.last),
                sizes=sizes,
                seconds={
                    step: seconds - before.get(step, 0.0)
                    for step, seconds in self._pipeline.seconds.items()
                },
            )

    def _leave_recording(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class _ForwardReader:
    """The frames of a recording, range by range, without reading anything twice.

    Ranges usually follow each other; another one is found by reading on from the beginning. A
    thread of its own reads, since SQLite wants the same one from first to last.

    Args:
        recording: it is opened when it is first read.
        overlap: number of frames that a range may share with the range before.
    """

    def __init__(self, recording: Recording, overlap: int) -> None:
        self.recording = recording
        self._overlap = overlap
        self._thread = ThreadPoolExecutor(1, "reader")
        self._rewind()

    def frames(self, first: int, last: int) -> Iterator[Frame]:
        """The decodable frames with indices from `first` to `last`.

        Raises:
            GboptError: the recording is damaged, or shorter than it was.
        """
        shared = [frame for frame in self._latest if frame.index >= first]
        if first <= self._position and [frame.index for frame in shared[:1]] != [first]:
            self._thread.submit(self._close_records).result()
            self._rewind()
            shared = []
        yield from shared
        while (frame := self._thread.submit(self._next, first, last).result()) is not None:
            self._latest.append(frame)
            yield frame

    def skipped_in(self, first: int, last: int) -> list[int]:
        """Indices of the images of a range that could not be decoded."""
        return [index for index in self._skipped if first <= index <= last]

    def close(self) -> None:
        self._thread.submit(self._close_records).result()
        self._thread.shutdown()

    def _rewind(self) -> None:
        self._records: Any = None
        self._position = -1
        self._latest: deque[Frame] = deque(maxlen=self._overlap)
        self._skipped: list[int] = []

    def _next(self, first: int, last: int) -> Frame | None:
        """Read on to the next decodable frame from `first` on; None after `last`."""
        if self._records is None:
            self._source = self.recording.open()
            self._records = self._source.records()
        while self._position < last:
            record = next(self._records, None)
            if record is None:
                raise GboptError(f"{self.recording.path}: it is shorter than it was; start again")
            self._position = record.index
            if record.index < first:
                continue
            frame = self._source.decode(record)
            if frame is not None:
                return frame
            self._skipped.append(record.index)
        return None

    def _close_records(self) -> None:
        if self._records is not None:
            self._records.close()


def _sizes(selection: Selection) -> list[SizeChange]:
    """The size of the first frame of a clip; all others are equal."""
    frame = selection.frames[0].frame
    return [(frame.index, *frame.size)]


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, GboptError) else f"{type(error).__name__}: {text}"
