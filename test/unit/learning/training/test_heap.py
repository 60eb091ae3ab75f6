"""Freed memory while a network is trained, and afterwards."""

from __future__ import annotations

import ctypes
import gc
import resource
from pathlib import Path

import pytest
import torch

from gbopt_ros.learning.training.heap import kept_heap

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs the allocator of glibc"
)
BLOCKS, BLOCK = 16, 16 << 20  # bytes; each block is below the threshold of mmap


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def allocate_and_free() -> None:
    blocks = [torch.ones(BLOCK // 4) for _ in range(BLOCKS)]
    del blocks


@pytest.fixture
def before() -> int:
    gc.collect()
    with kept_heap():
        pass  # gives back what earlier tests freed, but for pieces of pages
    return resident_bytes()


def test_freed_memory_stays_until_the_end(before: int) -> None:
    with kept_heap():
        allocate_and_free()
        inside = resident_bytes()
    assert inside - before > 0.5 * BLOCKS * BLOCK
    assert resident_bytes() - before < 0.1 * BLOCKS * BLOCK


def test_freed_memory_is_given_back_after_an_error(before: int) -> None:
    with pytest.raises(RuntimeError, match="stop"), kept_heap():
        allocate_and_free()
        raise RuntimeError("stop")
    assert resident_bytes() - before < 0.1 * BLOCKS * BLOCK
