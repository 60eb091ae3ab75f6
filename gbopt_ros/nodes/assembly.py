"""Joins the topics of the networks: the results for a frame by its stamp, frames to clips."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.nodes.flow import has_flow
from gbopt_ros.nodes.messages import Stamped, VersionedProposals, stamp_ns
from gbopt_ros.nodes.synchroniser import make_synchroniser
from gbopt_ros.structures import Clip, Cues, Frame, Image

_SYNCHRONISED = 32  # frames that wait for the result of another network


@dataclass(frozen=True)
class FrameCues:
    """A frame, with the results that need no second frame."""

    image: Stamped[Image]
    proposals: VersionedProposals
    background: NDArray[np.float32]


@dataclass(frozen=True)
class AssembledClip:
    """A clip with everything that its selection needs.

    Attributes:
        message: the `ClipFrames` that announced it.
        is_whole: false for a partial clip, of which more frames will come.
        clip, cues: what the selection takes.
        headers: T headers, as the camera sent them.
        versions: T versions of the proposal network.
    """

    message: Any
    is_whole: bool
    clip: Clip
    cues: Cues
    headers: list[Any]
    versions: list[str]


@dataclass(frozen=True, eq=False)
class _Announced:
    """A clip that is not complete yet."""

    message: Any
    time: float  # when it was announced, seconds of the monotonic clock
    finished: int  # frames that were finished by then


class ClipAssembly:
    """Collects topics that arrive in any order relative to each other, each in its own order.

    A frame is finished when its results and the flow from the previous frame are there.

    Args:
        ready: called with each announced clip, whole or partial, when all of it is there.
        finished: called with the header of each other frame that is finished. `ready` takes the
            place of this call for the last frame of a clip.
        lost: called with the `ClipFrames` of a clip that can never be complete.
        capacity: maximum number of frames that are held.

    All callbacks run on the thread that delivered the last missing piece, under a lock that keeps
    them in order: they must only queue or publish.
    """

    def __init__(
        self,
        ready: Callable[[AssembledClip], None],
        finished: Callable[[Any], None],
        lost: Callable[[Any], None],
        capacity: int,
    ) -> None:
        self._ready, self._finished, self._lost = ready, finished, lost
        self._capacity = capacity
        self._lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._sync = make_synchroniser(3, _SYNCHRONISED, self._add_cues)
            self._frames: OrderedDict[int, FrameCues] = OrderedDict()  # by stamp, as they arrived
            self._flows: OrderedDict[int, NDArray[np.float32]] = OrderedDict()  # by first stamp
            # Unfinished frames: stamp, and the stamp of the flow that is missing.
            self._waiting: OrderedDict[int, int | None] = OrderedDict()
            self._clips: list[_Announced] = []
            self._partial_clips: OrderedDict[int, Any] = OrderedDict()  # by stamp of the last frame
            self._taken: tuple[int, set[int]] = -1, set()  # id and stamps of the last whole clip
            self._last: Stamped[Image] | None = None
            self._finished_count, self._last_progress = 0, time.monotonic()

    def __len__(self) -> int:
        """Number of frames that are held."""
        return len(self._frames)

    def count_after(self, stamp_ns: int) -> int:
        """Number of frames that are held and were taken later than a stamp."""
        with self._lock:
            return sum(stamp > stamp_ns for stamp in self._frames)

    def add_image(self, image: Stamped[Image]) -> None:
        self._sync.add(0, image)

    def add_proposals(self, proposals: Stamped[VersionedProposals]) -> None:
        self._sync.add(1, proposals)

    def add_background(self, background: Stamped[NDArray[np.float32]]) -> None:
        self._sync.add(2, background)

    def add_flow(self, flow: Stamped[NDArray[np.float32]]) -> None:
        with self._lock:
            self._flows[flow.stamp_ns] = flow.value
            self._flows.move_to_end(flow.stamp_ns)
            _shorten(self._flows, self._capacity)
        self._check()

    def add_clip(self, message: Any) -> None:
        """Announce a whole clip; its frames came before or will come."""
        with self._lock:
            self._forget_repeated_stamp(message)
            self._clips.append(_Announced(message, time.monotonic(), self._finished_count))
        self._check()

    def add_partial_clip(self, message: Any) -> None:
        """Announce a partial clip, of which the last frame will come."""
        with self._lock:
            self._forget_repeated_stamp(message)
            self._partial_clips[stamp_ns(message.header.stamp)] = message
            _shorten(self._partial_clips, self._capacity)

    def give_up(self, patience_s: float, overtaken_by: int) -> None:
        """Call `lost` for clips that will never be complete.

        Such a clip was announced more than `patience_s` seconds ago, and since then no frame was
        finished for `patience_s` seconds or more than `overtaken_by` frames were.
        """
        with self._lock:
            limit = time.monotonic() - patience_s
            is_still = self._last_progress < limit
            overtaken = self._finished_count - overtaken_by
            late = [
                clip
                for clip in self._clips
                if clip.time < limit and (is_still or clip.finished < overtaken)
            ]
            self._clips = [clip for clip in self._clips if clip not in late]
            for clip in late:
                self._lost(clip.message)

    def _forget_repeated_stamp(self, message: Any) -> None:
        """Drop a frame of the last clip if the frame that will come has the same stamp."""
        clip_id, stamps = self._taken
        stamp = stamp_ns(message.header.stamp)
        if message.clip_id != clip_id and stamp in stamps:
            stamps.remove(stamp)
            self._frames.pop(stamp, None)
            self._flows.pop(stamp, None)

    def _add_cues(
        self,
        image: Stamped[Image],
        proposals: Stamped[VersionedProposals],
        background: Stamped[NDArray[np.float32]],
    ) -> None:
        stamp = image.stamp_ns
        with self._lock:
            self._frames.pop(stamp, None)
            self._frames[stamp] = FrameCues(image, proposals.value, background.value)
            _shorten(self._frames, self._capacity)
            last, self._last = self._last, image
            needs_flow = last is not None and has_flow(last, image)
            self._waiting[stamp] = last.stamp_ns if last is not None and needs_flow else None
            _shorten(self._waiting, self._capacity)  # frames whose flow never came
        self._check()

    def _check(self) -> None:
        """Call back for whatever is complete now."""
        with self._lock:
            calls = [*self._finish_frames(), *self._complete_clips()]
            for call in calls:
                call()

    def _finish_frames(self) -> list[Callable[[], None]]:
        calls: list[Callable[[], None]] = []
        there = {None, *self._flows}
        done = [stamp for stamp, needed in self._waiting.items() if needed in there]
        if done:
            self._finished_count += len(done)
            self._last_progress = time.monotonic()
        # The last frame of a clip is finished when the clip is, every other one now.
        last_frames = {stamp_ns(clip.message.header.stamp) for clip in self._clips}
        for stamp in done:
            del self._waiting[stamp]
            message = self._partial_clips.pop(stamp, None)
            if stamp in last_frames or stamp not in self._frames:
                continue
            finished = partial(self._finished, self._frames[stamp].image.header)
            if message is not None and self._is_complete(message):
                calls.append(self._delivery(message, is_whole=False, otherwise=finished))
            else:
                calls.append(finished)
        return calls

    def _complete_clips(self) -> list[Callable[[], None]]:
        calls: list[Callable[[], None]] = []
        complete = [i for i, clip in enumerate(self._clips) if self._is_complete(clip.message)]
        if complete:
            # Every topic keeps its order: what a clip before a complete one lacks never comes.
            last = complete[-1]
            for i, clip in enumerate(self._clips[: last + 1]):
                if i in complete:
                    lost = partial(self._lost, clip.message)
                    calls.append(self._delivery(clip.message, is_whole=True, otherwise=lost))
                else:
                    calls.append(partial(self._lost, clip.message))
            del self._clips[: last + 1]
        return calls

    def _delivery(
        self, message: Any, *, is_whole: bool, otherwise: Callable[[], None]
    ) -> Callable[[], None]:
        """Hand a complete clip over, `otherwise` if its frames cannot be of one clip."""
        try:
            clip = self._take(message) if is_whole else self._assembled(message, is_whole=False)
        except ValueError:
            return otherwise
        return partial(self._ready, clip)

    def _is_complete(self, message: Any) -> bool:
        stamps = [stamp_ns(stamp) for stamp in message.stamps]
        return all(stamp in self._frames for stamp in stamps) and all(
            stamp in self._flows for stamp in stamps[:-1]
        )

    def _take(self, message: Any) -> AssembledClip:
        """The whole clip. Earlier frames are dropped; the next clip may share its own frames."""
        first = stamp_ns(message.stamps[0])
        while next(iter(self._frames)) != first:
            stamp, _ = self._frames.popitem(last=False)
            self._flows.pop(stamp, None)
        self._taken = message.clip_id, {stamp_ns(stamp) for stamp in message.stamps}
        return self._assembled(message, is_whole=True)

    def _assembled(self, message: Any, *, is_whole: bool) -> AssembledClip:
        stamps = [stamp_ns(stamp) for stamp in message.stamps]
        held = [self._frames[stamp] for stamp in stamps]
        frames = [
            Frame(cues.image.value, stamp, index, cues.image.header.frame_id)
            for cues, stamp, index in zip(held, stamps, message.frame_indices, strict=True)
        ]
        return AssembledClip(
            message=message,
            is_whole=is_whole,
            clip=Clip(message.clip_id, tuple(frames)),
            cues=Cues(
                [cues.proposals.proposals for cues in held],
                [cues.background for cues in held],
                [self._flows[stamp] for stamp in stamps[:-1]],
            ),
            headers=[cues.image.header for cues in held],
            versions=[cues.proposals.version for cues in held],
        )


def _shorten(items: OrderedDict[int, Any], capacity: int) -> None:
    """Drop the oldest items beyond the capacity."""
    while len(items) > capacity:
        items.popitem(last=False)
