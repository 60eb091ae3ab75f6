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
class ReportContent:
    """The content of a report. Empty parts are left out of the page.

    Attributes:
        title: heading.
        summary: sentences below the heading, the result first.
        tables: shown side by side.
        losses: values of every optimiser step by name.
        facts: title of a group -> name -> value, such as seconds, versions, seeds, counts.
    """

    title: str
    summary: tuple[str, ...] = ()
    tables: tuple[MetricsTable, ...] = ()
    clips: tuple[ClipStrip, ...] = ()
    stills: tuple[StillTriplet, ...] = ()
    comparison: ThresholdComparison | None = None
    losses: Mapping[str, Sequence[float]] = field(default_factory=dict)
    energies: tuple[ClipEnergies, ...] = ()
    facts: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
