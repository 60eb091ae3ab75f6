"""Streams joined by exact stamp: message_filters where ROS has it, a small class elsewhere.

message_filters comes with a ROS installation and not as a wheel. The two agree, but for one
thing: a full queue of message_filters drops the smallest stamp, ours the one that came first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from gbopt_ros.nodes.messages import stamp_ns

try:
    import message_filters
except ImportError:
    message_filters = None


class Synchroniser(Protocol):
    """Joins what several streams say of one stamp."""

    def add(self, index: int, item: Any) -> None:
        """The next item of stream `index`; anything with a `header.stamp`, from any thread."""
        ...


def make_synchroniser(count: int, queue_size: int, callback: Callable[..., None]) -> Synchroniser:
    """A synchroniser of `count` streams.

    Args:
        queue_size: items of each stream that wait for their partners at most.
        callback: called once for each stamp that all streams delivered, with one item of each, in
            the order of completion, under a lock: it must not call `add`.
    """
    if message_filters is not None:
        return MessageFiltersSynchroniser(count, queue_size, callback)
    return ExactSynchroniser(count, queue_size, callback)


class ExactSynchroniser:
    """Our own. An item replaces one of the same stream and stamp that still waits."""

    def __init__(self, count: int, queue_size: int, callback: Callable[..., None]) -> None:
        self._queue_size, self._callback = queue_size, callback
        self._lock = threading.Lock()
        self._queues: list[OrderedDict[int, Any]] = [OrderedDict() for _ in range(count)]

    def add(self, index: int, item: Any) -> None:
        stamp = stamp_ns(item.header.stamp)
        with self._lock:
            queue = self._queues[index]
            queue[stamp] = item
            queue.move_to_end(stamp)
            while len(queue) > self._queue_size:
                queue.popitem(last=False)
            if all(stamp in queue for queue in self._queues):
                self._callback(*(queue.pop(stamp) for queue in self._queues))


class MessageFiltersSynchroniser:
    """`message_filters.TimeSynchronizer`, fed by hand since its inputs may come by reference."""

    def __init__(self, count: int, queue_size: int, callback: Callable[..., None]) -> None:
        self._filters = [message_filters.SimpleFilter() for _ in range(count)]
        self._synchroniser = message_filters.TimeSynchronizer(self._filters, queue_size)
        self._synchroniser.registerCallback(callback)

    def add(self, index: int, item: Any) -> None:
        self._filters[index].signalMessage(item)
