"""A network that is trained by two processes, each on half of the data."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed, nn

from gbopt_ros.learning.training.trainer import train
from support.forks import FORKS


def train_on_two_processes(data: Path) -> list[dict[str, torch.Tensor]]:
    """The weights that both processes end with.

    Args:
        data: file of eight inputs (8, 3) and targets (8, 1).
    """
    processes = [FORKS.Process(target=_train, args=(data, rank)) for rank in (0, 1)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(f"{data}.{rank}") for rank in (0, 1)]


def _train(data: Path, rank: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{data}.meet", rank=rank, world_size=2)
    torch.manual_seed(rank)  # the first weights of the first process count
    network = nn.Linear(3, 1)
    inputs, targets = torch.load(data)
    share = slice(4 * rank, 4 * rank + 4)
    train(
        network, iter([[None]] * 5),
        lambda model, _: {"l1": (model(inputs[share]) - targets[share]).abs().mean()},
        torch.optim.SGD(network.parameters(), lr=0.1), iterations=5, warmup=2,
        on_step=lambda *_: None,
    )  # fmt: skip
    torch.save(network.state_dict(), f"{data}.{rank}")
    distributed.destroy_process_group()  # its threads may abort the end of the interpreter
