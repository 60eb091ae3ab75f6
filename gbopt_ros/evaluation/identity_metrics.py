"""How well ids of masks follow objects: IDF1 and id switches.

IDF1 (Ristani et al., ECCV Workshops 2016) assigns each object one id for the whole recording, for
the largest number of masks that it explains. Id switches are those of CLEAR MOT (Bernardin and
Stiefelhagen, 2008), with matches that go on preferred. Both as in TrackEval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from gbopt_ros import masks as mask_ops
from gbopt_ros.structures import Rle

MATCH_IOU = 0.5  # smallest IoU of a mask with the object that it shows


@dataclass(frozen=True)
class IdentifiedMasks:
    """The S masks of a frame with S ids, no two alike."""

    ids: Sequence[Hashable]
    rles: Sequence[Rle] = field(repr=False)

    def __post_init__(self) -> None:
        if len(set(self.ids)) != len(self.rles) or len(self.ids) != len(self.rles):
            raise ValueError(f"expected an id of its own for each mask, got {list(self.ids)}")


@dataclass(frozen=True)
class IdentityCounts:
    """Counts of one recording, or their sum over several.

    Attributes:
        matched: masks with the id that their object is assigned, IDTP.
        instances: masks in the ground truth.
        masks: masks that were found.
        switches: masks with another id than the last one that their object was matched with.
    """

    matched: int = 0
    instances: int = 0
    masks: int = 0
    switches: int = 0

    def __add__(self, other: IdentityCounts) -> IdentityCounts:
        return IdentityCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def recall(self) -> float:
        """IDR, percent of the instances."""
        return 100 * self.matched / max(1, self.instances)

    @property
    def precision(self) -> float:
        """IDP, percent of the masks; masks of what has no label count as wrong."""
        return 100 * self.matched / max(1, self.masks)

    @property
    def f1(self) -> float:
        """IDF1, percent."""
        return 200 * self.matched / max(1, self.instances + self.masks)


def count_identities(
    truth: Sequence[IdentifiedMasks], found: Sequence[IdentifiedMasks]
) -> IdentityCounts:
    """Compare T frames of one recording with their ground truth."""
    together: Counter[tuple[Hashable, Hashable]] = Counter()
    last: dict[Hashable, Hashable] = {}  # the id that an object was last matched with
    going_on: set[tuple[Hashable, Hashable]] = set()  # matches of the previous frame
    switches = 0
    for objects, masks in zip(truth, found, strict=True):
        ious = mask_ops.iou_matrix(objects.rles, masks.rles)
        overlapping = ious >= MATCH_IOU
        pairs = [(objects.ids[i], masks.ids[j]) for i, j in np.argwhere(overlapping)]
        together.update(pairs)
        values = np.where(overlapping, ious, 0.0)
        values[overlapping] += [1000.0 * (pair in going_on) for pair in pairs]
        matches = zip(*linear_sum_assignment(values, maximize=True), strict=True)
        going_on = {(objects.ids[i], masks.ids[j]) for i, j in matches if overlapping[i, j]}
        switches += sum(last.get(thing, number) != number for thing, number in going_on)
        last |= dict(going_on)
    rows, columns = ({pair[side]: None for pair in together} for side in (0, 1))
    counts = np.array([[together[row, column] for column in columns] for row in rows])
    counts = counts.reshape(len(rows), len(columns))
    return IdentityCounts(
        matched=int(counts[linear_sum_assignment(counts, maximize=True)].sum()),
        instances=sum(len(objects.ids) for objects in truth),
        masks=sum(len(masks.ids) for masks in found),
        switches=switches,
    )
