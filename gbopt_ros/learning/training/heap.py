"""Memory that is freed stays with the process while it trains."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
_LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes, which glibc allows, and to which it grows by itself


@contextmanager
def kept_heap() -> Iterator[None]:
    """Within it glibc does not give freed memory back to the kernel.

    A training step on a CPU frees hundreds of megabytes, which the kernel would fill with zeros,
    page by page, in the next one: up to a tenth of its time. At the end all of it is given back,
    for a learner that waits for its next round. Other allocators are left as they are.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
        library.malloc_trim(0)
