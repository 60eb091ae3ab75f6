"""Every parameter, its default and its meaning: one frozen dataclass a stage.

This is the only home of a default. YAML files and `--set` hold overrides and are merged by
`load_config`; nodes declare their ROS parameters by walking these fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gbopt_ros.structures import GboptError

T = TypeVar("T", bool, int, float, str)


@dataclass(frozen=True)
class Setting:
    """One parameter: what it means and what it may be.

    Attributes:
        name: of the field; those of a nested dataclass are `outer.inner`.
        type: bool, int, float or str.
        low, high: smallest and largest value, themselves allowed.
        above, below: bounds that are themselves not allowed.
        choices: all values that are allowed.
        fixed: it cannot be changed while a node runs, which would have to load a network again.
    """

    name: str
    type: type
    default: bool | int | float | str
    doc: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    fixed: bool = False

    def allows(self, value: bool | int | float | str) -> bool:
        """Whether a value of the right type is in range."""
        if self.choices:
            return value in self.choices
        if isinstance(value, str):
            return True
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    @property
    def expected(self) -> str:
        """The range in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        words = (
            ("at least", self.low), ("above", self.above),
            ("at most", self.high), ("below", self.below),
        )  # fmt: skip
        return " and ".join(f"{word} {bound:g}" for word, bound in words if bound is not None)


def setting(
    default: T,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    fixed: bool = False,
) -> T:
    """A dataclass field that knows its meaning and its range, see `Setting`."""
    about = {
        "doc": doc, "low": low, "high": high, "above": above, "below": below,
        "choices": choices, "fixed": fixed,
    }  # fmt: skip
    made: T = field(default=default, metadata=about)
    return made


@dataclass(frozen=True)
class Stage:
    """A dataclass of settings, each checked when an instance is made.

    Raises:
        ValueError: a value is out of range, or does not go with another.
    """

    def __post_init__(self) -> None:
        for known in settings(type(self)):
            if "." in known.name:  # a stage of its own, which has checked it
                continue
            value = getattr(self, known.name)
            if not known.allows(value):
                raise ValueError(
                    f"{type(self).__name__}.{known.name}: expected {known.expected}, got {value!r}"
                )
        self.check()

    def check(self) -> None:
        """Raise ValueError where settings do not go together."""


def settings(stage: type[Any]) -> tuple[Setting, ...]:
    """The settings of a dataclass in their order; those of a nested one are `outer.inner`."""
    types = get_type_hints(stage)
    found: list[Setting] = []
    for known in fields(stage):
        default: Any = known.default
        if "doc" in known.metadata:
            found.append(Setting(known.name, types[known.name], default, **known.metadata))
        else:
            nested = settings(types[known.name])
            found += [replace(inner, name=f"{known.name}.{inner.name}") for inner in nested]
    return tuple(found)


@dataclass(frozen=True)
class ClipConfig(Stage):
    """How a stream is cut into clips."""

    length: int = setting(30, "T, frames of a clip at most (paper: 180)", low=1)
    overlap: int = setting(0, "frames that a clip shares with the one before it", low=0)
    max_gap_s: float = setting(
        1.0, "a longer gap between two stamps starts a new clip, seconds", above=0.0
    )

    def check(self) -> None:
        if self.overlap >= self.length:
            raise ValueError(
                f"ClipConfig.overlap: expected less than length, {self.length}, got {self.overlap}"
            )


ENSEMBLES = ("none", "mirror", "scales")


@dataclass(frozen=True)
class ProposalConfig(Stage):
    """The class-agnostic Mask R-CNN of Section 3.1."""

    weights: str = setting(
        "",
        "file (safetensors, or a .pth of torchvision's Mask R-CNN R50-FPN) or a name that was "
        "pulled; '' takes the bundled seed network",
        fixed=True,
    )
    detectron2_config: str = setting(
        "",
        "YAML of the detectron2 model whose checkpoint `weights` is; published versions need none",
        fixed=True,
    )
    max_proposals: int = setting(15, "N, the best by score after NMS", low=1, high=1000, fixed=True)
    score_threshold: float = setting(
        0.0, "the paper's 0: keep every detection", low=0.0, below=1.0, fixed=True
    )
    nms_iou: float = setting(
        0.5, "box IoU above which the lower score is suppressed", above=0.0, high=1.0, fixed=True
    )
    mask_threshold: float = setting(
        0.5,
        "mask probability from which a pixel belongs to the mask",
        above=0.0,
        below=1.0,
        fixed=True,
    )
    ensemble: str = setting(
        "none",
        "views to agree on a mask: none (the image alone), mirror (2), scales (3 sizes, mirrored)",
        choices=ENSEMBLES,
        fixed=True,
    )
    batch_size: int = setting(8, "frames a forward pass", low=1, fixed=True)
    half: bool = setting(True, "half precision, on a GPU only", fixed=True)


