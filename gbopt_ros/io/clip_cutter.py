"""Cutting a stream of frames into clips, the same way offline and live."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gbopt_ros.structures import Clip, ClipEnd, Frame, GboptError


def interruption(last: Frame, frame: Frame, max_gap_s: float) -> ClipEnd | None:
    """Why a frame does not continue the clip of the frame before it; None where it does."""
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

    A clip ends when it has `length` frames, and before a frame that comes more than `max_gap_s`
    after the last one, has another image size, or whose stamp jumps back. A frame that repeats
    the last stamp is dropped.

    With an overlap, a clip starts with the last `overlap` frames of the clip before it, unless
    the stream was cut between them. A shorter tail is a clip too, shared frames included, if it
    holds at least one frame that no clip held before: every frame that was not dropped is in a
    clip.

    Attributes:
        dropped: frames dropped so far.
        next_id: number of the next clip.
    """

    def __init__(
        self, length: int, *, max_gap_s: float, overlap: int = 0, first_id: int = 0
    ) -> None:
        """Args:
            length: frames of a clip at most, at least 1.
            max_gap_s: seconds between two stamps of one clip at most.
            overlap: frames that consecutive clips share, less than `length`.
            first_id: number of the first clip.

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
        self._frames: list[Frame] = []
        self._shared = 0  # leading frames that the previous clip held already
        self.next_id = first_id
        self._last: Frame | None = None

    def push(self, frame: Frame) -> list[Clip]:
        """Add the next frame; the clips that it completes, 0 to 2 of them."""
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
        if len(self._frames) == self._length:
            clips.append(self._emit(ClipEnd.LENGTH))
            self._frames = self._frames[self._length - self._overlap :]
            self._shared = len(self._frames)
        return clips

    @property
    def begun(self) -> Clip | None:
        """The clip that frames have been added to and that has not ended, if any."""
        if len(self._frames) <= self._shared:
            return None
        return Clip(self.next_id, tuple(self._frames))

    def flush(self, end: ClipEnd = ClipEnd.STREAM) -> list[Clip]:
        """End the current clip, if any; frames that follow are not joined to it."""
        clips = [self._emit(end)] if len(self._frames) > self._shared else []
        self._frames = []
        self._shared = 0
        return clips

    def _emit(self, end: ClipEnd) -> Clip:
        clip = Clip(self.next_id, tuple(self._frames), end)
        self.next_id += 1
        return clip


def cut_clips(
    frames: Iterable[Frame], length: int, *, max_gap_s: float, overlap: int = 0
) -> Iterator[Clip]:
    """Cut frames into clips as `ClipCutter` does, holding one clip at a time.

    Where `frames` breaks off with a `GboptError`, the clip begun is given before the error.
    """
    cutter = ClipCutter(length, max_gap_s=max_gap_s, overlap=overlap)
    try:
        for frame in frames:
            yield from cutter.push(frame)
    except GboptError:
        yield from cutter.flush()
        raise
    yield from cutter.flush()
