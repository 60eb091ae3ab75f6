"""Settings of fine-tuning, its training set and its gate."""

from __future__ import annotations

from dataclasses import dataclass, field

from gbopt_ros.config import training
from gbopt_ros.config.section import ConfigSection, setting

MIN_STUDENT_CLIPS = 4
"""Fewer clips do not tell how much the energies of two networks differ by chance."""


@dataclass(frozen=True)
class AugmentConfig(ConfigSection):
    """Augmentation of training images."""

    scale_min: float = setting(
        0.6, "Minimum scale of a training image; it is padded to its old size.", above=0.0
    )
    scale_max: float = setting(
        1.6, "Maximum scale of a training image; it is cropped to its old size.", above=0.0
    )
    copy_paste: float = setting(
        0.3, "Probability that objects of another image are pasted into an image.",
        low=0.0, high=1.0,
    )  # fmt: skip
    flip: float = setting(0.5, "Probability that an image is mirrored.", low=0.0, high=1.0)
    colour: float = setting(
        0.8, "Probability that the colours of an image change.", low=0.0, high=1.0
    )
    brightness: float = setting(0.35, "Maximum relative change of brightness.", low=0.0, high=1.0)
    contrast: float = setting(0.35, "Maximum relative change of contrast.", low=0.0, high=1.0)
    saturation: float = setting(0.5, "Maximum relative change of saturation.", low=0.0, high=1.0)
    hue: float = setting(
        0.5, "Maximum change of hue, as a share of the colour circle.", low=0.0, high=1.0
    )
    grey: float = setting(
        0.1, "Probability that an image whose colours change becomes grey.", low=0.0, high=1.0
    )
    blur: float = setting(
        0.15, "Probability of Gaussian blur (sigma up to 1.2 pixels).", low=0.0, high=1.0
    )
    noise: float = setting(
        0.2, "Probability of Gaussian noise (sigma up to 12 grey levels).", low=0.0, high=1.0
    )
    min_pixels: int = setting(
        40, "Minimum area of a training mask in the scaled image, pixels. Smaller masks are "
        "dropped.", low=1,
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

    student: str = setting(
        "",
        "Weights of the network that is trained on the selected masks: a file, or a name from "
        "`gbopt models pull`. Empty: the network that proposes (proposal.weights); if that is an "
        "ONNX file, which cannot be trained, the bundled network.",
        fixed=True,
    )
    student_clips: int = setting(
        8,
        "Number of newest clips on which the student is compared with its teacher, if that is "
        "another network. They are left out of the training if at least as many clips remain. More "
        "clips take more time and tell smaller differences. 0: no comparison, the student serves "
        "in any case.",
        low=0, fixed=True,
    )  # fmt: skip
    student_margin: float = setting(
        0.05,
        "Share by which the masks of a student may save less energy than those of its teacher. A "
        "larger loss must be ruled out at 95 % confidence before the student serves. A larger "
        "share lets a worse student serve.",
        low=0.0, below=1.0,
    )  # fmt: skip
    student_agreement: float = setting(
        0.9,
        "Minimum share of the masks selected from the proposals of student or teacher that the "
        "other one proposes, too, at 95 % confidence, before the student serves. A smaller share "
        "lets a student serve that differs more from its teacher, for better or worse.",
        low=0.0, high=1.0,
    )  # fmt: skip
    iterations: int = setting(
        90,
        "Number of optimiser steps per training round (paper: 1000). More steps learn more from "
        "the masks, also from wrong ones. A round learns from at most as many frames as its steps "
        "take: iterations x batch_size x (1 - rehearsal_share).",
        low=1,
    )
    batch_size: int = setting(
        8, "Number of images per optimiser step (paper: 16). A larger batch takes more time and "
        "memory.", low=1,
    )  # fmt: skip
    rehearsal_share: float = setting(
        0.5,
        "Share of labelled images of seen classes in each batch, 0 if no rehearsal data are given. "
        "A larger share forgets less and learns less.",
        low=0.0, high=1.0,
    )  # fmt: skip
    optimizer: str = training.optimizer()
    learning_rate: float = setting(
        2e-4,
        "Peak learning rate (paper: 0.002 with sgd). A larger rate changes the network more.",
        above=0.0,
    )
    momentum: float = training.momentum()
    weight_decay: float = setting(
        1e-4,
        "Weight decay (paper: 0.0001). Biases and normalisation layers have none. A larger value "
        "keeps weights smaller.",
        low=0.0,
    )
    localization_losses: bool = setting(
        False,
        "Whether selected masks also teach boxes and outlines (paper: true). If false, they teach "
        "only which regions are objects.",
    )
    warmup: int = training.warmup(20)
    warmup_start: float = training.warmup_start()
    lr_schedule: str = setting(
        "cosine",
        "Learning rate after the warm-up: cosine (falls to 0) or constant. A constant rate changes "
        "the network about twice as much in the same number of steps.",
        choices=("cosine", "constant"),
    )
    bias_rate: float = training.bias_rate()
    max_gradient_norm: float = training.max_gradient_norm()
    freeze_beginning: bool = setting(
        False,
        "Whether the stem, the first stage and all normalisation stay as they are, as in "
        "pretraining (paper: true). It forgets less and learns less.",
    )
    images_per_pass: int = setting(
        0,
        "Maximum number of images that pass through the network at once; gradients are summed over "
        "the passes of a step (0: no limit). Fewer need less memory and more time.",
        low=0,
    )
    weight_interpolation: float = setting(
        0.5,
        "Share of the parent network's weights in the published weights (paper: 0). A larger share "
        "forgets less and learns less.",
        low=0.0, below=1.0,
    )  # fmt: skip
    cross_clip_confidence: bool = setting(
        True,
        "Whether confidences are recalibrated before learning: masks that look alike in several "
        "clips support each other (paper: false).",
    )
    min_confidence: float = setting(
        0.5,
        "Minimum confidence of a mask that is learnt (paper: 0). A larger value learns fewer, "
        "surer masks, but always at least half of the masks in the frames of the round.",
        low=0.0, high=1.0,
    )  # fmt: skip
    max_bytes: int = setting(
        2_000_000_000,
        "Maximum size of the images in the training set, bytes (0: no limit). A larger set keeps "
        "older images. What leaves is logged, and counted in the manifest of a version.",
        low=0,
    )
    policy: str = setting(
        "balanced",
        "Part that is dropped from a full training set: oldest (the oldest clip) or balanced "
        "(every second frame of the longest clip).",
        choices=("oldest", "balanced"),
    )
    gate_margin: float = setting(
        1.0,
        "Maximum loss of AP on the validation set that the gate accepts, points. A larger margin "
        "publishes more versions and allows more forgetting.",
        low=0.0,
    )
    gate_worst: float = setting(
        5.0,
        "Loss of AP on the validation set that the gate must rule out at 95 % confidence, points. "
        "A smaller value needs more validation images.",
        above=0.0,
    )
    gate_agreement: float = setting(
        0.5,
        "Minimum share of the selected masks that the parent network (or the teacher) proposes "
        "too, in every part of the training set: a recording, a piece of a long one, or several "
        "short ones. A larger share refuses more recordings as wrong.",
        low=0.0, high=1.0,
    )  # fmt: skip
    keep_versions: int = setting(
        10,
        "Number of newest versions that the store keeps, besides the first, the current one and "
        "the one in service.",
        low=2,
    )
    seed: int = setting(0, "Seed for the order of the batches and for augmentation.", low=0)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def check(self) -> None:
        if 0 < self.student_clips < MIN_STUDENT_CLIPS:
            raise ValueError(
                f"LearningConfig.student_clips: expected 0 or at least {MIN_STUDENT_CLIPS}, got "
                f"{self.student_clips}"
            )
