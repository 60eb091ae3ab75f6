"""The training loop on networks small enough to check by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.networks import sgd
from support.two_ranks import train_on_two_processes
from torch import Tensor, nn

from gbopt_ros.config import LearningConfig, PretrainConfig
from gbopt_ros.learning.training.trainer import TrainingLog, build_optimizer, rate_at, train
from gbopt_ros.structures import GboptError


def no_batches() -> Iterator[list[str]]:
    while True:
        yield [""]


class Scalar(nn.Module):
    """One weight, and an integer buffer that counts forward passes."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))
        self.register_buffer("passes", torch.tensor(0))

    def forward(self) -> Tensor:
        self.passes += 1
        return self.weight.sum()


def test_train_learns_a_regression() -> None:
    torch.manual_seed(0)
    network = nn.Linear(2, 1)
    inputs = torch.randn(64, 2)
    targets = inputs @ torch.tensor([[2.0], [-1.0]]) + 0.5

    def losses_of(network: nn.Module, _: str) -> dict[str, Tensor]:
        error = network(inputs).float() - targets
        return {"square": (error**2).mean(), "absolute": error.abs().mean()}

    optimizer = sgd(network.parameters(), lr=0.1, momentum=0.9)
    trained, log = train(network, no_batches(), losses_of, optimizer, iterations=80, warmup=5)
    assert trained is network
    assert log.total[-1] < 0.05 * log.total[0]
    assert network.weight.flatten().tolist() == pytest.approx([2.0, -1.0], abs=0.05)
    assert set(log.losses) == {"square", "absolute", "total"}
    assert {len(values) for values in log.losses.values()} == {80}
    sums = [a + b for a, b in zip(log.losses["square"], log.losses["absolute"], strict=True)]
    assert log.total == pytest.approx(sums, rel=1e-4)


@pytest.mark.parametrize(
    ("iterations", "warmup", "expected"),
    [
        (6, 2, [0.2, 0.6, 1.0, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4]),
        (4, 0, [1.0, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4]),
        (2, 4, [0.2, 0.4]),
        (1, 1, [0.2]),
    ],
)
def test_train_follows_rate_at_by_hand(iterations: int, warmup: int, expected: list[float]) -> None:
    network, rates = Scalar(), []
    optimizer = sgd(network.parameters(), lr=10.0)

    def losses_of(network: nn.Module, _: str) -> dict[str, Tensor]:
        rates.append(optimizer.param_groups[0]["lr"])
        return {"loss": network() ** 2}

    train(
        network, no_batches(), losses_of, optimizer,
        iterations=iterations, warmup=warmup, warmup_start=0.2,
    )  # fmt: skip
    assert rates == pytest.approx([10 * rate for rate in expected])


