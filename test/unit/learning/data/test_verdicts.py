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
        StoredMask(changed, 1.0, 1.0, Verdict.VERIFIED, moved.track_id),
        StoredMask(drawn, 1.0, 1.0, Verdict.VERIFIED),
        replace(gone, verdict=Verdict.REJECTED),
        before[3],
    )


def test_with_labels_gives_a_track_to_the_label_that_fits_it_best() -> None:
    stored = mask(0, 10)
    part, most = mask(0, 6).rle, mask(0, 9).rle
    tracks = [label.track_id for label in with_labels((stored,), [part, most])]
    assert tracks == [None, stored.track_id]


def test_with_labels_takes_what_was_erased_as_removed() -> None:
    first, second = mask(0, 4), mask(5, 10)
    empty = encode(np.zeros(SIZE, bool))
    after = with_labels((first, second), [empty, second.rle])
    assert after == (
        replace(second, verdict=Verdict.VERIFIED),
        replace(first, verdict=Verdict.REJECTED),
    )


def test_with_labels_keeps_masks_that_came_back_as_their_outlines() -> None:
    """A frame, what fills it, and a mask in two parts: no outline stands for two masks."""
    filled = np.zeros((20, 40), bool)
    filled[2:12, 2:14] = True
    ring = filled.copy()
    ring[4:10, 4:12] = False
    parts = np.zeros((20, 40), bool)
    parts[3:9, 20:26] = parts[11:17, 28:36] = True
    stored = [
        StoredMask(encode(pixels), 0.6, 0.3, track_id=n)
        for n, pixels in enumerate((ring, parts, filled))
    ]
    outline, changed = filled.copy(), parts.copy()
    outline[11], outline[:, 13] = False, False
    one, other = np.zeros((2, 20, 40), bool)
    one[3:8, 20:25] = other[11:16, 28:35] = True
    labels = [encode(pixels) for pixels in (other, outline, one)]
    verified = [replace(each, verdict=Verdict.VERIFIED) for each in stored]
    assert with_labels(stored, labels) == (verified[1], verified[0])
    assert with_labels(stored, [encode(one | other), labels[1], stored[2].rle]) == (
        verified[1], verified[0], verified[2],
    )  # fmt: skip
    changed[3:9, 24:26] = False
    after = with_labels(stored[1:2], [encode(changed)])
    assert after == (StoredMask(encode(changed), 1.0, 1.0, Verdict.VERIFIED, 1),)


def test_with_labels_takes_a_rejected_mask_back_and_rejects_all_without_a_label() -> None:
    rejected = mask(0, 4, Verdict.REJECTED)
    (again,) = with_labels((rejected,), [rejected.rle])
    assert again == replace(rejected, verdict=Verdict.VERIFIED)
    assert with_labels((again,), []) == (rejected,)
