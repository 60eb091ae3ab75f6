"""Cutting a stream of frames into clips, the same way offline and live."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from gbopt_ros.io.limits import IMAGES_OF_CLIP, MAX_PIXELS
from gbopt_ros.structures import Clip, ClipEnd, Frame, GboptError

logger = logging.getLogger(__name__)


def interruption(last: Frame, frame: Frame, max_gap_s: float) -> ClipEnd | None:
    """Why a clip ends between two frames; None where the second continues the clip."""
    step = frame.stamp_ns - last.stamp_ns
    if step < 0:
        return ClipEnd.STAMP
    if step > max_gap_s * 1e9:
        return ClipEnd.GAP
    if frame.size != last.size:
        return ClipEnd.SIZE
    return None


class ClipCutter:
    """Collects frames and gives a clip as soon as it is complete.

    A clip ends when it has `length` frames, or so many that they hold `IMAGES_OF_CLIP` times
    `max_pixels`, which bounds its memory. It also ends before a frame that comes more than
    `max_gap_s` later, has another image size, or has an earlier stamp. A frame that repeats the
    last stamp is dropped; every other frame is in at least one clip.

    With an overlap, a clip starts with the last `overlap` frames of the clip before it, unless
    the stream was cut between them. The last clip may be shorter.

    Attributes:
        dropped: number of dropped frames so far.
        next_id: number of the next clip.
    """

    def __init__(
        self,
        length: int,
        *,
        max_gap_s: float,
        overlap: int = 0,
        first_id: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Args:
            length: maximum number of frames of a clip, at least 1.
            max_gap_s: maximum number of seconds between two frames of one clip.
            overlap: number of frames that consecutive clips share, less than `length`.
            first_id: number of the first clip.
            max_pixels: maximum number of pixels of one image.

        Raises:
            GboptError: an argument is out of range.
        """
        if length < 1:
            raise GboptError(f"clip length: expected at least 1 frame, got {length}")
        if not 0 <= overlap < length:
            raise GboptError(f"clip overlap: expected 0 to {length - 1} frames, got {overlap}")
        if not max_gap_s > 0:
            raise GboptError(f"clip max_gap_s: expected a positive number, got {max_gap_s}")
        self.dropped = 0
        self._length = length
        self._max_gap_s = max_gap_s
        self._overlap = overlap
        self._max_clip_pixels = IMAGES_OF_CLIP * max_pixels
        self._has_warned = False
        self._frames: list[Frame] = []
        self._shared = 0  # leading frames that the previous clip held already
        self.next_id = first_id
        self._last: Frame | None = None

    def push(self, frame: Frame) -> list[Clip]:
        """Add the next frame; returns the 0 to 2 clips that it completes."""
        clips: list[Clip] = []
        if self._last is not None:
            if frame.stamp_ns == self._last.stamp_ns:
                self.dropped += 1
                return clips
            end = interruption(self._last, frame, self._max_gap_s)
            if end is not None:
                clips += self.flush(end)
        self._last = frame
        self._frames.append(frame)
        if len(self._frames) >= self._full_length(frame):
            clips.append(self._emit(ClipEnd.LENGTH))
            self._frames = self._frames[len(self._frames) - self._overlap :]
            self._shared = len(self._frames)
        return clips

    def _full_length(self, frame: Frame) -> int:
        """The number of frames of a full clip of this image size, more than `overlap`."""
        height, width = frame.size
        fitting = max(self._max_clip_pixels // (height * width), self._overlap + 1)
        if fitting < self._length and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "clips of %dx%d images have %d frames, not %d, so that they fit in memory; take "
                "smaller images, or raise clip.max_pixels", width, height, fitting, self._length,
            )  # fmt: skip
        return min(self._length, fitting)

    @property
    def partial(self) -> Clip | None:
        """The frames so far of the clip that has not ended, if any."""
        if len(self._frames) <= self._shared:
            return None
        return Clip(self.next_id, tuple(self._frames))

    def flush(self, end: ClipEnd = ClipEnd.STREAM) -> list[Clip]:
        """End the partial clip, if any; frames that follow are not joined to it."""
        clips = [self._emit(end)] if len(self._frames) > self._shared else []
        self._frames = []
        self._shared = 0
        return clips

    def _emit(self, end: ClipEnd) -> Clip:
        clip = Clip(self.next_id, tuple(self._frames), end)
        self.next_id += 1
        return clip


def cut_clips(
    frames: Iterable[Frame],
    length: int,
    *,
    max_gap_s: float,
    overlap: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Clip]:
    """Cut frames into clips as `ClipCutter` does, holding one clip at a time.

    Where `frames` breaks off with a `GboptError`, the partial clip is given before the error.
    """
    cutter = ClipCutter(length, max_gap_s=max_gap_s, overlap=overlap, max_pixels=max_pixels)
    try:
        for frame in frames:
            yield from cutter.push(frame)
    except GboptError:
        yield from cutter.flush()
        raise
    yield from cutter.flush()
