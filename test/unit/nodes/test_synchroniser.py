"""Exact synchronisation: our own class and message_filters pass the same tests."""

from __future__ import annotations

import importlib.util
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image

from gbopt_ros.nodes.synchroniser import (
    ExactSynchroniser,
    MessageFiltersSynchroniser,
    make_synchroniser,
)

needs_message_filters = pytest.mark.skipif(
    importlib.util.find_spec("message_filters") is None,
    reason="message_filters comes with an installed ROS",
)
both = pytest.mark.parametrize(
    "make",
    [ExactSynchroniser, pytest.param(MessageFiltersSynchroniser, marks=needs_message_filters)],
)
Make = Callable[[int, int, Callable[..., None]], Any]
_LARGE = 1000


@dataclass(eq=False)
class Item:
    """No ROS message, and nor is its stamp."""

    stream: int
    stamp: int  # nanoseconds
    version: int = 0

    @property
    def header(self) -> SimpleNamespace:
        sec, nanosec = divmod(self.stamp, 1_000_000_000)
        return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec))


class Joined:
    """A synchroniser and what it called back with: (stamp, version of each stream)."""

    def __init__(self, make: Make, count: int = 3, queue_size: int = _LARGE) -> None:
        self.sets: list[tuple[int, ...]] = []
        self._count = count
        self.sync = make(count, queue_size, self._callback)

    def add(self, stream: int, *stamps: int, version: int = 0) -> None:
        for stamp in stamps:
            self.sync.add(stream, Item(stream, stamp, version))

    @property
    def stamps(self) -> list[int]:
        return [stamp for stamp, *_ in self.sets]

    def _callback(self, *items: Item) -> None:
        assert [item.stream for item in items] == list(range(self._count))
        assert len({item.stamp for item in items}) == 1
        self.sets.append((items[0].stamp, *(item.version for item in items)))


class Oracle:
    """The same with one list of (stamp, version) a stream, in the order of arrival."""

    def __init__(self, count: int, queue_size: int) -> None:
        self.sets: list[tuple[int, ...]] = []
        self.dropped = 0
        self._queue_size = queue_size
        self._lists: list[list[tuple[int, int]]] = [[] for _ in range(count)]

    def add(self, stream: int, stamp: int, version: int) -> None:
        kept = [waits for waits in self._lists[stream] if waits[0] != stamp]
        if len(kept) == self._queue_size:
            kept, self.dropped = kept[1:], self.dropped + 1
        self._lists[stream] = [*kept, (stamp, version)]
        found = [[v for s, v in waiting if s == stamp] for waiting in self._lists]
        if all(found):
            self.sets.append((stamp, *(versions[0] for versions in found)))
            self._lists = [[w for w in waiting if w[0] != stamp] for waiting in self._lists]

    def clear(self) -> None:
        self._lists = [[] for _ in self._lists]


# ------------------------------------------------------------------------------- one thread


@both
def test_add_calls_back_once_with_the_last_item_of_a_set(make: Make) -> None:
    calls: list[tuple[Item, ...]] = []
    sync = make(3, 10, lambda *items: calls.append(items))
    items = [Item(stream, 1_700_000_000_123_456_789) for stream in range(3)]
    sync.add(2, items[2])
    sync.add(0, items[0])
    assert calls == []
    sync.add(1, items[1])
    assert calls == [tuple(items)]  # the very objects, in the order of the streams
    sync.add(1, Item(1, items[1].stamp))
    assert len(calls) == 1


@both
def test_synchroniser_joins_triples_in_order(make: Make) -> None:
    joined = Joined(make)
    for stamp in (10, 20, 30):
        for stream in range(3):
            joined.add(stream, stamp)
    assert joined.sets == [(10, 0, 0, 0), (20, 0, 0, 0), (30, 0, 0, 0)]


@both
def test_synchroniser_joins_ros_messages(make: Make) -> None:
    calls: list[tuple[Any, ...]] = []
    sync = make(2, 10, lambda *items: calls.append(items))
    messages = [Image(height=height) for height in (1, 2)]
    for index, message in enumerate(messages):
        message.header.stamp = Time(sec=3, nanosec=4)
        sync.add(index, message)
    assert len(calls) == 1
    assert all(given is message for given, message in zip(calls[0], messages, strict=True))


@both
def test_synchroniser_of_one_stream_calls_back_at_once(make: Make) -> None:
    joined = Joined(make, count=1)
    joined.add(0, 3, 1, 1)
    assert joined.stamps == [3, 1, 1]


@both
def test_synchroniser_tells_one_nanosecond_apart(make: Make) -> None:
    joined = Joined(make, count=2)
    joined.add(0, 1_700_000_000_000_000_000)
    joined.add(1, 1_699_999_999_999_999_999, 1_700_000_000_000_000_001)
    assert joined.sets == []


