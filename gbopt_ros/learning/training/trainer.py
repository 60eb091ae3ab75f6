"""The training loop and the optimiser that pretraining and fine-tuning share."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from gbopt_ros.config import LearningConfig, PretrainConfig
from gbopt_ros.learning.training.checkpoint import Checkpoint
from gbopt_ros.learning.training.heap import kept_heap
from gbopt_ros.models.device import has_fast_bfloat16
from gbopt_ros.structures import GboptError

P = TypeVar("P")  # what passes through the network at once: a batch, or a part of one

OnStep = Callable[[int, float], None]
"""Takes the number of steps done and the loss of the last one."""


@dataclass
class TrainingLog:
    """Losses by name, one value a step; `total` is their sum."""

    losses: dict[str, list[float]] = field(default_factory=dict)

    def append(self, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            self.losses.setdefault(name, []).append(value)

    @property
    def total(self) -> list[float]:
        return self.losses.get("total", [])


def build_optimizer(
    network: nn.Module, config: LearningConfig | PretrainConfig
) -> torch.optim.Optimizer:
    """The optimiser of the configuration, for all parameters that are trained.

    Biases have a learning rate of their own. They and normalisation parameters do not decay.
    """
    trained = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    matrices = [p for _, p in trained if p.ndim > 1]
    scales = [p for name, p in trained if p.ndim <= 1 and not name.endswith("bias")]
    biases = [p for name, p in trained if p.ndim <= 1 and name.endswith("bias")]
    rate = config.learning_rate
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": config.weight_decay, "lr": rate},
        {"params": scales, "weight_decay": 0.0, "lr": rate},
        {"params": biases, "weight_decay": 0.0, "lr": rate * config.bias_rate},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum)
    return torch.optim.AdamW(groups)


@kept_heap()
def train(
    network: nn.Module,
    batches: Iterator[Sequence[P]],
    losses_of: Callable[[nn.Module, P], dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    *,
    iterations: int,
    warmup: int,
    warmup_start: float = 0.0,
    lr_milestones: Sequence[int] | None = None,
    max_gradient_norm: float = 0.0,
    ema_decay: float = 0.0,
    checkpoint: Checkpoint | None = None,
    title: str = "train",
    on_step: OnStep | None = None,
) -> tuple[nn.Module, TrainingLog]:
    """Minimise the sum of the losses; the learning rate follows `rate_at`.

    In a distributed run, gradients are averaged over the processes; running statistics are those of
    the first process.

    Args:
        network: on its device and in training mode.
        batches: the batch of every step, in one part or in several that pass through the network
            one after the other, in which case gradients are summed; from step `checkpoint.step` on,
            where there is a checkpoint.
        losses_of: takes the network and a part, gives named losses, each a scalar: the share of
            this part in the losses of its batch.
        optimizer: its learning rates are the peaks of the schedule.
        lr_milestones: see `rate_at`.
        max_gradient_norm: norm to which larger gradients are scaled down; 0: never.
        ema_decay: decay of an exponential moving average of the weights; 0: no average.
        checkpoint: training resumes from it and writes it at intervals.
        on_step: called after every step, in place of a progress bar; an exception in it ends the
            training.

    Returns:
        The trained network (the moving average where there is one) and the losses of every step.

    Raises:
        GboptError: a loss or a gradient is not finite, or the checkpoint does not fit or cannot be
            written.
    """
    device = next(network.parameters()).device
    peaks = [group["lr"] for group in optimizer.param_groups]
    averaged = copy.deepcopy(network) if ema_decay else None
    parameters = [p for p in network.parameters() if p.requires_grad]
    log = TrainingLog()
    first = checkpoint.step if checkpoint else 0
    if checkpoint:
        checkpoint.restore(network, averaged, optimizer, log.losses)
    model: nn.Module = network
    if distributed.is_initialized():
        # Every pass would wait for all processes to receive the running statistics.
        changing = any(
            module.training for module in network.modules() if isinstance(module, nn.BatchNorm2d)
        )
        model = DistributedDataParallel(network, broadcast_buffers=changing)
    progress = tqdm(
        range(first, iterations), title, iterations, unit="step", dynamic_ncols=True,
        initial=first, disable=on_step is not None,
    )  # fmt: skip
    for step in progress:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate_at(step, iterations, warmup, lr_milestones, warmup_start)
        optimizer.zero_grad(set_to_none=True)
        values = _sum_gradients(model, next(batches), losses_of, device)
        norm = nn.utils.clip_grad_norm_(parameters, max_gradient_norm or math.inf)
        for what, value in (("loss", values["total"]), ("gradient", norm.item())):
            if not math.isfinite(value):
                raise GboptError(
                    f"{title}: {what} is not finite at step {step} ({values}); nothing was saved. "
                    "Lower the learning rate or look at the training masks."
                )
        optimizer.step()
        if averaged is not None:
            _update_average(averaged, network, min(ema_decay, (1 + step) / (10 + step)))
        log.append(values)
        if checkpoint and checkpoint.is_due(step + 1, iterations):
            checkpoint.write(step + 1, network, averaged, optimizer, log.losses)
        if on_step is not None:
            on_step(step + 1, values["total"])
        if step % 10 == 0:
            recent = log.total[-50:]
            progress.set_postfix(loss=f"{sum(recent) / len(recent):.3f}", refresh=False)
    return (averaged if averaged is not None else network), log


def _sum_gradients(
    model: nn.Module,
    parts: Sequence[P],
    losses_of: Callable[[nn.Module, P], dict[str, Tensor]],
    device: torch.device,
) -> dict[str, float]:
    """Add the gradients of all parts of a batch; returns its losses by name and their `total`."""
    values: dict[str, float] = {}
    for number, part in enumerate(parts, 1):
        with ExitStack() as stack:
            if isinstance(model, DistributedDataParallel) and number < len(parts):
                stack.enter_context(model.no_sync())  # processes meet once a step
            # bfloat16 needs no loss scaling and halves the time of a step where hardware has it.
            with torch.autocast(
                device.type, dtype=torch.bfloat16, enabled=has_fast_bfloat16(device)
            ):
                losses = losses_of(model, part)
                total = torch.stack([loss.float() for loss in losses.values()]).sum()
            total.backward()
        for name, loss in (losses | {"total": total}).items():
            values[name] = values.get(name, 0.0) + loss.item()
    return values


def rate_at(
    step: int,
    iterations: int,
    warmup: int,
    lr_milestones: Sequence[int] | None = None,
    warmup_start: float = 0.0,
) -> float:
    """The learning rate of a step, relative to its peak.

    It rises linearly, from `warmup_start` at the first step, over `warmup` steps. Then it falls to
    a tenth at each of `lr_milestones`; if these are None, to zero as a cosine.
    """
    if step < warmup:
        return warmup_start + (1 - warmup_start) * step / warmup
    if lr_milestones is not None:
        return float(0.1 ** sum(step >= milestone for milestone in lr_milestones))
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, iterations - warmup)))


@torch.no_grad()
def _update_average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, value in zip(
        averaged.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
