"""Holds the camera's colour and depth images until the masks of a frame come, a clip later."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from gbopt_ros.nodes.messages import Stamped, stamp_ns
from gbopt_ros.structures import Image


@dataclass(frozen=True)
class RgbdMessages:
    """What was seen at one moment.

    Attributes:
        image: the colour image.
        depth: `sensor_msgs/Image`; None if none is near enough in time.
        gap_ns: time between colour and depth, or the nearest depth; None if none is held.
    """

    image: Stamped[Image]
    depth: Any
    gap_ns: int | None


class RgbdBuffer:
    """Colour images that the networks work on, and the depth image nearest to each in time.

    The camera sends depth for every frame, also for those that the clip buffer drops. So the newest
    depth images are held, and when they are not new any more, only those of a colour image whose
    masks are still to come. All methods may be called from any thread.

    Args:
        capacity: maximum number of colour images, of new depth images, and of other depth images;
            the oldest go first.
        tolerance_ns: maximum time between colour and depth, nanoseconds.
    """

    def __init__(self, capacity: int, tolerance_ns: int) -> None:
        self._capacity, self._tolerance_ns = capacity, tolerance_ns
        self._lock = threading.Lock()
        self._images: OrderedDict[int, Stamped[Image]] = OrderedDict()
        self._recent: OrderedDict[int, Any] = OrderedDict()  # depth images
        self._kept: dict[int, Any] = {}  # by the stamp of their colour image

    def __len__(self) -> int:
        """Number of colour images that wait for their masks."""
        return len(self._images)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._images.clear()
            self._recent.clear()
            self._kept.clear()

    def add_image(self, image: Stamped[Image]) -> None:
        with self._lock:
            self._images[image.stamp_ns] = image
            self._images.move_to_end(image.stamp_ns)
            if len(self._images) > self._capacity:
                self._forget_oldest()

    def add_depth(self, depth: Any) -> None:
        with self._lock:
            stamp = stamp_ns(depth.header.stamp)
            self._recent[stamp] = depth
            self._recent.move_to_end(stamp)
            if len(self._recent) > self._capacity:
                self._keep(*self._recent.popitem(last=False))

    def take(self, stamp: int) -> RgbdMessages | None:
        """The messages of a frame, None without its colour image. Earlier frames are forgotten."""
        with self._lock:
            if stamp not in self._images:
                return None
            depths = dict(self._recent)
            if stamp in self._kept:
                kept = self._kept[stamp]
                depths[stamp_ns(kept.header.stamp)] = kept
            image = self._images[stamp]
            while stamp in self._images:
                self._forget_oldest()
        if not depths:
            return RgbdMessages(image, None, None)
        gap, nearest = min((abs(other - stamp), other) for other in depths)
        if gap > self._tolerance_ns:
            return RgbdMessages(image, None, gap)
        return RgbdMessages(image, depths[nearest], gap)

    def _keep(self, stamp: int, depth: Any) -> None:
        """Keep a depth image for the colour images that it is nearest to."""
        for wanted in self._images:
            gap = abs(wanted - stamp)
            before = self._kept.get(wanted)
            if gap <= self._tolerance_ns and (
                before is None or gap < abs(wanted - stamp_ns(before.header.stamp))
            ):
                self._kept[wanted] = depth

    def _forget_oldest(self) -> None:
        stamp, _ = self._images.popitem(last=False)
        self._kept.pop(stamp, None)