def test_train_takes_the_next_batch_at_every_step() -> None:
    network, seen = Scalar(), []
    batches = iter([["first"], ["second"], ["third"]])

    def losses_of(network: nn.Module, part: str) -> dict[str, Tensor]:
        seen.append(part)
        return {"loss": network()}

    optimizer = sgd(network.parameters(), lr=0.1)
    train(network, batches, losses_of, optimizer, iterations=2, warmup=0)
    assert seen == ["first", "second"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_train_aborts_on_a_loss_that_is_not_finite(bad: float) -> None:
    network = Scalar(1.0)

    def losses_of(network: nn.Module, _: str) -> dict[str, Tensor]:
        return {"mask": network() * (bad if network.passes == 3 else 1.0), "box": network()}

    optimizer = sgd(network.parameters(), lr=0.1)
    with pytest.raises(GboptError, match=r"learn: loss is not finite at step 1 .*'mask'") as caught:
        train(network, no_batches(), losses_of, optimizer, iterations=5, warmup=0, title="learn")
    assert len(str(caught.value).splitlines()) == 1
    assert network.weight.item() == pytest.approx(1.0 - 0.1 * 2)  # the first step alone


@pytest.mark.parametrize("max_gradient_norm", [0.0, 10.0])
def test_train_aborts_on_a_gradient_that_is_not_finite(max_gradient_norm: float) -> None:
    """In the last step no loss would tell: the network would hold values that are not numbers."""
    network = Scalar(0.0)
    optimizer = sgd(network.parameters(), lr=0.1)
    with pytest.raises(GboptError, match="learn: gradient is not finite at step 0"):
        train(
            network, no_batches(), lambda network, _: {"loss": network().abs().sqrt()}, optimizer,
            iterations=1, warmup=0, max_gradient_norm=max_gradient_norm, title="learn",
        )  # fmt: skip
    assert network.weight.item() == 0.0


def test_train_clips_gradients() -> None:
    network = Scalar()
    optimizer = sgd(network.parameters(), lr=0.5)
    train(
        network, no_batches(), lambda network, _: {"loss": 1e6 * network()}, optimizer,
        iterations=1, warmup=0, max_gradient_norm=10.0,
    )  # fmt: skip
    assert network.weight.item() == pytest.approx(-0.5 * 10.0, rel=1e-4)


def test_train_sums_the_gradients_of_the_parts_of_a_batch() -> None:
    network = Scalar()
    optimizer = sgd(network.parameters(), lr=1.0)
    _, log = train(
        network, iter([[0.5, 0.25]]), lambda network, share: {"loss": share * (network() + 4)},
        optimizer, iterations=1, warmup=0,
    )  # fmt: skip
    assert network.passes == 2
    assert network.weight.item() == pytest.approx(-0.75)
    assert log.losses == {"loss": [3.0], "total": [3.0]}


def test_rate_at_is_constant_or_falls_at_milestones() -> None:
    assert [rate_at(step, 10, 0, ()) for step in (0, 9)] == [1.0, 1.0]
    assert [rate_at(step, 10, 0, (4, 8)) for step in (3, 4, 8)] == pytest.approx([1, 0.1, 0.01])


def test_train_ema_decay_by_hand() -> None:
    """The weight falls by the learning rate a step; young averages forget faster."""
    network = Scalar(1.0)
    optimizer = sgd(network.parameters(), lr=1.0)
    averaged, _ = train(
        network, no_batches(), lambda network, _: {"loss": network()}, optimizer,
        iterations=3, warmup=10**6, warmup_start=1e-6, ema_decay=0.15,
    )  # fmt: skip
    assert isinstance(averaged, Scalar)
    assert averaged is not network
    weights = [1 - 1e-6, 1 - 3e-6, 1 - 6e-6]
    assert network.weight.item() == pytest.approx(weights[-1], abs=1e-7)
    mean = 1.0
    for weight, decay in zip(weights, [1 / 10, 0.15, 0.15], strict=True):  # 2 / 11 > 0.15
        mean = decay * mean + (1 - decay) * weight
    assert averaged.weight.item() == pytest.approx(mean, abs=1e-7)
    assert averaged.passes == network.passes == 3


def test_train_ema_lags_behind() -> None:
    network = Scalar(0.0)
    optimizer = sgd(network.parameters(), lr=1.0)
    averaged, _ = train(
        network, no_batches(), lambda network, _: {"loss": network()}, optimizer,
        iterations=2, warmup=2, warmup_start=0.5, ema_decay=0.9,
    )  # fmt: skip
    assert network.weight.item() == pytest.approx(-1.25)  # steps of 0.5 and 0.75
    first = 0.9 * -0.5
    assert averaged.weight.item() == pytest.approx(2 / 11 * first + 9 / 11 * -1.25)


def test_train_keeps_frozen_parameters() -> None:
    network = nn.Sequential(Scalar(1.0), Scalar(2.0))
    network[0].weight.requires_grad_(False)
    optimizer = sgd([network[1].weight], lr=0.1, weight_decay=0.1)
    train(
        network, no_batches(), lambda network, _: {"loss": network[0]() * network[1]()}, optimizer,
        iterations=2, warmup=0,
    )  # fmt: skip
    assert network[0].weight.item() == 1.0
    assert network[1].weight.item() < 2.0


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_build_optimizer_decays_weight_matrices_alone(kind: str) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    network[2].requires_grad_(False)
    chosen = {
        "optimizer": kind, "learning_rate": 0.5, "weight_decay": 0.25, "momentum": 0.7,
        "bias_rate": 2.0,
    }  # fmt: skip
    for config in (LearningConfig(**chosen), PretrainConfig(**chosen)):
        optimizer = build_optimizer(network, config)
        assert type(optimizer) is {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[kind]
        groups = optimizer.param_groups
        assert [len(group["params"]) for group in groups] == [1, 1, 2]
        assert [group["weight_decay"] for group in groups] == [0.25, 0.0, 0.0]
        assert [group["lr"] for group in groups] == [0.5, 0.5, 1.0]
        assert all(group.get("momentum", 0.7) == 0.7 for group in groups)


def test_train_on_two_processes_gives_the_weights_of_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    inputs, targets = torch.randn(8, 3), torch.randn(8, 1)
    torch.save((inputs, targets), tmp_path / "data")
    found = train_on_two_processes(tmp_path / "data")

    def losses_of(model: nn.Module, _: str) -> dict[str, Tensor]:
        return {"l1": (model(inputs) - targets).abs().mean()}

    optimizer = sgd(network.parameters(), lr=0.1)
    train(network, no_batches(), losses_of, optimizer, iterations=5, warmup=2)
    for weights in found:
        for name, value in network.state_dict().items():  # bfloat16, where the CPU has it
            torch.testing.assert_close(weights[name], value, atol=2e-3, rtol=0)


def test_training_log_append_and_total() -> None:
    log = TrainingLog()
    assert log.total == []
    log.append({"a": 1.0, "total": 1.0})
    log.append({"a": 0.5, "total": 0.5})
    assert log.losses == {"a": [1.0, 0.5], "total": [1.0, 0.5]}
