"""A thread with a bounded queue, so that no callback of the executor ever waits."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Handles items one after the other on a thread of its own; a full queue drops the oldest.

    Args:
        name: name of the thread.
        handle: called with one item at a time.
        failed: called with an exception of `handle`; the next item is handled all the same.
        capacity: maximum number of items that wait.
        ready: an item is taken only while this is true; call `poke` after it has changed.
        on_drop: called with every item that is dropped.
        is_kept: true for items that are never dropped and do not count towards `capacity`.

    Attributes:
        dropped: number of items dropped so far.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[T], None],
        failed: Callable[[Exception], None],
        *,
        capacity: int,
        ready: Callable[[], bool] = lambda: True,
        on_drop: Callable[[T], None] = lambda item: None,
        is_kept: Callable[[T], bool] = lambda item: False,
    ) -> None:
        self.dropped = 0
        self._is_kept = is_kept
        self._handle, self._failed, self._ready, self._on_drop = handle, failed, ready, on_drop
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._closing, self._deadline = False, math.inf
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Number of items that wait."""
        return len(self._items)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is being handled."""
        with self._changed:
            return not self._items and not self._busy

    def put(self, item: T) -> None:
        """Queue an item; a closed worker ignores it."""
        dropped = []
        with self._changed:
            if self._closing:
                return
            self._items.append(item)
            bounded = [i for i, waiting in enumerate(self._items) if not self._is_kept(waiting)]
            if len(bounded) > self._capacity:
                dropped.append(self._items[bounded[0]])
                del self._items[bounded[0]]
            self.dropped += len(dropped)
            self._changed.notify()
        for oldest in dropped:
            self._on_drop(oldest)

    def poke(self) -> None:
        """Look at `ready` again."""
        with self._changed:
            self._changed.notify()

    def close(self, patience_s: float, drain: bool = False) -> bool:
        """Finish the current item, handle (`drain`) or forget the waiting ones, end the thread.

        Args:
            patience_s: maximum time to wait for the thread, seconds. If it is called again, the
                time runs since the first call.

        Returns:
            Whether it ended by then.
        """
        with self._changed:
            if not self._closing:
                self._deadline = time.monotonic() + patience_s
            self._closing = True
            if not drain:
                self._items.clear()
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(max(0.0, self._deadline - time.monotonic()))
            return not self._thread.is_alive()
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.wait_for(lambda: self._closing or bool(self._items and self._ready()))
                if not self._items:
                    return
                item = self._items.popleft()
                self._busy = True
            try:
                self._handle(item)
            except Exception as error:
                self._failed(error)
            del item  # else a frame stays in memory while the thread waits for the next