@dataclass(frozen=True)
class BackgroundConfig(Stage):
    """The foreground/background network of Section 3.2.1 and Appendix D.2.1."""

    weights: str = setting("", "safetensors file; '' takes the bundled seed network", fixed=True)
    batch_size: int = setting(8, "frames a forward pass", low=1, fixed=True)
    half: bool = setting(True, "half precision, on a GPU only", fixed=True)


FLOW_BACKENDS = ("auto", "dis", "raft_small", "raft_large")


@dataclass(frozen=True)
class FlowConfig(Stage):
    """The optical flow network g of Section 3.2.2."""

    backend: str = setting(
        "auto",
        "auto: RAFT where `weights` is given, DIS where it is not",
        choices=FLOW_BACKENDS,
        fixed=True,
    )
    weights: str = setting(
        "",
        "RAFT state dict (.safetensors or a .pth of tensors only) or a name that was pulled",
        fixed=True,
    )
    batch_size: int = setting(32, "pairs a forward pass", low=1, fixed=True)
    half: bool = setting(True, "half precision, on a GPU only", fixed=True)

    def check(self) -> None:
        if self.backend.startswith("raft") and not self.weights:
            raise ValueError(
                f"FlowConfig.weights: backend {self.backend!r} needs a weights file, got none"
            )


REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class SelectionConfig(Stage):
    """The objective of Eq. 2 and its two-stage optimisation (Section 3.3)."""

    k: int = setting(10, "K, combinations kept of each frame", low=1)
    overlap_tolerance: float = setting(
        0.05, "intersection over the smaller mask; 0 is the paper", low=0.0, high=1.0
    )
    lambda_background: float = setting(1.0, "weight of L_I", low=0.0)
    lambda_flow: float = setting(1.0, "weight of L_F", low=0.0)
    lambda_regularization: float = setting(0.5, "weight of L_p", low=0.0)
    score_weight: float = setting(0.0, "of the prior from network scores; 0 is the paper", low=0.0)
    neutral_score: float = setting(
        0.5, "a mask with this score is neither favoured nor disfavoured", above=0.0, below=1.0
    )
    score_memory: float = setting(
        0.0,
        "share of a score in that prior that comes from the mask that it follows; 0: every frame "
        "for itself",
        low=0.0,
        below=1.0,
    )
    reduction: str = setting(
        "mean",
        "of L_I over the pixels; mean makes the weights size-independent",
        choices=REDUCTIONS,
    )
    epsilon: float = setting(1e-3, "Bg is clipped to [epsilon, 1 - epsilon]", above=0.0, below=0.5)
    max_flow_runs: int = setting(
        0,
        "of a clip (with a lag, of each new frame), those of a first path apart; the best path "
        "known then; 0: no limit",
        low=0,
    )
    optimality_gap: float = setting(
        0.0, "energy a frame that a better path may save where the search ends; 0 proves", low=0.0
    )
    lag: int = setting(
        -1,
        "live: frames that may come before a frame's masks are out; -1: masks come by whole clips; "
        "read when the selector is activated",
        low=-1,
    )
    exhaustive: bool = setting(False, "evaluate every edge: exact margins, K^2 (T - 1) flow runs")
    confidence_bias: float = setting(
        -1.89, "of the logistic model of a mask's confidence; fitted by benchmarks/terms.py"
    )
    confidence_margin: float = setting(0.004, "its weight of log(1 + 10,000 margin)")
    confidence_score: float = setting(1.025, "its weight of logit(network score)")
    seed: int = setting(0, "of the background photograph under the composites (Appendix C)", low=0)


@dataclass(frozen=True)
class MotionConfig(Stage):
    """What moves against its surroundings (`perception.motion`); not in the paper."""

    weight: float = setting(
        1.0, "of its log-odds beside those of the background network; 0 is the paper", low=0.0
    )
    baseline_s: float = setting(
        0.5, "between two frames whose motion is compared, seconds", above=0.0, high=10.0
    )


