"""A generator that runs one item ahead, in a thread."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

T = TypeVar("T")
_END = object()


def prefetch(items: Generator[T, None, None], stopping: Event | None = None) -> Iterator[T]:
    """The same items in the same order; a thread makes the next one while an item is used.

    An error of the generator is raised in place of its item. One thread runs the generator from
    start to close, because SQLite readers demand it.

    Args:
        stopping: shared by generators that take the items of each other: when the last one is
            closed, or interrupted, none begins another item.
    """
    stopping = stopping or Event()
    with ThreadPoolExecutor(1, "prefetch") as worker:
        try:
            coming = worker.submit(next, items, _END)
            while (item := coming.result()) is not _END and not stopping.is_set():
                coming = worker.submit(next, items, _END)
                yield item  # type: ignore[misc]
        except (GeneratorExit, KeyboardInterrupt):  # an error comes after the items before it
            stopping.set()
            raise
        finally:
            worker.submit(items.close).result()
