"""Workers do tasks, and others take the place of those that end."""

from __future__ import annotations

from functools import partial

import pytest
from support.doubler import Doubler

from gbopt_ros.bulk.workers import Event, ProcessWorkers
from gbopt_ros.structures import GboptError


def test_process_workers_replace_one_that_was_killed() -> None:
    workers = ProcessWorkers(2, Doubler)
    try:
        ready: set[int] = set()
        while ready != {0, 1}:
            ready |= {event.worker for event in workers.wait()}
        workers.start(0, 4)
        assert workers.wait() == [Event(0, 8)]
        workers.start(1, -1)
        (event,) = workers.wait()
        assert event.worker == 1
        assert event.lost.startswith("its process was ended by SIGKILL")
        assert workers.wait() == [Event(1)]
        workers.start(1, 5)
        assert workers.wait() == [Event(1, 10)]
    finally:
        workers.close()


def test_process_workers_that_cannot_start() -> None:
    workers = ProcessWorkers(1, partial(Doubler, dies=True))
    try:
        with pytest.raises(GboptError, match="no worker can be started: its process was ended by"):
            while True:
                assert workers.wait()[0].lost
    finally:
        workers.close()
