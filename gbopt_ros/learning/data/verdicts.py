"""What a person said about masks of the training set, and how it outlives what is selected later.

A person looks at masks and keeps, changes, draws or removes some. A kept mask is there for good,
with confidence 1. A removed one stays in the catalogue, too, as rejected, so that it is not
selected again in the same image. Of the rest of an image nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from gbopt_ros import masks as mask_ops
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.learning.data.outlines import outline_forms
from gbopt_ros.structures import Rle

SAME_MASK = 0.5
"""IoU from which two masks of an image are of the same thing."""
_PART = 0.5  # share of the smaller mask inside the other, from which they are of the same thing


FRAME_FACTS = "recording", "clip_id", "frame_index", "stamp_ns", "model_version"
"""Attributes of a `StoredFrame` that travel with its image in a COCO file."""


class Verdict(IntEnum):
    """What a person said about a mask; the number is that of the catalogue."""

    REJECTED = -1
    NONE = 0
    VERIFIED = 1


@dataclass(frozen=True)
class StoredMask:
    """A mask of the training set.

    Attributes:
        score: of the network; 1 for a mask that a person drew or changed.
        confidence: of the selection, in [0, 1], whatever a person said later.
        track_id: the same in all frames that show the object; None where it is not known.
    """

    rle: Rle
    score: float
    confidence: float
    verdict: Verdict = Verdict.NONE
    track_id: int | None = None


@dataclass(frozen=True)
class StoredFrame:
    """A frame of the training set with all its masks, the rejected ones too.

    Attributes:
        id: number in the catalogue; those that were added later have larger ones.
        path: image file.
        bytes: its size.
        size: (height, width) in pixels.
    """

    id: int
    path: Path
    bytes: int
    size: tuple[int, int]
    recording: str
    clip_id: int
    frame_index: int
    stamp_ns: int
    model_version: str
    masks: tuple[StoredMask, ...]

    @property
    def selected(self) -> tuple[StoredMask, ...]:
        """The masks that are learnt."""
        return tuple(mask for mask in self.masks if mask.verdict != Verdict.REJECTED)

    @property
    def is_judged(self) -> bool:
        """Whether a person said something about a mask of it."""
        return any(mask.verdict != Verdict.NONE for mask in self.masks)

    def judged(self, counts: str, verdict: Verdict) -> tuple[StoredMask, ...]:
        """All masks, those with these run lengths with a verdict."""
        return tuple(
            replace(mask, verdict=verdict) if mask.rle["counts"] == counts else mask
            for mask in self.masks
        )


def stored_masks(frame: SelectedFrame) -> tuple[StoredMask, ...]:
    """The masks of a frame that nobody has looked at."""
    tracks = frame.track_ids or (None,) * len(frame.rles)
    masks = zip(frame.rles, frame.scores, frame.confidences, tracks, strict=True)
    return tuple(StoredMask(rle, score, sure, track_id=track) for rle, score, sure, track in masks)


def with_verdicts(
    found: Sequence[StoredMask], judged: Sequence[StoredMask]
) -> tuple[StoredMask, ...]:
    """The judged masks of an image, and those of a later selection that ask nothing again.

    A found mask is left out where it mostly covers a verified mask or is mostly covered by one, and
    where it is the same as a rejected one. A part of a rejected mask may be an object.

    Args:
        found, judged: masks of one size.
    """
    rejected = [mask.rle for mask in judged if mask.verdict == Verdict.REJECTED]
    verified = [mask.rle for mask in judged if mask.verdict == Verdict.VERIFIED]
    rles = [mask.rle for mask in found]
    again = mask_ops.iou_matrix(rles, rejected).max(axis=1, initial=0.0) >= SAME_MASK
    known = mask_ops.overlap_matrix(rles, verified).max(axis=1, initial=0.0) >= _PART
    new = (mask for mask, out in zip(found, again | known, strict=True) if not out)
    return *judged, *new


def with_labels(masks: Sequence[StoredMask], labels: Sequence[Rle]) -> tuple[StoredMask, ...]:
    """The masks of an image once a person has labelled it whole.

    A label that equals a stored mask, or its outline (`outline_forms`), verifies the stored mask.
    Any other one is a new, verified mask; it keeps the track of the stored mask that is the same
    thing. Stored masks that are the same thing as no label are rejected, and so stay rejected ones.

    Args:
        labels: one without a pixel was erased, and does not count.
    """
    drawn = {rle["counts"]: rle for rle in labels if mask_ops.areas([rle])[0]}
    unchanged = _unchanged(masks, drawn)
    others = [mask for number, mask in enumerate(masks) if number not in unchanged]
    tracks = dict(zip(drawn, _tracks(list(drawn.values()), others), strict=True))
    verified = {
        counts: StoredMask(rle, 1.0, 1.0, Verdict.VERIFIED, tracks[counts])
        for counts, rle in drawn.items()
    }
    for number, (first, *rest) in unchanged.items():
        verified[first] = replace(masks[number], verdict=Verdict.VERIFIED)
        for part in rest:
            del verified[part]
    overlap = mask_ops.iou_matrix([mask.rle for mask in others], labels).max(axis=1, initial=0.0)
    rejected = (
        replace(mask, verdict=Verdict.REJECTED)
        for mask, most in zip(others, overlap, strict=True)
        if most < SAME_MASK
    )
    return *verified.values(), *rejected


def _unchanged(masks: Sequence[StoredMask], labels: Iterable[str]) -> dict[int, list[str]]:
    """The labels that stand for each mask, by its index; those of no two masks are the same.

    Args:
        labels: run lengths.
    """
    left, found = set(labels), dict[int, list[str]]()
    for forms_of in (lambda rle: [(rle,)], outline_forms):  # the masks themselves go first
        for number, mask in enumerate(masks):
            if number not in found and left:
                forms = ([part["counts"] for part in form] for form in forms_of(mask.rle))
                if form := next((form for form in forms if left.issuperset(form)), None):
                    found[number] = form
                    left.difference_update(form)
    return found


def _tracks(labels: Sequence[Rle], masks: Sequence[StoredMask]) -> list[int | None]:
    """The track of each label: that of the mask with which it is best matched, both ways."""
    overlap = mask_ops.iou_matrix(labels, [mask.rle for mask in masks])
    if not overlap.size:
        return [None] * len(labels)
    best = overlap.argmax(axis=1)
    return [
        masks[i].track_id
        if overlap[number, i] >= SAME_MASK and overlap[:, i].argmax() == number
        else None
        for number, i in enumerate(best)
    ]
