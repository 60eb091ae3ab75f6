"""A bulk run: plan, select what is missing, merge. Killed at any moment, it can be started again.

OUT/selected.json                one COCO dataset of all recordings
OUT/frames/RECORDING/SHARD/      a shard: selected.json, frames/, overlay.mp4 and run.json
OUT/plans/                       the stamps of the recordings
OUT/run.json                     configuration, counts and failures of the latest run
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gbopt_ros.bulk import SHARD_FRAMES
from gbopt_ros.bulk.merge import FinishedShard, merge
from gbopt_ros.bulk.plan import Shard
from gbopt_ros.bulk.progress import WHOLE, RecordingProgress
from gbopt_ros.bulk.recordings import Recording
from gbopt_ros.bulk.shards import Failed, PlanTask, ShardTask
from gbopt_ros.bulk.workers import Event, Workers
from gbopt_ros.config import Config
from gbopt_ros.io.files import make_folder, write_text
from gbopt_ros.io.json_file import to_json
from gbopt_ros.io.locks import try_lock, unlock
from gbopt_ros.structures import GboptError

log = logging.getLogger(__name__)

_ATTEMPTS = 2  # at a task whose worker ends


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        recordings: number of recordings.
        hours: hours of video that were planned.
        frames, masks: numbers in the merged dataset.
        selected_frames: number of frames that this run selected in.
        seconds: wall time of the run.
        failures: what failed and why, a line each.
    """

    recordings: int
    hours: float
    frames: int
    masks: int
    selected_frames: int
    seconds: float
    failures: tuple[str, ...]

    def table(self) -> str:
        """The outcome for a terminal."""
        speed = self.selected_frames / self.seconds if self.selected_frames else None
        rows = {
            "recordings": str(self.recordings),
            "hours of video": f"{self.hours:.2f}",
            "frames": str(self.frames),
            "frames a second": "-" if speed is None else f"{speed:.2f}",
            "masks": str(self.masks),
            "failures": str(len(self.failures)),
        }
        lines = [f"{name:16} {value:>12}" for name, value in rows.items()]
        return "\n".join([*lines, *(f"failed: {line}" for line in self.failures)])


