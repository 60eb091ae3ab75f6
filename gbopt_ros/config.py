"""Every parameter, its default and its meaning: one frozen dataclass a stage.

This is the only home of a default. YAML files and `--set` hold overrides and are merged by
`load_config`; nodes declare their ROS parameters by walking these fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gbopt_ros.structures import GboptError


def _check(config: object, name: str, condition: bool, expected: str) -> None:
    if not condition:
        value = getattr(config, name)
        raise ValueError(f"{type(config).__name__}.{name}: expected {expected}, got {value!r}")


@dataclass(frozen=True)
class ClipConfig:
    """How a stream is cut into clips."""

    length: int = 30  # T, frames of a clip at most (paper: 180)
    overlap: int = 0  # frames that a clip shares with the one before it
    max_gap_s: float = 1.0  # a longer gap between two stamps starts a new clip, seconds

    def __post_init__(self) -> None:
        _check(self, "length", self.length >= 1, "at least 1 frame")
        _check(self, "overlap", 0 <= self.overlap < self.length, "0 <= overlap < length")
        _check(self, "max_gap_s", self.max_gap_s > 0, "a positive number of seconds")


@dataclass(frozen=True)
class ProposalConfig:
    """The class-agnostic Mask R-CNN of Section 3.1."""

    weights: str = ""  # safetensors file; "" takes the bundled seed network
    max_proposals: int = 15  # N, the best by score after NMS
    score_threshold: float = 0.0  # the paper's 0: keep every detection
    nms_iou: float = 0.5  # box IoU above which the lower score is suppressed
    mask_threshold: float = 0.5  # mask probability from which a pixel belongs to the mask
    batch_size: int = 8  # frames a forward pass
    half: bool = True  # half precision, on a GPU only

    def __post_init__(self) -> None:
        _check(self, "max_proposals", 1 <= self.max_proposals <= 1000, "1 to 1000")
        _check(self, "score_threshold", 0 <= self.score_threshold < 1, "a number in [0, 1)")
        _check(self, "nms_iou", 0 < self.nms_iou <= 1, "a number in (0, 1]")
        _check(self, "mask_threshold", 0 < self.mask_threshold < 1, "a number in (0, 1)")
        _check(self, "batch_size", self.batch_size >= 1, "at least 1")


@dataclass(frozen=True)
class BackgroundConfig:
    """The foreground/background network of Section 3.2.1 and Appendix D.2.1."""

    weights: str = ""  # safetensors file; "" takes the bundled seed network
    batch_size: int = 8  # frames a forward pass
    half: bool = True  # half precision, on a GPU only

    def __post_init__(self) -> None:
        _check(self, "batch_size", self.batch_size >= 1, "at least 1")


FLOW_BACKENDS = ("auto", "dis", "raft_small", "raft_large")


@dataclass(frozen=True)
class FlowConfig:
    """The optical flow network g of Section 3.2.2."""

    backend: str = "auto"  # auto: RAFT where `weights` is given, DIS where it is not
    weights: str = ""  # RAFT state dict (.safetensors or a .pth of tensors only)
    batch_size: int = 32  # pairs a forward pass
    half: bool = True  # half precision, on a GPU only

    def __post_init__(self) -> None:
        _check(self, "backend", self.backend in FLOW_BACKENDS, f"one of {FLOW_BACKENDS}")
        _check(self, "batch_size", self.batch_size >= 1, "at least 1")
        if self.backend.startswith("raft") and not self.weights:
            raise ValueError(
                f"FlowConfig.weights: backend {self.backend!r} needs a weights file, got none"
            )


REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class SelectionConfig:
    """The objective of Eq. 2 and its two-stage optimisation (Section 3.3)."""

    k: int = 10  # K, combinations kept of each frame
    overlap_tolerance: float = 0.05  # intersection over the smaller mask; 0 is the paper
    lambda_background: float = 1.0  # weight of L_I
    lambda_flow: float = 1.0  # weight of L_F
    lambda_regularization: float = 0.5  # weight of L_p
    score_weight: float = 0.0  # of the prior from network scores; 0 is the paper
    neutral_score: float = 0.5  # a mask with this score is neither favoured nor disfavoured
    reduction: str = "mean"  # of L_I over the pixels; mean makes the weights size-independent
    epsilon: float = 1e-3  # Bg is clipped to [epsilon, 1 - epsilon]
    exhaustive: bool = False  # evaluate every edge: exact margins, K^2 (T - 1) flow runs
    confidence_temperature: float = 0.01  # energy that moves a confidence from 0.5 to 0.73
    seed: int = 0  # of the background photograph under the composites (Appendix C)

    def __post_init__(self) -> None:
        _check(self, "k", self.k >= 1, "at least 1")
        _check(self, "overlap_tolerance", 0 <= self.overlap_tolerance <= 1, "a number in [0, 1]")
        for name in (
            "lambda_background", "lambda_flow", "lambda_regularization", "score_weight",
        ):  # fmt: skip
            _check(self, name, getattr(self, name) >= 0, "a non-negative weight")
        _check(self, "neutral_score", 0 < self.neutral_score < 1, "a number in (0, 1)")
        _check(self, "reduction", self.reduction in REDUCTIONS, f"one of {REDUCTIONS}")
        _check(self, "epsilon", 0 < self.epsilon < 0.5, "a number in (0, 0.5)")
        _check(self, "confidence_temperature", self.confidence_temperature > 0, "above 0")


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images; every probability is per image."""

    scale_min: float = 0.6  # of the image, before crop or pad back to its size
    scale_max: float = 1.6  # of the image
    copy_paste: float = 0.3  # probability of pasting instances of another image
    flip: float = 0.5  # probability of a horizontal flip
    colour: float = 0.8  # probability of colour jitter
    brightness: float = 0.35  # relative
    contrast: float = 0.35  # relative
    saturation: float = 0.5  # relative
    hue: float = 0.5  # of the colour circle; objects of any class come in any colour
    grey: float = 0.1  # probability, given colour jitter, of a grey image
    blur: float = 0.15  # probability of Gaussian blur, sigma up to 1.2 pixels
    noise: float = 0.2  # probability of Gaussian noise, up to 12 grey levels

    def __post_init__(self) -> None:
        _check(self, "scale_min", 0 < self.scale_min <= self.scale_max, "0 < min <= max")
        for name in ("copy_paste", "flip", "colour", "grey", "blur", "noise"):
            _check(self, name, 0 <= getattr(self, name) <= 1, "a probability")