@dataclass(frozen=True)
class OutlineConfig(Stage):
    """Where selected masks end."""

    method: str = setting(
        "grabcut",
        "grabcut: drawn anew on the image; network: as they were proposed (paper)",
        choices=("grabcut", "network"),
    )


@dataclass(frozen=True)
class TrackConfig(Stage):
    """Linking the selected masks of a recording to tracks, for the DAVIS metrics."""

    warp: bool = setting(
        False,
        "move masks along the optical flow before they are compared; true masks of the six DAVIS "
        "sequences that were tried link as well without",
    )
    min_iou: float = setting(
        0.3, "a mask may continue a track from this IoU on", above=0.0, high=1.0
    )
    max_gap: int = setting(5, "frames that a track may miss and still go on", low=0)
    max_tracks: int = setting(20, "of a recording, best first; DAVIS allows 20", low=1, high=254)


@dataclass(frozen=True)
class AugmentConfig(Stage):
    """Augmentation of training images; every probability is per image."""

    scale_min: float = setting(0.6, "of the image, before crop or pad back to its size", above=0.0)
    scale_max: float = setting(1.6, "of the image", above=0.0)
    copy_paste: float = setting(
        0.3, "probability of pasting instances of another image", low=0.0, high=1.0
    )
    flip: float = setting(0.5, "probability of a horizontal flip", low=0.0, high=1.0)
    colour: float = setting(0.8, "probability of colour jitter", low=0.0, high=1.0)
    brightness: float = setting(0.35, "relative", low=0.0, high=1.0)
    contrast: float = setting(0.35, "relative", low=0.0, high=1.0)
    saturation: float = setting(0.5, "relative", low=0.0, high=1.0)
    hue: float = setting(
        0.5, "of the colour circle; objects of any class come in any colour", low=0.0, high=1.0
    )
    grey: float = setting(
        0.1, "probability, given colour jitter, of a grey image", low=0.0, high=1.0
    )
    blur: float = setting(
        0.15, "probability of Gaussian blur, sigma up to 1.2 pixels", low=0.0, high=1.0
    )
    noise: float = setting(
        0.2, "probability of Gaussian noise, up to 12 grey levels", low=0.0, high=1.0
    )
    min_pixels: int = setting(
        40, "of an instance in the image; smaller remains of one are left out", low=1
    )

    def check(self) -> None:
        if self.scale_min > self.scale_max:
            raise ValueError(
                f"AugmentConfig.scale_min: expected at most scale_max, {self.scale_max}, "
                f"got {self.scale_min}"
            )


OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True)
class PretrainConfig(Stage):
    """Supervised training of the seed networks on labelled data (Appendix D)."""

    proposal_architecture: str = setting("slim18-fpn", "the paper: resnet50-fpn", fixed=True)
    background_architecture: str = setting(
        "slim18-semantic-fpn",
        "the paper: timm:resnest200e; timm:NAME is a semantic FPN on a backbone of timm",
        fixed=True,
    )
    proposal_backbone: str = setting(
        "", "ImageNet weights to start from, a torchvision state dict; '' starts at random"
    )
    background_backbone: str = setting(
        "", "the same; '' starts from the backbone of the proposals where it fits"
    )
    iterations: int = setting(
        2600, "optimiser steps of the proposal network (paper: 90,000)", low=1
    )
    background_iterations: int = setting(800, "optimiser steps of the background network", low=1)
    batch_size: int = setting(8, "images a step, of all processes together", low=1)
    optimizer: str = setting("adamw", "the paper: sgd", choices=OPTIMIZERS)
    learning_rate: float = setting(1e-3, "peak of the schedule", above=0.0)
    momentum: float = setting(0.9, "of sgd", low=0.0, below=1.0)
    weight_decay: float = setting(0.05, "biases and normalisation have none", low=0.0)
    warmup: int = setting(300, "steps of linear warm-up", low=0)
    drops: str = setting(
        "", "steps at which the learning rate falls to a tenth, such as 60000,80000; '': a cosine"
    )
    background_drops: str = setting("", "the same for the background network")
    average: float = setting(
        0.999, "decay of the exponential moving average of the weights", low=0.0, below=1.0
    )
    shrink: float = setting(
        1.0, "smallest scale of a training image, of the network's input size", above=0.0, high=1.0
    )
    loaders: int = setting(0, "processes that load images ahead; 0: loaded between steps", low=0)
    checkpoint_every: int = setting(200, "steps between checkpoints to resume from", low=1)
    seed: int = setting(0, "of the first weights, order of the batches, augmentation", low=0)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def check(self) -> None:
        for name in ("drops", "background_drops"):
            try:
                steps = drop_steps(getattr(self, name))
            except ValueError:
                steps = (0,)
            if any(a >= b for a, b in pairwise((0, *steps))):
                raise ValueError(
                    f"PretrainConfig.{name}: expected increasing steps such as 60000,80000, "
                    f"got {getattr(self, name)!r}"
                )


