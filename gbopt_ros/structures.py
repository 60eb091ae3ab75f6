"""The vocabulary: what crosses from one stage to another, validated when it is made.

Shape letters, here and everywhere: T frames of a clip, N candidate masks of a frame, K mask
combinations of a frame, H, W pixels. Images are RGB uint8, boxes are xyxy pixels unless a name
says otherwise, times are nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]
"""(H, W) bool."""

Image = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB."""


class GboptError(Exception):
    """A failure that the user can act on; its text is one line that says what to do."""


class Rle(TypedDict):
    """A COCO run-length encoded mask: `size` (height, width) and compressed `counts` (ASCII)."""

    size: list[int]
    counts: str


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Frame:
    """One camera image.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        stamp_ns: capture time, nanoseconds.
        index: position in the recording before any stride, counted from 0.
        frame_id: coordinate frame of the ROS header, "" where the source has none.
    """

    image: Image = field(repr=False)
    stamp_ns: int
    index: int
    frame_id: str = ""

    def __post_init__(self) -> None:
        shape, dtype = self.image.shape, self.image.dtype
        _require(
            len(shape) == 3 and shape[2] == 3 and dtype == np.uint8,
            f"Frame.image: expected (H, W, 3) uint8, got {shape} {dtype}",
        )
        _require(shape[0] > 0 and shape[1] > 0, f"Frame.image is empty: {shape}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]


class ClipEnd(Enum):
    """Why a clip ends where it does."""

    LENGTH = "it has its full length"
    GAP = "the next frame came too late"
    SIZE = "the next frame has another size"
    STAMP = "the next stamp jumped back"
    STREAM = "the stream ended"


@dataclass(frozen=True)
class Clip:
    """T consecutive frames of one size with strictly increasing stamps, T >= 1."""

    clip_id: int
    frames: tuple[Frame, ...] = field(repr=False)
    end: ClipEnd = ClipEnd.STREAM

    def __post_init__(self) -> None:
        _require(len(self.frames) > 0, "Clip.frames: expected at least one frame, got none")
        sizes = {frame.size for frame in self.frames}
        _require(len(sizes) == 1, f"Clip.frames: expected one image size, got {sorted(sizes)}")
        stamps = [frame.stamp_ns for frame in self.frames]
        _require(
            all(a < b for a, b in pairwise(stamps)),
            "Clip.frames: stamps must increase",
        )

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.frames[0].size


@dataclass(frozen=True)
class Calibration:
    """The logistic model of a mask's confidence that was fitted for a proposal network.

    log-odds = bias + margin * log(1 + 10,000 m) + score * logit(s), with m the margin of the mask
    and s its network score, see `selection.confidence`.
    """

    bias: float
    margin: float
    score: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            _require(
                bool(np.isfinite(value)), f"Calibration.{name}: expected a number, got {value}"
            )


@dataclass(frozen=True)
class Proposals:
    """The N candidate masks of one frame, best score first.

    Masks are kept run-length encoded: a clip of 180 VGA frames with 15 candidates each would
    otherwise hold 830 MB. `masks.decode` gives them as (N, H, W) bool.

    Attributes:
        size: (height, width) of the frame.
        rles: N COCO RLEs.
        scores: (N,) float32 in [0, 1], descending.
        boxes: (N, 4) float32, xyxy pixels, as the network predicted them.
        calibration: how confidences follow for this network; None where it was not fitted.
    """

    size: tuple[int, int]
    rles: tuple[Rle, ...] = field(repr=False)
    scores: NDArray[np.float32] = field(repr=False)
    boxes: NDArray[np.float32] = field(repr=False)
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        n = len(self.rles)
        _require(
            self.scores.shape == (n,), f"Proposals.scores: expected ({n},), got {self.scores.shape}"
        )
        _require(
            self.boxes.shape == (n, 4),
            f"Proposals.boxes: expected ({n}, 4), got {self.boxes.shape}",
        )
        _require(
            bool(np.all(np.isfinite(self.scores)) and np.all(np.isfinite(self.boxes))),
            "Proposals: scores and boxes must be finite",
        )
        _require(
            bool(np.all(np.diff(self.scores) <= 0)), "Proposals.scores must be in descending order"
        )
        for rle in self.rles:
            _require(
                tuple(rle["size"]) == tuple(self.size),
                f"Proposals.rles: expected size {self.size}, got {rle['size']}",
            )

    def __len__(self) -> int:
        return len(self.rles)


@dataclass(frozen=True)
class Cues:
    """What the three networks say of a clip of T frames.

    Attributes:
        proposals: T times the candidates of a frame.
        backgrounds: T arrays (H, W) float32, probability that a pixel belongs to no object.
        flows: T - 1 arrays (H, W, 2) float32, pixels (x, y), between consecutive frames.
    """

    proposals: Sequence[Proposals] = field(repr=False)
    backgrounds: Sequence[NDArray[np.float32]] = field(repr=False)
    flows: Sequence[NDArray[np.float32]] = field(repr=False)


@dataclass(frozen=True)
class Combination:
    """A set of candidates that are selected together in one frame.

    Attributes:
        indices: sorted candidate indices; () selects nothing.
        loss: background loss L_I (Eq. 3).
    """

    indices: tuple[int, ...]
    loss: float

    def __post_init__(self) -> None:
        _require(
            list(self.indices) == sorted(set(self.indices)),
            f"Combination.indices: expected sorted and distinct, got {self.indices}",
        )
        _require(bool(np.isfinite(self.loss)), f"Combination.loss must be finite: {self.loss}")


@dataclass(frozen=True)
class FrameEnergy:
    """The terms of Eq. 2 that one frame adds to the energy of its clip, already weighted.

    `background` holds the prior from the network's scores too, where one is configured. `flow`
    and `regularization` belong to the pair (t, t + 1); both are 0 on the last frame.
    """

    background: float
    flow: float
    regularization: float

    @property
    def total(self) -> float:
        return self.background + self.flow + self.regularization


@dataclass(frozen=True)
class FrameSelection:
    """What was selected in one frame: S masks, no two of which share a pixel.

    Attributes:
        frame: the frame itself.
        indices: S sorted candidate indices into the frame's proposals.
        rles: S COCO RLEs; each shared pixel went to the mask with the higher score, and outlines
            may have been drawn anew since the candidates were proposed.
        boxes: (S, 4) float32, xyxy pixels, tight around `rles`.
        scores: (S,) float32, network scores.
        margins: (S,) float64, min-marginals: what the best path without the mask costs more;
            a lower bound where edges of that path were not evaluated.
        confidences: (S,) float32 in [0, 1], how probable it is that a mask shows an object.
        energy: the frame's share of the clip's energy.
    """

    frame: Frame
    indices: tuple[int, ...]
    rles: tuple[Rle, ...] = field(repr=False)
    boxes: NDArray[np.float32] = field(repr=False)
    scores: NDArray[np.float32] = field(repr=False)
    margins: NDArray[np.float64] = field(repr=False)
    confidences: NDArray[np.float32] = field(repr=False)
    energy: FrameEnergy

    def __post_init__(self) -> None:
        s = len(self.indices)
        for name, got, expected in (
            ("rles", (len(self.rles),), (s,)),
            ("boxes", self.boxes.shape, (s, 4)),
            ("scores", self.scores.shape, (s,)),
            ("margins", self.margins.shape, (s,)),
            ("confidences", self.confidences.shape, (s,)),
        ):
            _require(got == expected, f"FrameSelection.{name}: expected {expected}, got {got}")

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Selection:
    """The jointly selected masks of one clip.

    Attributes:
        clip_id: the clip's number in its recording.
        frames: T frame selections.
        energy: value of Eq. 2 on the selected path, last frame's L_I included.
        lower_bound: no path over the K combinations of each frame costs less.
        optimal: `energy` was proven equal to the minimum.
        flow_runs: flow network evaluations on synthetic pairs; exhaustive search takes at most
            K^2 (T - 1).
        model_version: version of the proposal network, "" if it has none.
    """

    clip_id: int
    frames: tuple[FrameSelection, ...] = field(repr=False)
    energy: float
    lower_bound: float
    optimal: bool
    flow_runs: int
    model_version: str = ""

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def mask_count(self) -> int:
        return sum(len(frame) for frame in self.frames)


@dataclass(frozen=True)
class LabelledImage:
    """An image with its M instance masks, whoever made them.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        rles: M COCO RLEs.
        ignore_regions: COCO RLEs of regions that may hold an object or not; learning neither
            rewards nor penalises a detection there.
    """

    image: Image = field(repr=False)
    rles: tuple[Rle, ...] = field(repr=False)
    ignore_regions: tuple[Rle, ...] = field(default=(), repr=False)


class ProposalNetwork(Protocol):
    """Class-agnostic instance segmentation at score threshold 0."""

    @property
    def version(self) -> str: ...

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        """At most N candidates for each image; images may differ in size."""
        ...


class BackgroundNetwork(Protocol):
    """Probability that a pixel belongs to no object, Bg(I) of Eq. 3."""

    def background(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        """(H, W) float32 in [0, 1] for each image."""
        ...


class FlowNetwork(Protocol):
    """Optical flow g of Section 3.2.2."""

    def flow(self, first: Sequence[Image], second: Sequence[Image]) -> NDArray[np.float32]:
        """(B, H, W, 2) float32, pixels (x, y), from each of B first images to its second."""
        ...
