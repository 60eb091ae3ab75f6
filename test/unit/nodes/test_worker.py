"""The thread with a bounded queue."""

from __future__ import annotations

import threading
import time

from gbopt_ros.nodes.worker import Worker


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