@both
def test_synchroniser_keeps_an_incomplete_set_beside_newer_ones(make: Make) -> None:
    joined = Joined(make, count=2)
    joined.add(0, 1, 2, 3)
    joined.add(1, 3, 1, 2)
    assert joined.stamps == [3, 1, 2]  # as they became complete, not as they are stamped


@both
def test_add_of_a_repeated_stamp_replaces_the_waiting_item(make: Make) -> None:
    joined = Joined(make, count=2, queue_size=2)
    joined.add(0, 1, version=1)
    joined.add(0, 2, version=1)
    joined.add(0, 1, version=2)  # now 2 is the one that came first
    assert joined.sync.dropped == 0
    joined.add(0, 3, version=1)
    joined.add(1, 1, 2, 3)
    assert joined.sets == [(1, 2, 0), (3, 1, 0)]
    assert joined.sync.dropped == 1


@both
def test_synchroniser_joins_stamps_that_come_again(make: Make) -> None:
    joined = Joined(make, count=2)
    for version in (1, 2):
        joined.add(0, 5, 6, version=version)
        joined.add(1, 5, 6, version=version)
    assert joined.sets == [(5, 1, 1), (6, 1, 1), (5, 2, 2), (6, 2, 2)]


@both
def test_synchroniser_joins_after_stamps_jump_back(make: Make) -> None:
    joined = Joined(make, count=2, queue_size=4)
    joined.add(0, 100, 101, 102, 103)  # and their partners never come
    for stamp in range(1, 7):
        joined.add(0, stamp)
        joined.add(1, stamp)
    assert joined.stamps == [1, 2, 3, 4, 5, 6]
    assert joined.sync.dropped == 1  # each set that is complete leaves room for the next
    joined.add(1, 100, 101, 102, 103)
    assert joined.stamps[6:] == [101, 102, 103]


@both
def test_synchroniser_bounds_its_queues(make: Make) -> None:
    alive: weakref.WeakSet[Item] = weakref.WeakSet()
    joined = Joined(make, queue_size=5)

    def add(stream: int, stamp: int) -> None:
        item = Item(stream, stamp)
        alive.add(item)
        joined.sync.add(stream, item)

    for stamp in range(200):
        add(0, stamp)
        add(1, stamp)
        assert len(alive) <= 10
    assert joined.sync.dropped == 2 * 195
    for stamp in range(194, 198):
        add(2, stamp)
    assert joined.stamps == [195, 196, 197]
    assert sorted((item.stamp, item.stream) for item in alive) == [
        (194, 2), (198, 0), (198, 1), (199, 0), (199, 1),
    ]  # fmt: skip
    joined.sync.clear()
    assert len(alive) == 0


@both
def test_clear_forgets_waiting_items(make: Make) -> None:
    joined = Joined(make, count=2)
    joined.add(0, 1, 2)
    joined.sync.clear()
    joined.add(1, 1, 2, 3)
    assert joined.sets == []
    joined.add(0, 3)
    assert joined.stamps == [3]
    assert joined.sync.dropped == 0


# --------------------------------------------------------------------- any order of arrival


