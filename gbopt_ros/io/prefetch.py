"""Items made ahead of their use, in a thread."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_END = object()


def prefetch(items: Generator[T, None, None]) -> Iterator[T]:
    """The same items in the same order, each made in a thread while the one before it is used.

    At most one item is ready ahead. What making an item raises comes in its place. The generator
    runs in one thread from its start to its end, also where it is not used to its end: readers of
    SQLite files allow no other.
    """
    with ThreadPoolExecutor(1, "prefetch") as worker:
        try:
            coming = worker.submit(next, items, _END)
            while (item := coming.result()) is not _END:
                coming = worker.submit(next, items, _END)
                yield item  # type: ignore[misc]
        finally:
            worker.submit(items.close).result()
