"""What a person said about masks, against later selections and in labels of whole images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gbopt_ros.learning.data.verdicts import StoredMask, Verdict, with_labels, with_verdicts
from gbopt_ros.masks import encode

SIZE = (8, 20)


def mask(first: int, last: int, verdict: Verdict = Verdict.NONE, track: int = 7) -> StoredMask:
    """A mask of these columns."""
    pixels = np.zeros(SIZE, bool)
    pixels[:, first:last] = True
    return StoredMask(encode(pixels), 0.6, 0.3, verdict, track)


def test_with_verdicts_keeps_what_was_judged_and_adds_only_what_is_new() -> None:
    kept, rejected = mask(0, 6, Verdict.VERIFIED), mask(8, 14, Verdict.REJECTED)
    part, whole, again = mask(0, 2), mask(0, 16), mask(8, 13)
    part_of_rejected, elsewhere = mask(8, 10), mask(15, 20)
    found = (part, whole, again, part_of_rejected, elsewhere)
    assert with_verdicts(found, (kept, rejected)) == (kept, rejected, part_of_rejected, elsewhere)
    assert with_verdicts(found, ()) == found
    assert with_verdicts((), (kept,)) == (kept,)


def test_with_labels_verifies_replaces_draws_and_rejects() -> None:
    same, moved, gone = mask(0, 4), mask(5, 10), mask(11, 15)
    before = (same, moved, gone, mask(16, 18, Verdict.REJECTED))
    changed, drawn = mask(6, 11).rle, mask(18, 20).rle
    after = with_labels(before, [same.rle, changed, drawn, drawn])
    assert after == (
        replace(same, verdict=Verdict.VERIFIED),
        StoredMask(changed, 1.0, 1.0, Verdict.VERIFIED),
        StoredMask(drawn, 1.0, 1.0, Verdict.VERIFIED),
        replace(gone, verdict=Verdict.REJECTED),
        before[3],
    )


def test_with_labels_takes_a_rejected_mask_back_and_rejects_all_without_a_label() -> None:
    rejected = mask(0, 4, Verdict.REJECTED)
    (again,) = with_labels((rejected,), [rejected.rle])
    assert again == replace(rejected, verdict=Verdict.VERIFIED)
    assert with_labels((again,), []) == (rejected,)
