"""Joins topics by exact stamp: with message_filters if ROS has it, else with a small class.

message_filters comes with an installation of ROS, but not as a wheel. Both classes do the same: a
full queue drops the item that came first, an incomplete set waits although newer ones are
complete, and the callback may add and may raise. `message_filters.TimeSynchronizer` by itself is
different, so it is wrapped:

- A full queue drops the smallest stamp. After stamps jump back, as in a recording that starts
  again, that is the newest item, and nothing is joined until the stamps catch up.
- It calls back under a lock that is not reentrant and that an exception leaves locked: the next
  `add` waits for ever.
- A stamp that is negative or no `builtin_interfaces/Time` raises under the same lock.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

from gbopt_ros.nodes.messages import Stamped, make_header, stamp_ns
from gbopt_ros.nodes.ros_libraries import library


class Synchroniser(Protocol):
    """Joins the items of several streams that have the same stamp."""

    def add(self, index: int, item: Any) -> None:
        """The next item of stream `index`, from any thread.

        Args:
            item: anything with `header.stamp`, which has `sec` and `nanosec`. It replaces a
                waiting item of the same stream and stamp.

        Raises:
            ValueError: if the stamp is negative.
        """
        ...

    def clear(self) -> None:
        """Forget all waiting items."""
        ...


def make_synchroniser(count: int, queue_size: int, callback: Callable[..., None]) -> Synchroniser:
    """A synchroniser of `count` streams.

    Args:
        queue_size: maximum number of items of each stream that wait.
        callback: called once for each stamp that all streams delivered, with one item of each, in
            the order of completion. It runs on the thread that delivered the last item, under a
            lock that keeps the order: it may add, but must not wait for a thread that adds.

    Raises:
        ValueError: if `count` or `queue_size` is less than 1.
    """
    has_library = library("message_filters") is not None
    kind = MessageFiltersSynchroniser if has_library else ExactSynchroniser
    return kind(count, queue_size, callback)


class ExactSynchroniser:
    """A synchroniser without message_filters.

    Attributes:
        dropped: number of items dropped because their queue was full.
    """

    def __init__(self, count: int, queue_size: int, callback: Callable[..., None]) -> None:
        _check_sizes(count, queue_size)
        self.dropped = 0
        self._queue_size, self._callback = queue_size, callback
        self._lock = threading.RLock()
        self._queues: list[OrderedDict[int, Any]] = [OrderedDict() for _ in range(count)]

    def add(self, index: int, item: Any) -> None:
        stamp = _key(item)
        with self._lock:
            self.dropped += _make_room(self._queues[index], stamp, self._queue_size)
            self._queues[index][stamp] = item
            if all(stamp in queue for queue in self._queues):
                self._callback(*[queue.pop(stamp) for queue in self._queues])

    def clear(self) -> None:
        with self._lock:
            for queue in self._queues:
                queue.clear()


class MessageFiltersSynchroniser:
    """A wrapped `message_filters.TimeSynchronizer`; items may also come by reference.

    Attributes:
        dropped: number of items dropped because their queue was full.

    Raises:
        ImportError: message_filters is not installed.
    """

    def __init__(self, count: int, queue_size: int, callback: Callable[..., None]) -> None:
        import message_filters  # not everywhere

        _check_sizes(count, queue_size)
        self.dropped = 0
        self._queue_size, self._callback = queue_size, callback
        self._lock = threading.RLock()
        self._inputs = [message_filters.SimpleFilter() for _ in range(count)]
        self._library = message_filters.TimeSynchronizer(self._inputs, queue_size)
        self._library.registerCallback(self._collect)
        self._complete: list[tuple[Stamped[Any], ...]] = []

    def add(self, index: int, item: Any) -> None:
        stamp = _key(item)
        envelope = Stamped(make_header(stamp, ""), item)  # the library wants a ROS stamp
        with self._lock:
            # The library never has to drop, so it never drops the wrong one.
            self.dropped += _make_room(self._library.queues[index], stamp, self._queue_size)
            self._inputs[index].signalMessage(envelope)
            while self._complete:  # at most one; by now the library has let go of its lock
                self._callback(*[envelope.value for envelope in self._complete.pop()])

    def clear(self) -> None:
        with self._lock:
            for queue in self._library.queues:
                queue.clear()

    def _collect(self, *envelopes: Stamped[Any]) -> None:
        self._complete.append(envelopes)


def _check_sizes(count: int, queue_size: int) -> None:
    if count < 1:
        raise ValueError(f"synchroniser: expected at least 1 stream, got {count}")
    if queue_size < 1:
        raise ValueError(f"synchroniser queue_size: expected at least 1, got {queue_size}")


def _key(item: Any) -> int:
    stamp = stamp_ns(item.header.stamp)
    if stamp < 0:
        raise ValueError(f"stamp: expected 0 ns or later, got {stamp} ns")
    return stamp


def _make_room(queue: MutableMapping[int, Any], stamp: int, size: int) -> int:
    """Remove the item that `stamp` replaces, else the first of a full queue; counts the latter."""
    if queue.pop(stamp, None) is not None or len(queue) < size:
        return 0
    del queue[next(iter(queue))]
    return 1
