"""A recording of the user's own: the frames that the demo takes of it, and what it will do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from gbopt_ros.config import Config
from gbopt_ros.demo.data import OwnData
from gbopt_ros.demo.duration import expected_seconds, in_words, measure_speed
from gbopt_ros.io.sources import Source, open_source
from gbopt_ros.io.sources.base import SourceOptions
from gbopt_ros.io.sources.excerpt import Excerpt
from gbopt_ros.learning.training.fine_tuning import selected_in_batch
from gbopt_ros.structures import Frame

log = logging.getLogger(__name__)

FRAMES, QUICK_FRAMES = 300, 60
MAX_SIDE = 640  # longest side of the frames unless a size is given, pixels
_PROBED = 6  # frames that the time is measured on


@dataclass(frozen=True)
class OwnRecording:
    """A recording and the part of it to learn from.

    Attributes:
        path: rosbag2, video or folder of images.
        topic: image topic of a rosbag2; None takes the only one.
        options: frames in range, and their size; by default large frames are scaled to `MAX_SIDE`.
        frames: maximum number of frames.
    """

    path: Path
    topic: str | None = None
    options: SourceOptions = field(default_factory=SourceOptions)
    frames: int = FRAMES

    def open(self, clip_length: int) -> Source:
        """The frames, in pieces of the length of a clip.

        Raises:
            GboptError: as `open_source`, or there is no frame.
        """
        size = self.options.resize or self._smaller()
        return Excerpt(self._open(size), self.frames, clip_length)

    def _smaller(self) -> tuple[int, int] | None:
        """(width, height) of large frames, None for others."""
        height, width = next(iter(self._open(None))).size
        longest = max(height, width)
        if longest <= MAX_SIDE:
            return None
        smaller = tuple(max(1, round(side * MAX_SIDE / longest)) for side in (width, height))
        log.info(
            "%s: frames of %dx%d are scaled to %dx%d, to save time (--resize %dx%d would not)",
            self.path, width, height, *smaller, width, height,
        )  # fmt: skip
        return smaller[0], smaller[1]

    def _open(self, size: tuple[int, int] | None) -> Source:
        options = replace(self.options, resize=size)
        return open_source(self.path, topic=self.topic, **vars(options))


def too_short(source: Source, config: Config) -> str:
    """Why a recording has too few frames to learn from; "" where it has enough."""
    fewest = selected_in_batch(config.learning, rehearses=True)
    count = len(_first(source, fewest))
    if count >= fewest:
        return ""
    frames = "1 frame is" if count == 1 else f"{count} frames are"
    return f"{frames} too few to learn from, every step takes {fewest}"


def tell_plan(
    recording: OwnRecording, data: OwnData, config: Config, rounds: int, shortage: str
) -> None:
    """Log what comes, and how long it will take on this machine.

    Args:
        shortage: why nothing can be learnt, see `too_short`.
    """
    if shortage:
        log.warning("%s: %s; masks are selected all the same", recording.path, shortage)
        return
    log.info("%s: measuring how long it will take ...", recording.path)
    speed = measure_speed(_first(data.source, _PROBED), data, config)
    count = data.source.count
    frames = recording.frames if count is None else count
    seconds = expected_seconds(speed, frames, data, config, rounds)
    log.info(
        "%s: this takes %s\n"
        "  %s%d frames are used (--frames)\n"
        "  %s: select masks, learn from them beside labelled images that come with the\n"
        "  package, and let the gate check that nothing was forgotten\n"
        "  then select masks again, and report what changed",
        recording.path,
        in_words(seconds),
        "at most " if count is None else "",
        frames,
        "in one round" if rounds == 1 else f"in {rounds} rounds",
    )


def _first(source: Source, count: int) -> Sequence[Frame]:
    return list(islice(source, count))
