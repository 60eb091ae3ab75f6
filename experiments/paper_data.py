"""The tables of `experiments.paper`, and their data: Unseen-VIS, COCO 2017 and DAVIS 2017."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from experiments.cache import digest, digest_of_files
from experiments.tabletop import first
from experiments.training_masks import label_of
from gbopt_ros.evaluation.coco_metrics import METRICS, SIZES
from gbopt_ros.evaluation.davis_metrics import DavisMetrics
from gbopt_ros.io.datasets.coco import (
    ANNOTATIONS_NAME,
    COCO_SPLIT,
    IMAGES_NAME,
    CocoDataset,
    load_coco,
    load_coco_dir,
)
from gbopt_ros.io.datasets.davis import DavisSequence, load_davis, object_masks
from gbopt_ros.io.datasets.unseen_vis import UnseenVisConfig, build_unseen_vis
from gbopt_ros.io.sources import open_source
from gbopt_ros.io.sources.base import Source
from gbopt_ros.structures import GboptError, Rle

RVOS = "rvos"  # stands for the masks of --rvos
UNSEEN, COCO = "unseen", "COCO"  # what stills of a table show
_YES = "✓"
_FEW_VIDEOS, _FEW_STILLS = 2, 4  # of each split in a smoke test

Cell = float | str | None
"""Percent, what is missing, or None for a metric that nothing counts for."""


class CellError(GboptError):
    """A cell has no number; the text of the error stands there in its place."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        method: what masks the network learns, a name of `training_masks.METHODS` or `RVOS`.
        paper: the paper's number of the table's first metric.
        marks: texts of the columns before the metrics.
        retrain: train from the start on COCO and the masks, in place of fine-tuning.
        label: what the table calls it, by default the name of the method.
    """

    method: str
    paper: float
    marks: tuple[str, ...] = ()
    retrain: bool = False
    label: str = ""

    @property
    def title(self) -> str:
        return self.label or ("RVOS" if self.method == RVOS else label_of(self.method))


@dataclass(frozen=True)
class Table:
    """A table of the paper; `metrics` are its columns of numbers, by what they are measured on."""

    title: str
    metrics: Mapping[str, tuple[str, ...]]
    rows: tuple[Row, ...]
    marks: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The headers of the numbers."""
        return [f"{on} {name}".strip() for on, names in self.metrics.items() for name in names]

    def markdown(self, number: int, rows: Sequence[Mapping[str, Any]]) -> str:
        """The table, percent; a row has label, marks, `cells` by their columns, and `paper`."""
        header = ["", *self.marks, *self.columns, f"paper: {self.columns[0]}"]
        rule = "|---" * (1 + len(self.marks)) + "|---:" * (len(self.columns) + 1) + "|"
        lines = [f"**Table {number}.** {self.title}", "", f"| {' | '.join(header)} |", rule]
        for row in rows:
            marks = [row[mark] for mark in self.marks]
            cells = [row["cells"][column] for column in self.columns]
            shown = [_shown(cell) for cell in (*cells, row["paper"])]
            lines.append(f"| {' | '.join([row['label'], *marks, *shown])} |")
        return "\n".join(lines) + "\n"


def _shown(cell: Cell) -> str:
    return cell if isinstance(cell, str) else "" if cell is None else f"{cell:.1f}"