def drop_steps(text: str) -> tuple[int, ...]:
    """The steps in a list such as `60000,80000`. Raises ValueError if one is no whole number."""
    return tuple(int(step) for step in text.split(",")) if text else ()


@dataclass(frozen=True)
class LearningConfig(Stage):
    """Fine-tuning on selected masks with rehearsal (Section 4, Appendix D.1)."""

    iterations: int = setting(300, "optimiser steps of a round (paper: 1000)", low=1)
    batch_size: int = setting(8, "images a step (paper: 16)", low=1)
    rehearsal_share: float = setting(
        0.5, "of each batch that comes from labelled seen data", low=0.0, high=1.0
    )
    optimizer: str = setting("sgd", "paper: sgd", choices=OPTIMIZERS)
    learning_rate: float = setting(0.002, "paper, for sgd; adamw wants about a tenth", above=0.0)
    momentum: float = setting(0.9, "of sgd (paper)", low=0.0, below=1.0)
    weight_decay: float = setting(1e-4, "paper", low=0.0)
    outlines: bool = setting(
        True, "selected masks teach boxes and masks too (paper), not only what is an object"
    )
    warmup: int = setting(20, "steps of linear warm-up", low=0)
    parent_share: float = setting(
        0.0, "of the parent in the average of its weights and the trained ones", low=0.0, below=1.0
    )
    recurrence: bool = setting(
        True,
        "masks are surer where other clips selected what looks like them, and less sure where its "
        "surroundings come again too; not in the paper",
    )
    min_confidence: float = setting(
        0.5,
        "less sure masks are left out, though never more than half of them (paper: 0)",
        low=0.0,
        high=1.0,
    )
    max_bytes: int = setting(2_000_000_000, "of images that the training set keeps", low=1)
    policy: str = setting(
        "balanced",
        "what leaves a full training set: oldest (clips first), balanced (thin out the longest)",
        choices=("oldest", "balanced"),
    )
    gate_margin: float = setting(
        1.0,
        "seen AP points that a new version may lose on the probe set, against its parent and "
        "against the network that learning began with",
        low=0.0,
    )
    gate_worst: float = setting(
        5.0, "seen AP points; that a version lost them must be excluded at 95 %", above=0.0
    )
    gate_agreement: float = setting(
        0.5,
        "share of the selected masks that the parent must propose, in every part of the set",
        low=0.0,
        high=1.0,
    )
    keep_versions: int = setting(
        10, "newest versions that the store keeps, beside the first and the one in service", low=2
    )
    seed: int = setting(0, "order of the batches, augmentation", low=0)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class AdaptConfig(Stage):
    """Teaching the background network a place (`learning.adapt`); not in the paper."""

    frames: int = setting(240, "views of the place at most, spread over the recording", low=1)
    rounds: int = setting(2, "of expectation maximisation", low=1)
    iterations: int = setting(100, "optimiser steps a round", low=1)
    batch_size: int = setting(8, "images a step", low=2)
    rehearsal_share: float = setting(
        0.25, "of each batch that comes from labelled seen data", low=0.0, below=1.0
    )
    learning_rate: float = setting(2e-4, "of AdamW, falling to 0 in every round", above=0.0)
    gate_margin: float = setting(
        0.02, "cross-entropy, nats a pixel, that the network may lose on the probe set", low=0.0
    )
    seed: int = setting(0, "order of the batches", low=0)


@dataclass(frozen=True)
class Config(Stage):
    """All stages."""

    clip: ClipConfig = field(default_factory=ClipConfig)
    proposal: ProposalConfig = field(default_factory=ProposalConfig)
    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    outline: OutlineConfig = field(default_factory=OutlineConfig)
    tracks: TrackConfig = field(default_factory=TrackConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    device: str = setting(
        "auto", "auto (the GPU where there is one), cpu, cuda, cuda:1 and so on", fixed=True
    )

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
