"""How far a recording of a bulk run is: its plan, its shards, and what failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gbopt_ros.bulk.merge import FRAMES, FinishedShard
from gbopt_ros.bulk.plan import Shard, Timeline, cut_shards, with_findings
from gbopt_ros.bulk.recordings import Recording
from gbopt_ros.bulk.shards import ShardReport, digest, read_report, shard_name
from gbopt_ros.config import ClipConfig
from gbopt_ros.io.files import make_folder, remove_folder, unwritable
from gbopt_ros.io.sources import files_of_recording
from gbopt_ros.structures import GboptError

WHOLE = -1
"""In place of the first frame of a shard: the recording itself failed."""


class RecordingProgress:
    """What is done of a recording, and what is missing.

    Args:
        out: folder of the run.
        identity: all but the recording that decides a shard.
        shard_frames: least number of frames of a shard.

    Attributes:
        shards: all of them; None before the recording is planned.
        missing: shards to select, in order.
        running: number of its tasks that workers have.
        reports: of the shards that are done.
        failures: reason by the first frame of a shard, or by `WHOLE`.
        hours: hours of video, once it is planned.
    """

    def __init__(
        self,
        recording: Recording,
        out: Path,
        identity: Mapping[str, Any],
        config: ClipConfig,
        shard_frames: int,
    ) -> None:
        self.recording = recording
        self.shards: list[Shard] | None = None
        self.missing: list[Shard] = []
        self.running = 0
        self.reports: dict[Shard, ShardReport] = {}
        self.failures: dict[int, str] = {}
        self.hours = 0.0
        self._folder = out / FRAMES / recording.name
        self._config, self._shard_frames = config, shard_frames
        about: dict[str, Any] = {"topic": recording.topic, "options": asdict(recording.options)}
        try:
            about["files"] = files_of_recording(recording.path)
        except GboptError as error:
            self.failures[WHOLE] = str(error)
        self._identity = {**identity, "recording": about}
        self.plan = out / "plans" / f"{recording.name}-{digest(about)}.json"

    @property
    def is_unplanned(self) -> bool:
        """Whether its stamps are still to be read."""
        return self.shards is None and not self.failures

    @property
    def is_open(self) -> bool:
        """Whether something is left to do that no worker does."""
        return bool(self.missing) or (self.is_unplanned and not self.running)

    @property
    def skipped(self) -> int:
        """Number of images that could not be decoded."""
        return sum(len(report.skipped) for report in self.reports.values())

    def folder(self, shard: Shard) -> Path:
        """Where a shard is, or will be."""
        return self._folder / shard_name(shard, self._identity)

    def cut(self) -> None:
        """Cut the planned recording into shards, and see which of them are missing."""
        try:
            timeline = Timeline.load(self.plan)
            self.hours = timeline.hours(self._config.max_gap_s)
            self.shards = cut_shards(timeline, self._config, self._shard_frames)
            self.reports = {}
            self.missing = [shard for shard in self.shards if not self.take(shard)]
            if self.missing:
                make_folder(self._folder)
            else:
                self.settle()
        except GboptError as error:
            self.missing, self.failures = [], {WHOLE: str(error)}

    def take(self, shard: Shard) -> bool:
        """Read the report of a shard; whether it is there."""
        report = read_report(self.folder(shard))
        if report is not None:
            self.reports[shard] = report
        return report is not None

    def give_back(self, shard: Shard) -> None:
        """A shard is missing again."""
        self.missing = sorted([*self.missing, shard], key=lambda each: each.first)

    def settle(self) -> None:
        """Once no shard is missing: plan anew if they found what the plan could not know."""
        known = Timeline.load(self.plan)
        found = with_findings(
            known,
            (index for report in self.reports.values() for index in report.skipped),
            (change for report in self.reports.values() for change in report.sizes),
        )
        if found == known:
            if not self.failures and not any(r.frames for r in self.reports.values()):
                self.failures[WHOLE] = "no image can be decoded"
            return
        before = {self.folder(shard) for shard in self.reports}
        found.save(self.plan)
        self.failures.clear()  # of shards that are cut in another way now
        self.cut()
        for folder in before - {self.folder(shard) for shard in self.shards or ()}:
            try:
                remove_folder(folder)
            except OSError as error:
                raise unwritable(folder, error) from error

    def finished(self, first_clip: int) -> Iterator[FinishedShard]:
        """The shards that are done.

        Args:
            first_clip: number of the recording's first clip in the whole dataset.
        """
        for shard in self.shards or ():
            if shard in self.reports:
                number = first_clip + shard.first_clip
                yield FinishedShard(self.recording.name, shard, self.folder(shard), number)

    @property
    def clips(self) -> int:
        return sum(shard.clips for shard in self.shards or ())
