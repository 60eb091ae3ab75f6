"""The vocabulary: all data that modules exchange, validated when it is made.

Shape letters everywhere: T frames of a clip, N candidate masks of a frame, K mask combinations of
a frame, H, W pixels. Images are RGB uint8, boxes are xyxy pixels unless a name says otherwise,
times are nanoseconds.
"""

from __future__ import annotations

import math
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
    """A failure that the user can act on; the message is one line that says what to do."""


def first_line(error: Exception) -> str:
    """Class and first line of an error of another library, to be told in a `GboptError`."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


class Rle(TypedDict):
    """A mask in COCO's run-length encoding: `size` (height, width), compressed `counts` (ASCII)."""

    size: list[int]
    counts: str


def are_probabilities(lowest: float, highest: float) -> bool:
    """Whether values are from 0 to 1; rounding, above all in half precision, may miss it by 0.001.

    False if one of them is not a number.
    """
    return bool(lowest >= -1e-3 and highest <= 1 + 1e-3)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_shapes(owner: object, **expected: tuple[int, ...]) -> None:
    for name, shape in expected.items():
        value = getattr(owner, name)
        got = value.shape if isinstance(value, np.ndarray) else (len(value),)
        _require(got == shape, f"{type(owner).__name__}.{name}: expected {shape}, got {got}")


@dataclass(frozen=True)
class Frame:
    """One camera image.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        stamp_ns: capture time, nanoseconds.
        index: position in the recording before any stride, from 0.
        frame_id: coordinate frame of the ROS header; "" if the source has none.
        file_name: name of its image file; "" if the source is no folder of images.
    """

    image: Image = field(repr=False)
    stamp_ns: int
    index: int
    frame_id: str = ""
    file_name: str = ""

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
    """The reason why a clip ends."""

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
        _require(all(a < b for a, b in pairwise(stamps)), "Clip.frames: stamps must increase")

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.frames[0].size


@dataclass(frozen=True)
class Calibration:
    """A logistic model of the confidence, fitted for one proposal network.

    log-odds = bias + margin * log(1 + 10,000 m) + score * logit(s), where m is the margin of a mask
    and s its network score (see `selection.confidence`).
    """

    bias: float
    margin: float
    score: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            _require(math.isfinite(value), f"Calibration.{name}: expected a number, got {value}")


@dataclass(frozen=True)
class Proposals:
    """The N candidate masks of one frame, best score first.

    Masks are run-length encoded, since a clip of 180 VGA frames with 15 candidates each would take
    830 MB. `masks.decode_all` gives them as (N, H, W) bool.

    Attributes:
        size: (height, width) of the frame.
        rles: N COCO RLEs.
        scores: (N,) float32 in [0, 1], descending.
        boxes: (N, 4) float32, xyxy pixels, as the network predicted them.
        calibration: model of the confidences for this network; None where it was not fitted.
    """

    size: tuple[int, int]
    rles: tuple[Rle, ...] = field(repr=False)
    scores: NDArray[np.float32] = field(repr=False)
    boxes: NDArray[np.float32] = field(repr=False)
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        n = len(self.rles)
        _require_shapes(self, scores=(n,), boxes=(n, 4))
        finite = np.all(np.isfinite(self.scores)) and np.all(np.isfinite(self.boxes))
        _require(bool(finite), "Proposals: scores and boxes must be finite")
        descending = bool(np.all(np.diff(self.scores) <= 0))
        _require(descending, "Proposals.scores must be in descending order")
        low, high = self.scores.min(initial=np.inf), self.scores.max(initial=-np.inf)
        _require(
            are_probabilities(low, high),
            f"Proposals.scores: expected 0 to 1, got {low:g} to {high:g}",
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
    """The outputs of the three networks on a clip of T frames.

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
        loss: background loss L_I (Eq. 3), with the prior from network scores if there is one.
    """

    indices: tuple[int, ...]
    loss: float

    def __post_init__(self) -> None:
        _require(
            list(self.indices) == sorted(set(self.indices)),
            f"Combination.indices: expected sorted and distinct, got {self.indices}",
        )
        _require(math.isfinite(self.loss), f"Combination.loss must be finite: {self.loss}")


@dataclass(frozen=True)
class FrameEnergy:
    """The weighted terms of Eq. 2 that one frame adds to the energy of its clip.

    Attributes:
        background: L_I, with the prior from network scores if there is one.
        flow: L_F of the pair (t, t + 1); 0 on the last frame, and where a frame was decided before
            the next one came.
        regularization: L_p of the pair; 0 as `flow`.
    """

    background: float
    flow: float
    regularization: float

    @property
    def total(self) -> float:
        return self.background + self.flow + self.regularization


@dataclass(frozen=True)
class FrameSelection:
    """The S selected masks of one frame, no two of which share a pixel.

    Attributes:
        frame: the frame.
        indices: S sorted indices into the proposals of the frame.
        rles: S COCO RLEs. A shared pixel belongs to the mask with the higher score, and outlines
            may differ from those of the proposals.
        boxes: (S, 4) float32, xyxy pixels, tight around `rles`.
        scores: (S,) float32, network scores.
        margins: (S,) float64, min-marginals: additional cost of the best path without the mask; a
            lower bound where edges of that path were not evaluated, an estimate where all K
            combinations hold the mask.
        confidences: (S,) float32 in [0, 1], probability that a mask shows an object.
        energy: the terms that the frame adds to the energy of the clip.
        after_cut: whether there is a cut between the frame before and this one.
    """

    frame: Frame
    indices: tuple[int, ...]
    rles: tuple[Rle, ...] = field(repr=False)
    boxes: NDArray[np.float32] = field(repr=False)
    scores: NDArray[np.float32] = field(repr=False)
    margins: NDArray[np.float64] = field(repr=False)
    confidences: NDArray[np.float32] = field(repr=False)
    energy: FrameEnergy
    after_cut: bool = False

    def __post_init__(self) -> None:
        s = len(self.indices)
        _require_shapes(self, rles=(s,), boxes=(s, 4), scores=(s,), margins=(s,), confidences=(s,))

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Selection:
    """The jointly selected masks of one clip.

    Attributes:
        clip_id: number of the clip in its recording.
        frames: T frame selections.
        energy: value of Eq. 2 on the selected path, with L_I of the last frame.
        lower_bound: no path over the K combinations of each frame costs less.
        optimal: whether `energy` was proven to be the minimum; in a crowd the search for the K
            combinations may come to its limit, which leaves it unproven.
        flow_runs: number of flow evaluations on composites, at most K^2 (T - 1).
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
    """An image with its M instance masks.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        rles: M COCO RLEs.
        ignore_regions: COCO RLEs of regions where learning neither rewards nor penalises a
            detection.
        complete: whether every object has a mask; False if only objects of some classes have.
        foreground: (H, W) uint8, a teacher's probability of an object, times 255; None without one.
        rejected: COCO RLEs of regions that show no object, as a person says.
    """

    image: Image = field(repr=False)
    rles: tuple[Rle, ...] = field(repr=False)
    ignore_regions: tuple[Rle, ...] = field(default=(), repr=False)
    complete: bool = True
    foreground: NDArray[np.uint8] | None = field(default=None, repr=False)
    rejected: tuple[Rle, ...] = field(default=(), repr=False)


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
