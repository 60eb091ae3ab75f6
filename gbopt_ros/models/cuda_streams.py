"""Networks that do not need each other, side by side on one GPU.

The order of all work on the GPU, in full:

1. What a call enqueues goes to its own CUDA stream, which first waits for all that the caller's
   stream was given before: weights that were loaded there are complete.
2. A call takes arrays and gives arrays, in the memory of the host. No tensor passes from one stream
   to another, so none needs `record_stream`; weights are only read.
3. When a call ends, also by an exception, its stream has run empty. After `run` nothing is under
   way: networks can be freed or exchanged, and the caller's stream has nothing to wait for.

Each call has a thread, since Mask R-CNN waits for the GPU in the middle of its work, and what it
does on the CPU, as DIS flow does, then runs beside the others. Inference mode, autocast and the
current stream belong to a thread: the calls enter them themselves, or here.
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
    """Runs three calls at once on a GPU, one after the other on a CPU."""

    def __init__(self, device: torch.device) -> None:
        gpu = device.type == "cuda"
        self._streams = [torch.cuda.Stream(device) for _ in range(3)] if gpu else []

    def run(
        self, first: Callable[[], A], second: Callable[[], B], third: Callable[[], C]
    ) -> tuple[A, B, C]:
        """What the calls return.

        Raises what a call raises, the first of them where several do; all have ended then.
        """
        if not self._streams:
            return first(), second(), third()
        # Asked here: in a new thread it would be the default stream.
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
