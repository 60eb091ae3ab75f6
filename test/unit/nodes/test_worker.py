"""The thread with a bounded queue."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

import pytest

from gbopt_ros.nodes.worker import Worker


class Busy:
    """A worker that is handling item 0 until `finish`, and what it handled and dropped."""

    def __init__(self, capacity: int, is_kept: Callable[[int], bool] = lambda item: False) -> None:
        self.handled: list[int] = []
        self.dropped: list[int] = []
        self._started, self._release = threading.Event(), threading.Event()
        self.worker: Worker[int] = Worker(
            "busy", self._handle, lambda error: None, capacity=capacity,
            on_drop=self.dropped.append, is_kept=is_kept,
        )  # fmt: skip
        self.worker.put(0)
        assert self._started.wait(10)

    def _handle(self, item: int) -> None:
        self._started.set()
        assert self._release.wait(10)
        self.handled.append(item)

    def finish(self) -> None:
        self._release.set()
        assert self.worker.close(10.0, drain=True)


def test_put_to_a_full_worker_drops_the_oldest() -> None:
    busy = Busy(capacity=2)
    for item in (1, 2, 3, 4):
        busy.worker.put(item)
    assert (busy.dropped, busy.worker.dropped, len(busy.worker)) == ([1, 2], 2, 2)
    assert not busy.worker.idle
    busy.finish()
    assert busy.handled == [0, 3, 4]
    assert busy.worker.idle


def test_put_drops_no_item_that_is_kept() -> None:
    busy = Busy(capacity=1, is_kept=lambda item: item < 0)
    for item in (-1, 1, 2, -2, -3):
        busy.worker.put(item)
    assert (busy.dropped, busy.worker.dropped) == ([1], 1)
    busy.finish()
    assert busy.handled == [0, -1, 2, -2, -3]


def test_worker_handles_the_next_item_after_an_exception() -> None:
    errors: list[Exception] = []
    quotients: list[float] = []
    worker: Worker[int] = Worker(
        "divides", lambda item: quotients.append(1 / item), errors.append, capacity=2
    )
    worker.put(0)
    worker.put(2)
    assert worker.close(10.0, drain=True)
    assert quotients == [0.5]
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_worker_takes_an_item_once_it_is_ready() -> None:
    handled, is_ready = threading.Event(), threading.Event()
    worker: Worker[int] = Worker(
        "waits", lambda item: handled.set(), pytest.fail, capacity=1, ready=is_ready.is_set
    )
    worker.put(1)
    assert not handled.wait(0.1) and len(worker) == 1
    is_ready.set()
    worker.poke()
    assert handled.wait(10)
    assert worker.close(10.0)


def test_worker_holds_no_item_while_it_waits_for_the_next() -> None:
    class Frame:
        pass

    gone = threading.Event()
    worker: Worker[Frame] = Worker("frames", lambda frame: None, pytest.fail, capacity=1)
    frame = Frame()
    weakref.finalize(frame, gone.set)
    worker.put(frame)
    del frame
    assert gone.wait(10)
    assert worker.close(10.0)


def test_close_does_not_wait_for_ever_for_an_item() -> None:
    started, release = threading.Event(), threading.Event()

    def handle(item: int) -> None:
        started.set()
        release.wait(10)

    worker: Worker[int] = Worker("stuck", handle, lambda error: None, capacity=1)
    worker.put(1)
    assert started.wait(10)
    worker.put(2)
    assert not worker.close(0.05)
    assert len(worker) == 0  # what waited is forgotten
    start = time.monotonic()
    assert not worker.close(10.0)  # it was waited for
    assert time.monotonic() - start < 5.0
    release.set()


def test_close_tells_that_the_thread_ended() -> None:
    handled: list[int] = []
    worker: Worker[int] = Worker("quick", handled.append, lambda error: None, capacity=2)
    worker.put(1)
    worker.put(2)
    assert worker.close(10.0, drain=True)
    assert worker.close(10.0) and handled == [1, 2]
