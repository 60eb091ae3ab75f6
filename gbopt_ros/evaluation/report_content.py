"""The content of a report: dataclasses that a run fills in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gbopt_ros.evaluation.coco_metrics import InstanceMetrics
from gbopt_ros.evaluation.mask_quality import MaskQuality, PrecisionRecallCurve
from gbopt_ros.structures import FrameEnergy, Image


@dataclass(frozen=True)
class MetricsTable:
    """Metrics of networks on one split; two rows or more get a row of last minus first."""

    title: str
    rows: Mapping[str, InstanceMetrics]
    note: str = ""


@dataclass(frozen=True)
class StripFrame:
    """One frame with its proposals and with its selected masks drawn, (H, W, 3) RGB."""

    caption: str
    proposals: Image
    selected: Image


@dataclass(frozen=True)
class ClipStrip:
    """A few frames of one clip."""

    title: str
    frames: tuple[StripFrame, ...]


@dataclass(frozen=True)
class StillTriplet:
    """One labelled image with masks drawn three times, (H, W, 3) RGB."""

    caption: str
    before: Image
    after: Image
    ground_truth: Image


@dataclass(frozen=True)
class ClipEnergies:
    """The weighted terms of Eq. 2 for every frame of one clip."""

    title: str
    frames: tuple[FrameEnergy, ...]


@dataclass(frozen=True)
class ThresholdComparison:
    """Selected masks against the proposals thresholded at every score, at one IoU."""

    curve: PrecisionRecallCurve
    selected: MaskQuality
    iou: float = 0.5


@dataclass(frozen=True)
class FramePair:
    """One frame with the masks selected before and after, (H, W, 3) RGB; None: nothing learnt."""

    caption: str
    before: Image
    after: Image | None


@dataclass(frozen=True)
class FoundMask:
    """A mask that was not found before, in its surroundings, (H, W, 3) RGB."""

    caption: str
    picture: Image


@dataclass(frozen=True)
class SelectionNumbers:
    """What one network selected in a recording.

    Attributes:
        confidences: of all masks, in [0, 1].
        masks: number of masks of every frame.
        energies: energy of every clip, and whether it was proven to be the minimum.
    """

    confidences: tuple[float, ...]
    masks: tuple[int, ...]
    energies: tuple[tuple[float, bool], ...]


@dataclass(frozen=True)
class Command:
    """A command to go on with, and what it is for."""

    purpose: str
    line: str


@dataclass(frozen=True)
class ReportContent:
    """The content of a report. Empty parts are left out of the page.

    Attributes:
        title: heading.
        summary: sentences below the heading, the result first.
        pairs, found: the recording before and after; `found_note` says how many were found.
        selections: "before" and "after", or "before" alone -> numbers that are drawn.
        tables: shown side by side.
        losses: values of every optimiser step by name.
        commands: shown near the end.
        facts: title of a group -> name -> value, such as seconds, versions, seeds, counts.
    """

    title: str
    summary: tuple[str, ...] = ()
    pairs: tuple[FramePair, ...] = ()
    found: tuple[FoundMask, ...] = ()
    found_note: str = ""
    selections: Mapping[str, SelectionNumbers] = field(default_factory=dict)
    tables: tuple[MetricsTable, ...] = ()
    clips: tuple[ClipStrip, ...] = ()
    stills: tuple[StillTriplet, ...] = ()
    comparison: ThresholdComparison | None = None
    losses: Mapping[str, Sequence[float]] = field(default_factory=dict)
    energies: tuple[ClipEnergies, ...] = ()
    commands: tuple[Command, ...] = ()
    facts: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