_ON_UNSEEN = {UNSEEN: METRICS}
_DAVIS_METRICS = {"": tuple(DavisMetrics.__dataclass_fields__)}
_BEFORE, _OURS = Row("before", 35.8, label="before fine-tuning"), Row("ours", 39.0)
TABLES = {
    1: Table(
        "Mask generation without video annotation", _ON_UNSEEN,
        (
            _BEFORE, Row("nlc", 1.2), Row("ioa", 2.4), Row("fst", 17.0), Row("unovost", 31.1),
            Row("twb", 31.2), Row("distillation", 36.6), Row("zs-uvc", 21.2), _OURS,
        ),
    ),
    2: Table(
        "Mask generation with video annotations", _ON_UNSEEN,
        (
            replace(_BEFORE, marks=("", "")), Row(RVOS, 38.5, (_YES, "")),
            replace(_OURS, marks=("", "")), Row("os-uvc", 41.5, ("", _YES)),
            Row("gt", 42.7, ("", _YES)), Row("truth", 50.8, ("", _YES)),
        ),
        ("seen labels", "unseen labels"),
    ),
    3: Table(
        "Zero-shot video object segmentation on DAVIS", _DAVIS_METRICS,
        (
            Row("before", 56.2, ("",), label="UnOVOST"),
            Row("ours", 59.9, (_YES,), label="UnOVOST+"),
        ),
        ("unlabelled video",),
    ),
    4: Table(
        "Ablation", _ON_UNSEEN,
        (
            _BEFORE, Row("L_I", 36.6), Row("constraint", 38.1), Row("L_F", 38.7), Row("L_p", 39.0),
        ),
    ),
    5: Table(
        "Training strategies", {UNSEEN: METRICS, COCO: ("AP", "AP50", "AP75", *SIZES)},
        (
            Row("before", 35.8, ("",), label="COCO alone"),
            Row("truth", 51.2, ("retrain",), retrain=True),
            Row("ours", 38.9, ("retrain",), retrain=True),
            Row("truth", 50.8, ("finetune",)), Row("ours", 39.0, ("finetune",)),
        ),
        ("strategy",),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Stills:
    """Labelled stills.

    Attributes:
        folder: COCO folder, or the released COCO.
        split: name of the split of the released COCO.
        few: only the first images, for a smoke test.
    """

    folder: Path
    split: str = COCO_SPLIT
    few: bool = False

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the labels; images of the same name count as the same."""
        own = self.folder / ANNOTATIONS_NAME
        released = self.folder / "annotations" / f"instances_{self.split}.json"
        return digest([digest_of_files(own if own.is_file() else released), self.few])

    @cached_property
    def dataset(self) -> CocoDataset:
        """Labels and images."""
        whole = load_coco_dir(self.folder, self.split)
        return first(whole, _FEW_STILLS) if self.few else whole


@dataclass(frozen=True)
class LabelledVideo:
    """A folder of frames, some of them labelled; a `recordings.Recording`."""

    folder: Path
    truth: Mapping[int, tuple[Rle, ...]] = field(repr=False)

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def digest(self) -> str:
        return digest([digest_of_files(self.folder), list(self.truth.items())])

    def open(self) -> Source:
        return open_source(self.folder)


@dataclass(frozen=True)
class DavisVideo:
    """A sequence of DAVIS with its frames; a `recordings.Recording`."""

    folder: Path
    sequence: DavisSequence

    @property
    def name(self) -> str:
        return self.sequence.name

    @cached_property
    def digest(self) -> str:
        return digest_of_files(self.folder, *self.sequence.masks)

    @cached_property
    def truth(self) -> dict[int, tuple[Rle, ...]]:
        labels = zip(self.sequence.frame_indices, self.sequence.labels(), strict=True)
        return {index: tuple(object_masks(label).values()) for index, label in labels}

    def open(self) -> Source:
        return open_source(self.folder)


@dataclass(frozen=True)
class PaperData:
    """All data of the tables. What was not given raises `CellError` when it is asked for.

    Attributes:
        out: folder that Unseen-VIS is built below.
        quick: a few videos and stills of each, for a smoke test.
    """

    youtube_vis: Path | None
    all_frames: Path | None
    coco: Path | None
    davis: Path | None
    out: Path
    quick: bool = False

    @cached_property
    def unseen_vis(self) -> Path:
        """The folder of Unseen-VIS, built if it is not there yet."""
        source = _given(self.youtube_vis, "--youtube-vis").resolve()
        frames = self.all_frames.resolve() if self.all_frames else None
        folder = self.out / f"unseen-vis-{digest([source, frames, self.quick])[:8]}"
        if not folder.exists():
            few = {"train_videos": _FEW_VIDEOS, "test_videos": 1} if self.quick else {}
            build_unseen_vis(source, folder, UnseenVisConfig(all_frames=frames, **few))
        return folder

    @cached_property
    def unseen_train(self) -> list[LabelledVideo]:
        """The videos that masks are made for."""
        folder = self.unseen_vis / "train"
        labels = load_coco(folder / ANNOTATIONS_NAME)
        by_video: dict[str, dict[int, tuple[Rle, ...]]] = {}
        for image in labels.images:
            of_video = by_video.setdefault(image.extra["video"], {})
            of_video[image.extra["frame_index"]] = labels.rles_by_image[image.id]
        return [
            LabelledVideo(folder / IMAGES_NAME / name, truth) for name, truth in by_video.items()
        ]

    @cached_property
    def unseen_test(self) -> Stills:
        """The stills that networks are judged on."""
        return Stills(self.unseen_vis / "test", few=self.quick)

    @cached_property
    def coco_train(self) -> Stills:
        """What the network was trained on."""
        return Stills(_given(self.coco, "--coco"), few=self.quick)

    @cached_property
    def coco_val(self) -> Stills:
        """The stills that tell what of it was forgotten."""
        return Stills(_given(self.coco, "--coco"), "val2017", self.quick)

    @cached_property
    def davis_train(self) -> list[DavisVideo]:
        return self._davis("train")

    @cached_property
    def davis_val(self) -> list[DavisVideo]:
        return self._davis("val")

    def _davis(self, subset: str) -> list[DavisVideo]:
        folder, resolution = _given(self.davis, "--davis"), "480p"
        sequences = load_davis(folder, subset, resolution)
        return [
            DavisVideo(folder / "JPEGImages" / resolution / sequence.name, sequence)
            for sequence in islice(sequences, _FEW_VIDEOS if self.quick else None)
        ]


def _given(folder: Path | None, option: str) -> Path:
    if folder is None:
        raise CellError(f"needs {option}")
    return folder