class BulkRun:
    """Selects masks in many recordings.

    Args:
        recordings: with unique names.
        out: folder of the results; what an earlier run left there is gone on with.
        config: all settings.
        identity: all else that decides a shard: settings, files, versions and what is written.
        shard_frames: least number of frames of a shard.
        on_frames: called with two numbers of frames: those to select in so far, and those done.

    Raises:
        GboptError: `out` cannot be written.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        out: Path,
        config: Config,
        identity: Mapping[str, Any],
        *,
        shard_frames: int = SHARD_FRAMES,
        on_frames: Callable[[int, int], object] = lambda planned, done: None,
    ) -> None:
        make_folder(out)
        self._out, self._identity, self._on_frames = out, dict(identity), on_frames
        self._tracks = config.tracks
        self._recordings = [
            RecordingProgress(each, out, identity, config.clip, shard_frames) for each in recordings
        ]
        self._tasks: dict[int, tuple[RecordingProgress, Shard | None]] = {}  # by worker
        self._latest: dict[int, tuple[RecordingProgress, Shard]] = {}  # by worker, its last shard
        self._losses: Counter[tuple[str, Shard | None]] = Counter()
        self._done = 0  # frames

    def run(self, make_workers: Callable[[], Workers]) -> Outcome:
        """Do what is missing, and merge.

        Args:
            make_workers: called only if something is missing.

        Raises:
            GboptError: another process writes the folder, no worker can start, or the networks
                cannot be loaded.
        """
        start = time.monotonic()
        with _locked(self._out):
            for each in self._recordings:
                if each.is_unplanned and each.plan.exists():
                    each.cut()
            if any(each.is_open for each in self._recordings):
                workers = make_workers()
                try:
                    self._work(workers)
                finally:
                    workers.close()
            return self._finish(start)

    def _work(self, workers: Workers) -> None:
        """Hand out tasks until nothing is left to do."""
        idle: set[int] = set()
        while self._tasks or any(each.is_open for each in self._recordings):
            for worker in sorted(idle):
                chosen = self._choose(worker)
                if chosen is not None:
                    idle.discard(worker)
                    self._hand_out(workers, worker, *chosen)
            for event in workers.wait():
                if event.worker in self._tasks:
                    self._take(event)
                if event.lost:
                    idle.discard(event.worker)
                else:
                    idle.add(event.worker)
            self._tell()

    def _choose(self, worker: int) -> tuple[RecordingProgress, Shard | None] | None:
        """The next task of a worker; None where there is none for it now.

        All recordings are planned first. Then a worker goes on with its recording, which it has
        open; or it takes one that nobody has; or the second half of what is left of the longest.
        """
        for each in self._recordings:
            if each.is_unplanned and not each.running:
                return each, None
        if worker in self._latest:
            current, shard = self._latest[worker]
            following = [other for other in current.missing if other.first_new > shard.last]
            if following and following[0].first_clip == shard.first_clip + shard.clips:
                return current, following[0]
        waiting = [each for each in self._recordings if each.missing]
        for each in waiting:
            if not each.running:
                return each, each.missing[0]
        if not waiting:
            return None
        longest = max(waiting, key=lambda each: len(each.missing))
        return longest, longest.missing[len(longest.missing) // 2]

    def _hand_out(
        self, workers: Workers, worker: int, progress: RecordingProgress, shard: Shard | None
    ) -> None:
        progress.running += 1
        self._tasks[worker] = progress, shard
        if shard is None:
            workers.start(worker, PlanTask(progress.recording, progress.plan))
            return
        progress.missing.remove(shard)
        self._latest[worker] = progress, shard
        workers.start(worker, ShardTask(progress.recording, shard, progress.folder(shard)))

    def _take(self, event: Event) -> None:
        """Take what a worker did."""
        progress, shard = self._tasks.pop(event.worker)
        progress.running -= 1
        first = WHOLE if shard is None else shard.first
        if event.lost:
            self._latest.pop(event.worker, None)
            self._losses[progress.recording.name, shard] += 1
            if self._losses[progress.recording.name, shard] < _ATTEMPTS:
                log.warning("%s: %s; it is tried again", progress.recording.name, event.lost)
                if shard is not None:
                    progress.give_back(shard)
                return
            progress.failures[first] = event.lost
        elif isinstance(event.result, Failed):
            if event.result.fatal:
                raise GboptError(event.result.reason)
            progress.failures[first] = event.result.reason
        elif shard is None:
            progress.cut()
        else:
            progress.take(shard)
            self._done += shard.frames
        if shard is not None and not progress.missing and not progress.running:
            progress.settle()

    def _tell(self) -> None:
        """Tell how many frames there are to select in, and how many are done."""
        running = [shard for _, shard in self._tasks.values() if shard is not None]
        missing = [shard for each in self._recordings for shard in each.missing]
        left = sum(shard.frames for shard in (*running, *missing))
        self._on_frames(self._done + left, self._done)

    def _finish(self, start: float) -> Outcome:
        """Merge what is done, and write what the run did."""
        merged = merge(self._out, self._finished(), self._tracks.linker())
        outcome = Outcome(
            recordings=len(self._recordings),
            hours=sum(each.hours for each in self._recordings),
            frames=sum(merged.frames.values()),
            masks=sum(merged.masks.values()),
            selected_frames=self._done,
            seconds=time.monotonic() - start,
            failures=tuple(
                each.recording.name
                + (f": {reason}" if first == WHOLE else f", from frame {first}: {reason}")
                for each in self._recordings
                for first, reason in sorted(each.failures.items())
            ),
        )
        recordings = [
            {
                "name": each.recording.name,
                "source": str(each.recording.path),
                "hours": each.hours,
                "shards": len(each.shards or ()),
                "frames": merged.frames.get(each.recording.name, 0),
                "masks": merged.masks.get(each.recording.name, 0),
                "skipped": each.skipped,
            }
            for each in self._recordings
        ]
        run = asdict(outcome) | {"recordings": recordings} | self._identity
        write_text(self._out / "run.json", to_json(run, indent=2))
        return outcome

    def _finished(self) -> Iterator[FinishedShard]:
        first_clip = 0
        for each in self._recordings:
            yield from each.finished(first_clip)
            first_clip += each.clips


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold a folder. Raises GboptError if another process has it."""
    try:
        lock = try_lock(out)
    except OSError:  # this file system knows no locks
        yield
        return
    if lock is None:
        raise GboptError(f"{out}: another process is writing it; wait until it is done")
    try:
        yield
    finally:
        unlock(lock)
