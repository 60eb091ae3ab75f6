"""Joins images, masks and statuses to the clips that a learner stores; all of them may be late."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gbopt_ros.nodes.messages import Stamped, stamp_ns
from gbopt_ros.structures import Image


@dataclass(frozen=True)
class CollectedFrames:
    """Frames of a clip, to be stored.

    Attributes:
        session: name of the recording that they belong to.
        frames: `SelectedMasks` and the image of each; None where the image did not come.
        is_whole: whether the clip ends with them.
    """

    session: str
    frames: list[tuple[Any, Image | None]]
    is_whole: bool


class ClipCollector:
    """Buffers images and masks until their clip is complete.

    Args:
        capacity: maximum number of images, and of frames with masks, in memory.
        store: called with the frames of a clip, or with a part of them if they are too many.
    """

    def __init__(self, capacity: int, store: Callable[[CollectedFrames], None]) -> None:
        self._capacity, self._store = capacity, store
        self._session = _new_session()
        self._last_index = -1  # of a frame with masks
        self._images: OrderedDict[int, Stamped[Image]] = OrderedDict()
        self._frames: dict[int, list[tuple[Any, Image | None]]] = {}  # clip: its frames so far
        self._expected: dict[int, int] = {}  # clip: number of frames by its status

    def add_image(self, image: Stamped[Image]) -> None:
        """Keep an image for its masks."""
        self._images[image.stamp_ns] = image
        while len(self._images) > self._capacity:
            self._images.popitem(last=False)

    def add_masks(self, masks: Any) -> bool:
        """Take a `SelectedMasks`; whether its image is there."""
        image = self._images.pop(stamp_ns(masks.header.stamp), None)
        if masks.frame_index <= self._last_index:  # the clip buffer was restarted, counts from 0
            self.flush(are_whole=True)
            # Later clips are of before: their frames never came.
            self._expected = {c: n for c, n in self._expected.items() if c <= masks.clip_id}
            self._session = _new_session()
        self._last_index = masks.frame_index
        frames = self._frames.setdefault(masks.clip_id, [])
        frames.append((masks, image.value if image is not None else None))
        if sum(map(len, self._frames.values())) > self._capacity:
            self._hand_over(min(self._frames), is_whole=False)  # its status may never come
        self._hand_over_complete()
        return image is not None

    def add_status(self, status: Any) -> None:
        """Take a `ClipStatus`, which says how many frames a clip has; it may come before them."""
        self._expected[status.clip_id] = status.published
        while len(self._expected) > self._capacity:  # their frames never came
            del self._expected[min(self._expected)]
        self._hand_over_complete()

    def flush(self, *, are_whole: bool) -> None:
        """Store all that is there."""
        for clip in sorted(self._frames):
            self._hand_over(clip, are_whole)

    def _hand_over_complete(self) -> None:
        """Store complete clips, and older ones: the rest of those was lost."""
        complete = [c for c, n in self._expected.items() if len(self._frames.get(c, ())) >= n]
        if not complete:
            return
        for clip in sorted({*self._frames, *self._expected}):
            if clip > max(complete):
                break
            self._hand_over(clip, is_whole=True)

    def _hand_over(self, clip: int, is_whole: bool) -> None:
        frames = self._frames.pop(clip, [])
        if is_whole:
            self._expected.pop(clip, None)
        if frames:
            self._store(CollectedFrames(self._session, frames, is_whole))


def _new_session() -> str:
    """A unique name for a recording in the training set.

    The time is not enough: the clock of a robot may show the same time at every start.
    """
    return f"live-{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}"
