"""Exact synchronisation: our own class and message_filters pass the same tests."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")

from builtin_interfaces.msg import Time

from gbopt_ros.nodes.synchroniser import (
    ExactSynchroniser,
    MessageFiltersSynchroniser,
    make_synchroniser,
)

HAS_MESSAGE_FILTERS = importlib.util.find_spec("message_filters") is not None
KINDS = [
    ExactSynchroniser,
    pytest.param(
        MessageFiltersSynchroniser,
        marks=pytest.mark.skipif(not HAS_MESSAGE_FILTERS, reason="message_filters is not there"),
    ),
]
Make = Callable[[int, int, Callable[..., None]], Any]


def item(stamp: int, value: object = None) -> SimpleNamespace:
    header = SimpleNamespace(stamp=Time(sec=stamp // 10, nanosec=stamp % 10))
    return SimpleNamespace(header=header, stamp=stamp, value=value)


class Joined:
    """A synchroniser and what it gave so far."""

    def __init__(self, make: Make, count: int = 3, queue_size: int = 100) -> None:
        self.results: list[tuple[Any, ...]] = []
        self.sync = make(count, queue_size, lambda *items: self.results.append(items))

    def add(self, stream: int, stamp: int, value: object = None) -> None:
        self.sync.add(stream, item(stamp, value))

    @property
    def stamps(self) -> list[int]:
        return [items[0].stamp for items in self.results]


def test_message_filters_is_preferred() -> None:
    expected = MessageFiltersSynchroniser if HAS_MESSAGE_FILTERS else ExactSynchroniser
    assert type(make_synchroniser(2, 10, print)) is expected


@pytest.mark.parametrize("make", KINDS)
class TestBoth:
    def test_a_set_comes_once_when_the_last_stream_delivers(self, make: Make) -> None:
        joined = Joined(make)
        joined.add(2, 7, "c")
        joined.add(0, 7, "a")
        assert joined.results == []
        joined.add(1, 7, "b")
        assert [i.value for i in joined.results[0]] == ["a", "b", "c"]
        joined.add(1, 7, "again")
        assert len(joined.results) == 1

    def test_nanoseconds_count(self, make: Make) -> None:
        joined = Joined(make, count=2)
        joined.add(0, 11)
        joined.add(1, 12)
        joined.add(1, 10)
        assert joined.results == []

    def test_a_repeated_stamp_replaces(self, make: Make) -> None:
        joined = Joined(make, count=2)
        joined.add(0, 1, "old")
        joined.add(0, 1, "new")
        joined.add(1, 1)
        assert [items[0].value for items in joined.results] == ["new"]

    def test_the_oldest_is_dropped_where_a_queue_is_full(self, make: Make) -> None:
        joined = Joined(make, count=2, queue_size=2)
        for stamp in (1, 2, 3):
            joined.add(0, stamp)
        for stamp in (1, 2, 3):
            joined.add(1, stamp)
        assert joined.stamps == [2, 3]

    def test_stamps_may_jump_back(self, make: Make) -> None:
        joined = Joined(make, count=2)
        for stamp in (5, 6, 1, 2):
            joined.add(0, stamp)
            joined.add(1, stamp)
        assert joined.stamps == [5, 6, 1, 2]

    def test_threads(self, make: Make) -> None:
        joined = Joined(make)
        threads = [
            threading.Thread(target=lambda s=s: [joined.add(s, i) for i in range(300)])
            for s in range(3)
        ]
        joined.sync = make(3, 300, lambda *items: joined.results.append(items))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(joined.stamps) == list(range(300))
        assert all(len({i.stamp for i in items}) == 1 for items in joined.results)

    @given(data=st.data())
    def test_any_interleaving_gives_what_all_streams_have(
        self, make: Make, data: st.DataObject
    ) -> None:
        streams = [sorted(data.draw(st.sets(st.integers(0, 12)))) for _ in range(3)]
        order = [s for s, stamps in enumerate(streams) for _ in stamps]
        joined = Joined(make)
        rest = [iter(stamps) for stamps in streams]
        for stream in data.draw(st.permutations(order)):
            joined.add(stream, next(rest[stream]))
        assert joined.stamps == sorted(set.intersection(*map(set, streams)))
