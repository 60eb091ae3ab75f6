"""A generator that runs ahead ends without beginning another item."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Timer

import pytest

from gbopt_ros.io.prefetch import prefetch


def test_prefetch_that_is_closed_begins_no_other_item() -> None:
    """Item 2 of the first generator is in work then: the second one waits for it."""
    begun: list[int] = []
    in_work, may_end, stopping = Event(), Event(), Event()

    def slow() -> Iterator[int]:
        for i in range(5):
            begun.append(i)
            if i == 2:
                in_work.set()
                may_end.wait(10)
            yield i

    used: list[int] = []

    def using(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            used.append(item)
            yield item

    items = prefetch(using(prefetch(slow(), stopping)), stopping)
    assert [next(items), next(items)] == [0, 1]
    assert in_work.wait(10)
    timer = Timer(0.2, may_end.set)
    timer.start()
    items.close()
    timer.join()
    assert begun == [0, 1, 2]
    assert used == [0, 1]


def test_prefetch_gives_all_items_before_an_error() -> None:
    def broken() -> Iterator[int]:
        yield from range(3)
        raise OSError("broken")

    stopping, found = Event(), []
    with pytest.raises(OSError, match="broken"):
        for item in prefetch((i for i in prefetch(broken(), stopping)), stopping):
            found.append(item)
    assert found == [0, 1, 2]
