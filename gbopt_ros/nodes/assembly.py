"""Puts the results of the networks together again: frames by their stamp, clips by their frames."""

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

_SYNCHRONISED = 32  # frames that wait for a missing partner


@dataclass(frozen=True)
class FrameCues:
    """What the networks say of one frame by itself."""

    image: Stamped[Image]
    proposals: VersionedProposals
    background: NDArray[np.float32]


@dataclass(frozen=True)
class AssembledClip:
    """A clip, whole or still growing, with everything that its selection needs.

    Attributes:
        message: the `ClipFrames` that told of it.
        is_whole: no frame follows.
        clip, cues: what the selection takes.
        headers: of its T frames, as the camera sent them.
        versions: of the networks that proposed on each frame.
    """

    message: Any
    is_whole: bool
    clip: Clip
    cues: Cues
    headers: list[Any]
    versions: list[str]


class ClipAssembly:
    """Collects streams that arrive in any order relative to each other, each in its own order.

    Args:
        complete: called with each clip once all of it is there, in the order of the clips.
        partial_clip: called with each clip up to a frame once that much of it is there.
        finished: called with the header of each frame that is there with its flow from the frame
            before, unless it ends a clip that is complete or announced, or `partial_clip` was called.
        lost: called with the `ClipFrames` of a clip that can never be complete.
        capacity: frames held at most.

    All callbacks come from the thread that delivered the last missing piece, under a lock that
    keeps them in order: they must only queue or publish.

    Attributes:
        finished_frames: how many came to be there with their flow from the frame before,
        last_progress: and when the last of them did, of the monotonic clock.
    """

    def __init__(
        self,
        complete: Callable[[AssembledClip], None],
        partial_clip: Callable[[AssembledClip], None],
        finished: Callable[[Any], None],
        lost: Callable[[Any], None],
        capacity: int,
    ) -> None:
        self._complete, self._partial = complete, partial_clip
        self._finished, self._lost = finished, lost
        self._capacity = capacity
        self.finished_frames, self.last_progress = 0, time.monotonic()
        self._lock = threading.RLock()
        self._frames: OrderedDict[int, FrameCues] = OrderedDict()  # by stamp, as they arrived
        self._flows: OrderedDict[int, NDArray[np.float32]] = OrderedDict()
        self._waiting: OrderedDict[int, int | None] = OrderedDict()  # frame: whose flow it needs
        self._clips: list[Any] = []
        self._clips_so_far: OrderedDict[int, Any] = OrderedDict()  # by the stamp of their end
        self._taken: tuple[int, set[int]] = -1, set()  # the last clip that was complete, its stamps
        self._last: Stamped[Image] | None = None
        self._sync = make_synchroniser(3, _SYNCHRONISED, self._add_cues)

    def __len__(self) -> int:
        """Frames held."""
        return len(self._frames)

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
            while len(self._flows) > self._capacity:
                self._flows.popitem(last=False)
        self._check()

    def add_clip(self, message: Any) -> None:
        """Announce a clip; its frames are before, after or on their way."""
        with self._lock:
            self._let_go_of_namesake(message)
            self._clips.append(message)
        self._check()

    def add_partial_clip(self, message: Any) -> None:
        """Announce a clip up to a frame that is on its way, and that does not end it."""
        with self._lock:
            self._let_go_of_namesake(message)
            self._clips_so_far[stamp_ns(message.header.stamp)] = message
            while len(self._clips_so_far) > self._capacity:
                self._clips_so_far.popitem(last=False)

    def _let_go_of_namesake(self, message: Any) -> None:
        """Where stamps begin again, a frame of the last clip is not the one that is on its way."""
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
            while len(self._frames) > self._capacity:
                self._frames.popitem(last=False)
            last, self._last = self._last, image
            needs = last.stamp_ns if last is not None and has_flow(last, image) else None
            self._waiting[stamp] = needs
            while len(self._waiting) > self._capacity:  # whose flow never came
                self._waiting.popitem(last=False)
        self._check()

    def _check(self) -> None:
        calls: list[Callable[[], None]] = []
        with self._lock:
            flows = {None, *self._flows}
            done = [stamp for stamp, needed in self._waiting.items() if needed in flows]
            for stamp in done:
                del self._waiting[stamp]
            if done:
                self.finished_frames += len(done)
                self.last_progress = time.monotonic()
            # What a clip ends with is finished when the clip is; everything else is now.
            last_frames = {stamp_ns(message.header.stamp) for message in self._clips}
            for stamp in done:
                so_far = self._clips_so_far.pop(stamp, None)
                if stamp in last_frames or stamp not in self._frames:
                    continue
                if so_far is not None and self._is_complete(so_far):
                    calls.append(partial(self._partial, self._cues(so_far, is_whole=False)))
                else:
                    header = self._frames[stamp].image.header
                    calls.append(partial(self._finished, header))
            ready = [i for i, m in enumerate(self._clips) if self._is_complete(m)]
            if ready:
                # Every stream keeps its order: what is missing before a complete clip never comes.
                for i, message in enumerate(self._clips[: ready[-1] + 1]):
                    if i in ready:
                        cues = self._take(message)
                        calls.append(partial(self._complete, cues))
                    else:
                        calls.append(partial(self._lost, message))
                del self._clips[: ready[-1] + 1]
            for call in calls:
                call()

    def _is_complete(self, message: Any) -> bool:
        stamps = [stamp_ns(stamp) for stamp in message.stamps]
        return all(stamp in self._frames for stamp in stamps) and all(
            stamp in self._flows for stamp in stamps[:-1]
        )

    def _take(self, message: Any) -> AssembledClip:
        """The clip; frames before it are let go, its own may be shared with the next clip."""
        first = stamp_ns(message.stamps[0])
        while next(iter(self._frames)) != first:
            stamp, _ = self._frames.popitem(last=False)
            self._flows.pop(stamp, None)
        self._taken = message.clip_id, {stamp_ns(stamp) for stamp in message.stamps}
        return self._cues(message, is_whole=True)

    def _cues(self, message: Any, *, is_whole: bool) -> AssembledClip:
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

    def give_up_oldest(self, older_than: Callable[[Any], bool]) -> None:
        """Call `lost` for announced clips of which this is true; they never became complete."""
        with self._lock:
            late = [message for message in self._clips if older_than(message)]
            self._clips = [message for message in self._clips if message not in late]
            for message in late:
                self._lost(message)
