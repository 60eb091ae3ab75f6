"""The device that networks run on: precision, batch size, and copies to it and from it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gbopt_ros.structures import GboptError, Image

N = TypeVar("N")


def resolve_device(name: str) -> torch.device:
    """The device of a name; `auto` is the first CUDA GPU or, if there is none, the CPU.

    Raises:
        GboptError: the name is no device, or there is no such GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    expected = f"device {name!r}: expected auto, cpu, cuda or cuda:N"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise GboptError(expected) from error
    if device.type not in ("cpu", "cuda"):
        raise GboptError(expected)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise GboptError(
            f"device {name!r}: torch sees {torch.cuda.device_count()} CUDA GPUs; "
            "use device=cpu, or install the NVIDIA driver (`gbopt doctor` shows what was found)"
        )
    return device


def to_device(network: N, device: torch.device) -> N:
    """The network on the device, in the memory layout for fast convolutions.

    Tensor cores take channels last, and so do the transposed convolutions of a CPU.
    """
    moved: Any = network
    return moved.to(device, memory_format=torch.channels_last)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def half_precision(wanted: bool, device: torch.device) -> torch.autocast:
    """The context in which networks run in float16, if `wanted` and the device is a GPU.

    There is no cache of cast weights. It would be shared by all threads, and weights that were cast
    on one CUDA stream must not be read on another without waiting.
    """
    enabled = wanted and device.type == "cuda"
    return torch.autocast(device.type, torch.float16, enabled, cache_enabled=False)


def upload(images: Sequence[Image], device: torch.device) -> Tensor:
    """(B, 3, H, W) uint8 on the device, from B images (H, W, 3) uint8 of one size.

    A GPU copies from page-locked memory in the order of the current CUDA stream, and the call does
    not wait for it. torch reuses the memory only after the copy.
    """
    shape = (len(images), *images[0].shape)
    batch = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.stack(images, out=batch.numpy())
    return batch.to(device, non_blocking=True).permute(0, 3, 1, 2)


def download(tensor: Tensor) -> NDArray[Any]:
    """The values of a tensor, in its shape and dtype; without a copy if it is on the CPU.

    It waits only for earlier work on the current CUDA stream: copies through page-locked memory run
    beside the work of other streams. The result is in ordinary memory, since it may be kept long.
    """
    if tensor.device.type == "cpu":
        return tensor.numpy()
    locked = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    locked.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).record_event().synchronize()
    return locked.numpy().copy()


def frames_a_pass(batch_size: int, device: torch.device) -> int:
    """The batch size on a GPU; 1 on a CPU.

    A CPU is no faster with batches. With one frame a pass, its rounding does not depend on other
    frames, so live frames, which come one by one, give the same masks as a recording.
    """
    return batch_size if device.type == "cuda" else 1


def has_idle_core(device: torch.device) -> bool:
    """Whether another thread can run without slowing down networks on the device.

    On a CPU the threads of a network wait for each other at every layer. If one of them has to
    share its core, all are slower.
    """
    if device.type == "cuda":
        return True
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return torch.get_num_threads() < (cores or 1)
