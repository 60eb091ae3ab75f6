"""Settings of the training of seed networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from gbopt_ros.config import training
from gbopt_ros.config.learning import AugmentConfig
from gbopt_ros.config.section import ConfigSection, setting


@dataclass(frozen=True)
class PretrainConfig(ConfigSection):
    """Supervised training of the seed networks on labelled data (Appendix D)."""

    proposal_architecture: str = setting(
        "lite0-fpn", "Architecture of the proposal network (paper: resnet50-fpn).", fixed=True
    )
    background_architecture: str = setting(
        "lite0-semantic-fpn",
        "Architecture of the background network (paper: timm:resnest200e). timm:NAME is a "
        "semantic FPN on the backbone NAME of timm.",
        fixed=True,
    )
    proposal_backbone: str = setting(
        "",
        "File of ImageNet weights that the proposal network starts from: a state dict of "
        "torchvision's ResNet or of the published EfficientNet-Lite0. Empty: random weights.",
    )
    background_backbone: str = setting(
        "",
        "File of ImageNet weights that the background network starts from. Empty: the backbone of "
        "the trained proposal network if it fits, else random weights.",
    )
    background_weights: str = setting(
        "",
        "Weights file of a background network that is trained further, in place of a new one from "
        "pretrain.background_backbone.",
    )
    background_interpolation: float = setting(
        0.0,
        "Share of pretrain.background_weights in the saved weights. A larger share forgets less "
        "and learns less, as learning.weight_interpolation.",
        low=0.0, below=1.0,
    )  # fmt: skip
    background_frozen: str = setting(
        "",
        "Parts of the background network's backbone that stay as they are beside those that always "
        "do, such as stage6,stage7 of EfficientNet-Lite0.",
    )
    iterations: int = setting(
        2800, "Number of optimiser steps for the proposal network (paper: 90,000).", low=1
    )
    background_iterations: int = setting(
        700, "Number of optimiser steps for the background network.", low=1
    )
    batch_size: int = setting(
        8, "Number of images per optimiser step, over all processes together.", low=1
    )
    partial_share: float = setting(
        0.5,
        "Share of the images of `--partial` in each batch, in which only objects of some classes "
        "are labelled.",
        low=0.0, high=1.0,
    )  # fmt: skip
    optimizer: str = training.optimizer()
    learning_rate: float = setting(6e-4, "Peak learning rate (paper: 0.02 with sgd).", above=0.0)
    momentum: float = training.momentum()
    weight_decay: float = setting(
        0.05, "Weight decay (paper: 0.0001). Biases and normalisation layers have none.", low=0.0
    )
    warmup: int = training.warmup(300)
    warmup_start: float = training.warmup_start()
    bias_rate: float = training.bias_rate()
    max_gradient_norm: float = training.max_gradient_norm()
    lr_milestones: str = setting(
        "",
        "Steps after which the learning rate falls to a tenth, such as 60000,80000 (paper). Empty: "
        "the learning rate falls to 0 as a cosine.",
    )
    background_lr_milestones: str = setting(
        "", "As pretrain.lr_milestones, for the background network."
    )
    ema_decay: float = setting(
        0.999,
        "Decay per step of the exponential moving average of the weights, which is saved in place "
        "of the last weights (paper: 0, the last weights). A larger value averages over more "
        "steps.",
        low=0.0, below=1.0,
    )  # fmt: skip
    min_scale: float = setting(
        0.6,
        "Minimum scale of a training image for the proposal network, relative to its input size "
        "(paper: 1).",
        above=0.0, high=1.0,
    )  # fmt: skip
    background_min_scale: float = setting(
        0.6, "As pretrain.min_scale, for the background network (paper: not said).",
        above=0.0, high=1.0,
    )  # fmt: skip
    num_workers: int = setting(
        0,
        "Number of processes that load images ahead (0: images are loaded between the steps).",
        low=0,
    )
    checkpoint_every: int = setting(
        200, "Number of optimiser steps between two checkpoints.", low=1
    )
    seed: int = setting(
        0, "Seed for the initial weights, the order of the batches and augmentation.", low=0
    )
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(scale_min=0.5, copy_paste=0.5)
    )

    def check(self) -> None:
        if self.background_weights and self.background_backbone:
            raise ValueError(
                "PretrainConfig.background_weights: it replaces background_backbone; set one"
            )
        if self.background_interpolation and not self.background_weights:
            raise ValueError("PretrainConfig.background_interpolation: set background_weights, too")
        for name in ("lr_milestones", "background_lr_milestones"):
            try:
                steps = milestone_steps(getattr(self, name))
            except ValueError:
                steps = (0,)
            if any(a >= b for a, b in pairwise((0, *steps))):
                raise ValueError(
                    f"PretrainConfig.{name}: expected increasing steps such as 60000,80000, "
                    f"got {getattr(self, name)!r}"
                )


def milestone_steps(text: str) -> tuple[int, ...]:
    """The steps in a list such as `60000,80000`. Raises ValueError if one is no whole number."""
    return tuple(int(step) for step in text.split(",")) if text else ()
