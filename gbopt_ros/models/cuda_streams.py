"""Calls of several networks at the same time on one GPU.

Order of the work on the GPU:

1. Every call has its own CUDA stream. It first waits for all work on the caller's CUDA stream, so
   weights that were loaded there are complete.
2. Calls take arrays and give arrays in the memory of the host. No tensor passes from one CUDA
   stream to another, so none needs `record_stream`. Weights are only read.
3. A call waits until its CUDA stream is empty, also after an exception. So after `run` no work is
   left: networks can be freed or replaced, and the caller's CUDA stream need not wait.

Every call has a thread, because Mask R-CNN waits for the GPU in the middle of its work, and DIS
flow runs on the CPU. Inference mode, autocast and the current CUDA stream belong to a thread:
networks enter inference mode and autocast, `CudaStreams` the CUDA stream.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
T = TypeVar("T")


class CudaStreams:
    """Runs three calls at the same time on a GPU, one after the other on a CPU."""

    def __init__(self, device: torch.device) -> None:
        gpu = device.type == "cuda"
        self._streams = [torch.cuda.Stream(device) for _ in range(3)] if gpu else []

    def run(
        self, first: Callable[[], A], second: Callable[[], B], third: Callable[[], C]
    ) -> tuple[A, B, C]:
        """The results of the calls.

        Raises:
            Exception: the first exception that a call raised, after all calls have ended.
        """
        if not self._streams:
            return first(), second(), third()
        # Asked for here: in a new thread it would be the default CUDA stream.
        before = torch.cuda.current_stream(self._streams[0].device)
        with ThreadPoolExecutor(3, "stream") as threads:
            a = threads.submit(_on_stream, first, self._streams[0], before)
            b = threads.submit(_on_stream, second, self._streams[1], before)
            c = threads.submit(_on_stream, third, self._streams[2], before)
        return a.result(), b.result(), c.result()


def _on_stream(call: Callable[[], T], stream: torch.cuda.Stream, before: torch.cuda.Stream) -> T:
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        try:
            return call()
        finally:
            stream.synchronize()