@st.composite
def interleavings(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    """The stamps of each stream, in order and with gaps, and whose turn it is."""
    streams = [sorted(draw(st.sets(st.integers(0, 12)))) for _ in range(3)]
    turns = [stream for stream, stamps in enumerate(streams) for _ in stamps]
    return streams, draw(st.permutations(turns))


@both
@given(case=interleavings())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_synchroniser_joins_what_all_streams_have_in_any_interleaving(
    make: Make, case: tuple[list[list[int]], list[int]]
) -> None:
    streams, turns = case
    joined = Joined(make)
    rest = [iter(stamps) for stamps in streams]
    for stream in turns:
        joined.add(stream, next(rest[stream]))
    assert joined.stamps == sorted(set(streams[0]) & set(streams[1]) & set(streams[2]))
    assert joined.sync.dropped == 0


@both
@given(
    queue_size=st.integers(1, 4),
    steps=st.lists(st.none() | st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=40),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_synchroniser_does_as_its_oracle(
    make: Make, queue_size: int, steps: list[tuple[int, int] | None]
) -> None:
    joined, oracle = Joined(make, queue_size=queue_size), Oracle(3, queue_size)
    for number, step in enumerate(steps):
        if step is None:
            joined.sync.clear()
            oracle.clear()
        else:
            joined.add(*step, version=number)
            oracle.add(*step, version=number)
        assert joined.sets == oracle.sets
        assert joined.sync.dropped == oracle.dropped


# ---------------------------------------------------------------------------- many threads


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def run_together(jobs: list[Callable[[], None]]) -> None:
    """Run them on a thread each, started at once; a thread that hangs fails the test."""
    start = threading.Barrier(len(jobs))
    failures: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            start.wait()
            job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    assert not failures


@both
def test_synchroniser_with_a_thread_for_each_stream(make: Make, hasty_threads: None) -> None:
    rng = random.Random(0)
    streams = [[stamp for stamp in range(300) if rng.random() < 0.9] for _ in range(3)]
    joined = Joined(make)
    run_together([lambda s=s, t=t: joined.add(s, *t) for s, t in enumerate(streams)])
    assert joined.stamps == sorted(set(streams[0]) & set(streams[1]) & set(streams[2]))


@both
def test_synchroniser_with_many_threads_for_each_stream(make: Make, hasty_threads: None) -> None:
    joined = Joined(make)
    shuffled = [random.Random(seed).sample(range(300), 300) for seed in range(3)]
    run_together(
        [
            lambda stream=stream, part=part: joined.add(stream, *shuffled[stream][part::3])
            for stream in range(3)
            for part in range(3)
        ]
    )
    assert sorted(joined.stamps) == list(range(300))


@both
def test_synchroniser_callbacks_never_overlap(make: Make) -> None:
    first_is_inside, second_is_inside = threading.Event(), threading.Event()
    events: list[str] = []

    def callback(item: Item) -> None:
        if item.stamp == 2:
            second_is_inside.set()
            events.append("second")
            return
        first_is_inside.set()
        # Time enough for the other thread to come in, were it let in.
        events.append("overlap" if second_is_inside.wait(timeout=0.1) else "first")

    sync = make(1, 10, callback)

    def add_second() -> None:
        assert first_is_inside.wait(timeout=10)
        sync.add(0, Item(0, 2))

    run_together([lambda: sync.add(0, Item(0, 1)), add_second])
    assert events == ["first", "second"]


# ------------------------------------------------------------- callbacks, errors and choice


@both
def test_synchroniser_callback_may_add(make: Make) -> None:
    stamps: list[int] = []

    def callback(first: Item, second: Item) -> None:
        stamps.append(first.stamp)
        if first.stamp < 3:
            sync.add(0, Item(0, first.stamp + 1))
            sync.add(1, Item(1, first.stamp + 1))

    sync = make(2, 10, callback)
    run_together([lambda: sync.add(0, Item(0, 1)), lambda: sync.add(1, Item(1, 1))])
    assert stamps == [1, 2, 3]


@both
def test_add_raises_what_the_callback_raises(make: Make) -> None:
    stamps: list[int] = []

    def callback(item: Item) -> None:
        stamps.append(item.stamp)
        if item.stamp == 1:
            raise RuntimeError("the callback failed")

    sync = make(1, 10, callback)
    with pytest.raises(RuntimeError, match="the callback failed"):
        sync.add(0, Item(0, 1))
    run_together([lambda: sync.add(0, Item(0, 2))])  # another thread finds it unlocked
    assert stamps == [1, 2]


@both
def test_add_refuses_a_negative_stamp_and_goes_on(make: Make) -> None:
    joined = Joined(make, count=1)
    with pytest.raises(ValueError, match="expected 0 ns or later, got -1 ns"):
        joined.add(0, -1)
    run_together([lambda: joined.add(0, 1)])
    assert joined.stamps == [1]


@both
@pytest.mark.parametrize(
    ("count", "queue_size", "message"),
    [(0, 1, "at least 1 stream, got 0"), (1, 0, "queue_size: expected at least 1, got 0")],
)
def test_synchroniser_checks_its_sizes(
    make: Make, count: int, queue_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(count, queue_size, print)


@needs_message_filters
def test_make_synchroniser_prefers_message_filters() -> None:
    assert type(make_synchroniser(2, 10, print)) is MessageFiltersSynchroniser


def test_make_synchroniser_does_without_message_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "message_filters", None)  # so that its import fails
    assert type(make_synchroniser(2, 10, print)) is ExactSynchroniser


@needs_message_filters
def test_message_filters_synchroniser_is_needed() -> None:
    """What the module says of the library; where this fails, the wrapper may be simpler."""
    import message_filters

    def message(stamp: object) -> SimpleNamespace:
        return SimpleNamespace(header=SimpleNamespace(stamp=stamp))

    inputs = [message_filters.SimpleFilter(), message_filters.SimpleFilter()]
    library = message_filters.TimeSynchronizer(inputs, 2)
    for nanosec in (8, 9, 1):
        inputs[0].signalMessage(message(Time(nanosec=nanosec)))
    assert [*library.queues[0]] == [8, 9], "it drops the smallest stamp, not what came first"
    with pytest.raises(TypeError):
        inputs[0].signalMessage(message(SimpleNamespace(sec=0, nanosec=1)))
    assert library.lock.locked(), "an exception leaves it locked"
