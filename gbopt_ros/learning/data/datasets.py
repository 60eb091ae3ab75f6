"""Datasets of labelled images that batches are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Protocol

import numpy as np

from gbopt_ros.io.datasets.coco import CocoDataset
from gbopt_ros.io.sources.images import read_image
from gbopt_ros.learning.data.teacher_maps import read_map
from gbopt_ros.learning.data.verdicts import StoredFrame, Verdict
from gbopt_ros.structures import GboptError, LabelledImage, Rle


class InstanceDataset(Protocol):
    """Labelled images that are loaded one at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LabelledImage: ...


class CocoInstances:
    """The images of a COCO dataset that have at least one instance, decoded when drawn.

    Args:
        complete: whether every object has a mask; COCO's images show many that have none.
        teacher: folder of `write_teacher_maps`.
    """

    def __init__(
        self, dataset: CocoDataset, complete: bool = True, teacher: Path | None = None
    ) -> None:
        self._dataset, self._complete, self._teacher = dataset, complete, teacher
        self._images = [image for image in dataset.images if dataset.rles_by_image[image.id]]
        if not self._images:
            raise GboptError(
                f"{dataset.image_dir}: no image has an instance; there is nothing to learn from"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> LabelledImage:
        image = self._images[index]
        labelled = replace(self._dataset.labelled(image), complete=self._complete)
        if self._teacher is None:
            return labelled
        return replace(labelled, foreground=read_map(self._teacher, image.file_name))


class Photographs:
    """Images without any label: all that is known of them is what a teacher sees.

    Args:
        paths: image files of one folder.
        teacher: folder of `write_teacher_maps`.
    """

    def __init__(self, paths: Sequence[Path], teacher: Path) -> None:
        self._paths, self._teacher = paths, teacher

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> LabelledImage:
        path = self._paths[index]
        foreground = read_map(self._teacher, path.name)
        return LabelledImage(read_image(path), (), complete=False, foreground=foreground)


@dataclass(frozen=True)
class SelectedImage:
    """An image file with its selected masks.

    Attributes:
        confidences: one of each mask, in [0, 1].
        stamp_ns: capture time, nanoseconds.
        model_version: version of the network that proposed the masks, "" if it is not known.
        verified: whether a person vouches for each mask; () where nobody looked.
        rejected: masks that a person found to show no object.
    """

    path: Path
    rles: tuple[Rle, ...]
    confidences: tuple[float, ...]
    recording: str = ""
    clip_id: int = 0
    stamp_ns: int = 0
    model_version: str = ""
    verified: tuple[bool, ...] = ()
    rejected: tuple[Rle, ...] = ()

    @classmethod
    def of(cls, frame: StoredFrame) -> SelectedImage:
        """What is learnt from a frame of the training set."""
        is_verified = [mask.verdict == Verdict.VERIFIED for mask in frame.selected]
        return cls(
            frame.path,
            tuple(mask.rle for mask in frame.selected),
            tuple(1.0 if sure else mask.confidence
                  for mask, sure in zip(frame.selected, is_verified, strict=True)),
            frame.recording,
            frame.clip_id,
            frame.stamp_ns,
            frame.model_version,
            tuple(is_verified) if frame.is_judged else (),
            tuple(mask.rle for mask in frame.masks if mask.verdict == Verdict.REJECTED),
        )  # fmt: skip

    @property
    def sure(self) -> tuple[bool, ...]:
        """Whether a person vouches for each mask."""
        return self.verified or (False,) * len(self.rles)

    @property
    def is_judged(self) -> bool:
        """Whether a person looked at a mask; of the rest of the image nothing is known then."""
        return any(self.verified) or bool(self.rejected)

    def with_confidences(self, confidences: Iterable[float]) -> SelectedImage:
        """The same with other confidences; those of verified masks stay."""
        found = zip(map(float, confidences), self.confidences, self.sure, strict=True)
        return replace(self, confidences=tuple(old if known else new for new, old, known in found))

    def only(self, keep: Sequence[bool]) -> SelectedImage:
        """The same with some of its masks."""
        return replace(
            self,
            rles=tuple(compress(self.rles, keep)),
            confidences=tuple(compress(self.confidences, keep)),
            verified=tuple(compress(self.verified, keep)),
        )


class SelectedDataset:
    """Frames with selected masks, decoded when drawn."""

    def __init__(self, entries: Iterable[SelectedImage]) -> None:
        self.entries = tuple(entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> LabelledImage:
        entry = self.entries[index]
        return LabelledImage(
            read_image(entry.path),
            entry.rles,
            complete=not entry.is_judged,
            rejected=entry.rejected,
        )

    @property
    def instance_count(self) -> int:
        """Number of masks."""
        return sum(len(entry.rles) for entry in self.entries)

    def recordings(self, indices: Iterable[int]) -> list[str]:
        """The names of the recordings of some frames, sorted."""
        return sorted({self.entries[index].recording for index in indices})

    def teachers(self) -> list[str]:
        """The versions of the networks that proposed the masks, as far as known, sorted."""
        return sorted({entry.model_version for entry in self.entries} - {""})

    def with_confidences(self, confidences: Iterable[Iterable[float]]) -> SelectedDataset:
        """The same frames and masks with other confidences, one sequence a frame."""
        return SelectedDataset(
            entry.with_confidences(values)
            for entry, values in zip(self.entries, confidences, strict=True)
        )

    def subsample(self, count: int) -> SelectedDataset:
        """At most `count` frames, evenly spaced; first of all those that a person looked at."""
        judged = [i for i, entry in enumerate(self.entries) if entry.is_judged]
        others = [i for i, entry in enumerate(self.entries) if not entry.is_judged]
        chosen = _evenly(judged, count)
        chosen += _evenly(others, count - len(chosen))
        return SelectedDataset(self.entries[i] for i in sorted(chosen))

    def filter_by_confidence(self, minimum: float) -> SelectedDataset:
        """The masks with at least this confidence, see `confidence_cutoff`.

        No frame stays that has neither such a mask nor a rejected one.
        """
        minimum = confidence_cutoff((e.confidences for e in self.entries), minimum)
        some = (e.only([value >= minimum for value in e.confidences]) for e in self.entries)
        return SelectedDataset(entry for entry in some if entry.rles or entry.rejected)

    def unverified(self) -> SelectedDataset:
        """The masks for which nobody vouches; no empty frames."""
        some = (entry.only([not sure for sure in entry.sure]) for entry in self.entries)
        return SelectedDataset(entry for entry in some if entry.rles)


def _evenly(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of some items, evenly spaced."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def confidence_cutoff(confidences: Iterable[Sequence[float]], minimum: float) -> float:
    """The minimum or, if lower, the median, so that at least half of all masks are kept.

    Confidences are calibrated for one network; those of another may never reach the minimum.

    Args:
        confidences: those of each frame.
    """
    values = [value for of_frame in confidences for value in of_frame]
    return min(minimum, float(np.median(values))) if values else minimum
