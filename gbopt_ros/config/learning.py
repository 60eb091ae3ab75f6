"""Settings of fine-tuning, its training set and its gate."""

from __future__ import annotations

from dataclasses import dataclass, field

from gbopt_ros.config.section import ConfigSection, setting

OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True)
class AugmentConfig(ConfigSection):
    """Augmentation of training images."""

    scale_min: float = setting(
        0.6, "Smallest scale of a training image, before it is padded back to its size.", above=0.0
    )
    scale_max: float = setting(
        1.6, "Largest scale of a training image, before it is cropped back to its size.", above=0.0
    )
    copy_paste: float = setting(
        0.3, "Probability that objects of another image are pasted into an image.",
        low=0.0, high=1.0,
    )  # fmt: skip
    flip: float = setting(0.5, "Probability that an image is mirrored.", low=0.0, high=1.0)
    colour: float = setting(
        0.8, "Probability that the colours of an image change.", low=0.0, high=1.0
    )
    brightness: float = setting(0.35, "Largest relative change of brightness.", low=0.0, high=1.0)
    contrast: float = setting(0.35, "Largest relative change of contrast.", low=0.0, high=1.0)
    saturation: float = setting(0.5, "Largest relative change of saturation.", low=0.0, high=1.0)
    hue: float = setting(
        0.5, "Largest change of hue, as a share of the colour circle.", low=0.0, high=1.0
    )
    grey: float = setting(
        0.1, "Probability that an image whose colours change becomes grey.", low=0.0, high=1.0
    )
    blur: float = setting(
        0.15, "Probability of Gaussian blur, with a sigma of up to 1.2 pixels.", low=0.0, high=1.0
    )
    noise: float = setting(
        0.2, "Probability of Gaussian noise, of up to 12 grey levels.", low=0.0, high=1.0
    )
    min_pixels: int = setting(
        40, "Smallest area of a training mask, pixels. What is left of smaller ones is dropped.",
        low=1,
    )  # fmt: skip

    def check(self) -> None:
        if self.scale_min > self.scale_max:
            raise ValueError(
                f"AugmentConfig.scale_min: expected at most scale_max, {self.scale_max}, "
                f"got {self.scale_min}"
            )


@dataclass(frozen=True)
class LearningConfig(ConfigSection):
    """Fine-tuning on selected masks with rehearsal (Section 4, Appendix D.1)."""

    iterations: int = setting(
        90,
        "Number of optimiser steps per training round (paper: 1000). More learn more from the "
        "masks, also from wrong ones.",
        low=1,
    )
    batch_size: int = setting(8, "Number of images per optimiser step (paper: 16).", low=1)
    rehearsal_share: float = setting(
        0.5,
        "Share of each batch that is labelled images of seen classes. A larger share forgets less "
        "and learns less.",
        low=0.0, high=1.0,
    )  # fmt: skip
    optimizer: str = setting("adamw", "Optimiser (paper: sgd).", choices=OPTIMIZERS)
    learning_rate: float = setting(
        2e-4,
        "Peak learning rate (paper: 0.002 with sgd). A larger one changes the network more.",
        above=0.0,
    )
    momentum: float = setting(0.9, "Momentum of sgd (paper: 0.9).", low=0.0, below=1.0)
    weight_decay: float = setting(1e-4, "Weight decay (paper: 0.0001).", low=0.0)
    localization_losses: bool = setting(
        False,
        "Whether selected masks teach boxes and outlines too (as in the paper), not only which "
        "regions are objects.",
    )
    warmup: int = setting(
        20, "Number of steps in which the learning rate rises to its peak.", low=0
    )
    weight_interpolation: float = setting(
        0.5,
        "Share of the parent's weights in the published ones (paper: 0). A larger share forgets "
        "less and learns less.",
        low=0.0, below=1.0,
    )  # fmt: skip
    cross_clip_confidence: bool = setting(
        True,
        "Whether the confidence of a mask is recalibrated by masks of the same appearance in "
        "other clips, before it is learnt. Not in the paper.",
    )
    min_confidence: float = setting(
        0.5,
        "Lowest confidence of a mask that is learnt (paper: 0). At least half of all masks are "
        "learnt, whatever their confidence. A larger value learns fewer, surer masks.",
        low=0.0, high=1.0,
    )  # fmt: skip
    max_bytes: int = setting(
        2_000_000_000, "Maximum size of the images in the training set, bytes.", low=1
    )
    policy: str = setting(
        "balanced",
        "What leaves a full training set: oldest (the oldest clips) or balanced (every second "
        "frame of the longest clip).",
        choices=("oldest", "balanced"),
    )
    gate_margin: float = setting(
        1.0,
        "AP on the validation set that a new version may lose, points. A larger margin publishes "
        "more versions and allows more forgetting.",
        low=0.0,
    )
    gate_worst: float = setting(
        5.0,
        "Loss of AP on the validation set that must be excluded at 95 % confidence, points. A "
        "smaller value needs more validation images.",
        above=0.0,
    )
    gate_agreement: float = setting(
        0.5,
        "Share of the selected masks that the parent network must propose itself, in every part "
        "of the training set. A larger share refuses more recordings as wrong.",
        low=0.0, high=1.0,
    )  # fmt: skip
    keep_versions: int = setting(
        10,
        "Number of newest versions that the store keeps, beside the first and the current one.",
        low=2,
    )
    seed: int = setting(0, "Seed of the order of batches and of augmentation.", low=0)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
