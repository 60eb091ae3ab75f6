"""The device that networks run on and the precision that it is fast in."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from gbopt_ros.structures import GboptError

M = TypeVar("M", bound=nn.Module)


def resolve_device(name: str) -> torch.device:
    """`auto` is the first CUDA GPU or, where there is none, the CPU.

    Raises:
        GboptError: the name is no device, or names a GPU that is not there.
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


def to_device(network: M, device: torch.device) -> M:
    """The network on the device, in the layout that its convolutions are fast in there.

    Tensor cores take channels last. On a CPU it makes little difference: the bundled proposal
    network gains a tenth, the background network loses as much.
    """
    network = network.to(device)
    return network.to(memory_format=torch.channels_last) if device.type == "cuda" else network


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is done in hardware; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def frames_a_pass(batch_size: int, device: torch.device) -> int:
    """The batch size on a GPU; 1 on a CPU.

    A CPU is no faster with batches, and there a frame's result must not depend, by rounding, on
    what else was in its batch: live, frames come one by one.
    """
    return batch_size if device.type == "cuda" else 1


def has_idle_core(device: torch.device) -> bool:
    """Whether a thread can run beside networks on the device and take nothing from them.

    On a CPU the threads of a network wait for each other at every layer: one that has to share its
    core slows all of them down.
    """
    if device.type == "cuda":
        return True
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return torch.get_num_threads() < (cores or 1)