@dataclass(frozen=True)
class PretrainConfig:
    """Supervised training of the seed networks on labelled data (Appendix D)."""

    proposal_architecture: str = "slim18-fpn"  # the paper: resnet50-fpn
    background_architecture: str = "slim18-semantic-fpn"  # the paper: resnet50-semantic-fpn
    iterations: int = 2600  # optimiser steps of the proposal network (paper: 90,000)
    background_iterations: int = 800  # optimiser steps of the background network
    batch_size: int = 8  # images a step
    learning_rate: float = 1e-3  # AdamW, peak of a cosine schedule
    weight_decay: float = 0.05  # of AdamW; biases and normalisation have none
    warmup: int = 300  # steps of linear warm-up
    average: float = 0.999  # decay of the exponential moving average of the weights
    seed: int = 0  # of the first weights, order of the batches, augmentation
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        for name in ("iterations", "background_iterations", "batch_size"):
            _check(self, name, getattr(self, name) >= 1, "at least 1")
        _check(self, "learning_rate", self.learning_rate > 0, "above 0")
        _check(self, "average", 0 <= self.average < 1, "a number in [0, 1)")


@dataclass(frozen=True)
class LearningConfig:
    """Fine-tuning on selected masks with rehearsal (Section 4, Appendix D.1)."""

    iterations: int = 300  # optimiser steps (paper: 1000)
    batch_size: int = 8  # images a step (paper: 16)
    rehearsal_share: float = 0.5  # of each batch that comes from labelled seen data
    learning_rate: float = 0.002  # paper
    momentum: float = 0.9  # paper
    weight_decay: float = 1e-4  # paper
    warmup: int = 20  # steps of linear warm-up
    parent_share: float = 0.0  # of the parent in the average of its weights and the trained ones
    min_confidence: float = 0.0  # selected masks below it are ignored, not background
    max_bytes: int = 2_000_000_000  # of images that the training set keeps
    gate_margin: float = 1.0  # seen AP points that a new version may lose on the probe split
    seed: int = 0  # order of the batches, augmentation
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        _check(self, "iterations", self.iterations >= 1, "at least 1")
        _check(self, "batch_size", self.batch_size >= 1, "at least 1")
        _check(self, "rehearsal_share", 0 <= self.rehearsal_share <= 1, "a number in [0, 1]")
        _check(self, "parent_share", 0 <= self.parent_share < 1, "a number in [0, 1)")
        _check(self, "learning_rate", self.learning_rate > 0, "above 0")
        _check(self, "momentum", 0 <= self.momentum < 1, "a number in [0, 1)")
        _check(self, "weight_decay", self.weight_decay >= 0, "at least 0")
        _check(self, "warmup", self.warmup >= 0, "at least 0")
        _check(self, "min_confidence", 0 <= self.min_confidence <= 1, "a number in [0, 1]")
        _check(self, "max_bytes", self.max_bytes > 0, "above 0")
        _check(self, "gate_margin", self.gate_margin >= 0, "at least 0")


@dataclass(frozen=True)
class Config:
    """All stages."""

    clip: ClipConfig = field(default_factory=ClipConfig)
    proposal: ProposalConfig = field(default_factory=ProposalConfig)
    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    device: str = "auto"  # auto: the GPU where there is one; cpu, cuda, cuda:1 ...

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, for JSON and YAML."""
        return asdict(self)


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Defaults, then the YAML file, then `key=value` overrides such as `selection.k=5`.

    Raises:
        GboptError: unreadable file, unknown key, wrong type or a value out of range.
    """
    merged: Any = OmegaConf.structured(Config)
    reading = str(path)  # what an error is about
    try:
        if path is not None:
            loaded = OmegaConf.load(path)
            if not isinstance(loaded, DictConfig):
                raise GboptError(f"{path}: expected a mapping of stages, got a list")
            merged = OmegaConf.merge(merged, loaded)
        for override in overrides:
            reading = f"--set {override}"
            if "=" not in override:
                raise GboptError(f"{reading}: expected key=value, such as selection.k=5")
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([override]))
        reading = "configuration"
        config = OmegaConf.to_object(merged)
    except FileNotFoundError as error:
        raise GboptError(f"{path}: no such configuration file") from error
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise GboptError(f"{reading}: {key}{str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise GboptError(f"{reading}: {error}") from error
    except OSError as error:
        if error.strerror is None:  # OmegaConf's own, for a file that holds one bare value
            raise GboptError(f"{path}: expected a mapping of stages") from error
        raise GboptError(f"{path}: cannot be read ({error.strerror})") from error
    except YAMLError as error:
        raise GboptError(f"{reading}: not valid YAML ({str(error).splitlines()[0]})") from error
    assert isinstance(config, Config)
    return config


def stage_names() -> tuple[str, ...]:
    """The names of the stages in `Config`."""
    return tuple(f.name for f in fields(Config) if f.name != "device")
