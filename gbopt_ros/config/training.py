"""Settings that fine-tuning and pretraining share, each with a default of its own."""

from __future__ import annotations

from gbopt_ros.config.section import setting

OPTIMIZERS = ("sgd", "adamw")


def optimizer() -> str:
    return setting("adamw", "Optimiser (paper: sgd).", choices=OPTIMIZERS)


def momentum() -> float:
    return setting(0.9, "Momentum of sgd (paper: 0.9).", low=0.0, below=1.0)


def warmup(steps: int) -> int:
    return setting(
        steps,
        "Number of optimiser steps in which the learning rate rises to its peak (paper: 500).",
        low=0,
    )


def warmup_start() -> float:
    return setting(
        0.05,
        "Learning rate at the first step of the warm-up, as a share of the peak (paper: 1/3).",
        low=0.0, high=1.0,
    )  # fmt: skip


def bias_rate() -> float:
    return setting(
        1.0, "Learning rate of biases, relative to that of other weights (paper: 2).", above=0.0
    )


def max_gradient_norm() -> float:
    return setting(
        10.0,
        "Norm to which larger gradients are scaled down: a rare bad batch must not wreck the "
        "weights. 0: never (paper).",
        low=0.0,
    )
