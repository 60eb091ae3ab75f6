"""Some frames of a recording: pieces of consecutive frames, spread evenly over it."""

from __future__ import annotations

from collections.abc import Iterator

from gbopt_ros.io.sources.base import Record, Source


class Excerpt(Source):
    """At most `frames` frames of a recording, as whole clips where there is room for one.

    The pieces have as many frames as a clip, so that motion is seen in each, and lie evenly over
    the whole recording. If its number of frames is unknown, as with --start or --end, the excerpt
    is its beginning. Frames that are left out are not decoded.

    Args:
        source: the recording.
        frames: maximum number of frames, at least 1.
        length: number of frames of a clip, at least 1.
    """

    def __init__(self, source: Source, frames: int, length: int) -> None:
        super().__init__(source.path, source.options)
        self.name = source.name
        self._source = source
        self._pieces = pieces(source.count, frames, length)

    @property
    def total(self) -> int | None:
        return self._source.total

    @property
    def count(self) -> int | None:
        """Expected number of frames, None if unknown."""
        if self._source.count is None:
            return None
        return min(self._source.count, sum(len(piece) for piece in self._pieces))

    def _records(self) -> Iterator[Record]:
        return self._source._records()

    def records(self) -> Iterator[Record]:
        end = self._pieces[-1].stop
        for position, record in enumerate(super().records()):
            if position >= end:
                return
            if any(position in piece for piece in self._pieces):
                yield record


def pieces(count: int | None, frames: int, length: int) -> list[range]:
    """Positions of `frames` of `count` frames: ranges that do not overlap, in order.

    Args:
        count: number of frames of the recording, None if unknown.
        frames: maximum number of frames.
        length: number of frames of a piece; there is one shorter piece if `frames` is less.
    """
    if count is None or frames >= count:
        return [range(frames)]
    number = max(1, frames // length)
    size = min(length, frames)
    gaps = count - number * size  # frames between the pieces, all together
    starts = (i * size + round(i * gaps / max(1, number - 1)) for i in range(number))
    return [range(start, start + size) for start in starts]
