"""IDF1 and id switches, with answers counted by hand and those of TrackEval 1.3.0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import ClipConfig, Config
from gbopt_ros.evaluation.identities import load_identities
from gbopt_ros.evaluation.identity_metrics import (
    IdentifiedMasks,
    IdentityCounts,
    count_identities,
)
from gbopt_ros.io.datasets.coco import CocoImage, write_coco
from gbopt_ros.structures import Rle

A, B = "a", "b"


def box(x: int) -> Rle:
    mask = np.zeros((10, 80), bool)
    mask[:, x : x + 10] = True
    return mask_ops.encode(mask)


def frames(*contents: dict[object, int]) -> list[IdentifiedMasks]:
    """Frames from the left edge of the box of every id."""
    return [IdentifiedMasks(list(c), [box(x) for x in c.values()]) for c in contents]


def test_count_identities_of_the_truth_itself() -> None:
    truth = frames({A: 0, B: 40}, {A: 10, B: 30}, {B: 20})
    assert count_identities(truth, truth) == IdentityCounts(5, 5, 5, 0)


def test_count_identities_counts_a_switch_and_the_longer_part() -> None:
    truth = frames(*[{A: 0}] * 5)
    counts = count_identities(truth, frames({1: 0}, {1: 0}, {2: 0}, {2: 0}, {2: 0}))
    assert counts == IdentityCounts(matched=3, instances=5, masks=5, switches=1)
    assert (counts.f1, counts.precision, counts.recall) == (60.0, 60.0, 60.0)


def test_count_identities_of_two_ids_that_are_swapped() -> None:
    truth = frames(*[{A: 0, B: 40}] * 4)
    found = frames({1: 0, 2: 40}, {1: 0, 2: 40}, {1: 0, 2: 40}, {2: 0, 1: 40})
    assert count_identities(truth, found) == IdentityCounts(6, 8, 8, 2)


def test_count_identities_counts_a_switch_after_a_gap() -> None:
    """A gap alone is none: the id comes back. Another id after a gap is one."""
    truth = frames(*[{A: 0}] * 5)
    same = count_identities(truth, frames({1: 0}, {}, {}, {1: 0}, {1: 0}))
    other = count_identities(truth, frames({1: 0}, {}, {}, {2: 0}, {2: 0}))
    assert same == IdentityCounts(3, 5, 3, 0)
    assert other == IdentityCounts(2, 5, 3, 1)
    assert (same.f1, other.f1) == (75.0, 50.0)


def test_count_identities_matches_from_an_iou_of_one_half_on() -> None:
    truth = frames({A: 0})
    assert count_identities(truth, frames({1: 3})).matched == 1  # IoU 7 / 13
    assert count_identities(truth, frames({1: 4})).matched == 0  # IoU 6 / 14


def test_count_identities_goes_on_with_a_match_although_another_fits_better() -> None:
    truth = frames({A: 0}, {A: 0})
    found = frames({1: 0}, {1: 3, 2: 0})
    assert count_identities(truth, found) == IdentityCounts(2, 2, 3, 0)


def test_count_identities_without_objects_or_masks() -> None:
    nothing, one = frames({}, {}), frames({A: 0}, {})
    assert count_identities(nothing, nothing) == IdentityCounts()
    assert count_identities(nothing, nothing).f1 == 0.0
    assert count_identities(one, nothing) == IdentityCounts(instances=1)
    assert count_identities(nothing, one) == IdentityCounts(masks=1)


def test_count_identities_agrees_with_trackeval() -> None:
    truth = frames(
        {0: 0, 1: 20}, {0: 2, 1: 21, 2: 44}, {1: 22, 2: 44}, {0: 6, 2: 40}, {0: 8, 1: 25}
    )
    found = frames({5: 1, 6: 22}, {6: 3, 5: 22, 7: 46}, {5: 22, 7: 60}, {6: 6, 8: 41}, {6: 9, 5: 2})
    counts = count_identities(truth, found)
    assert counts == IdentityCounts(matched=6, instances=11, masks=11, switches=3)
    assert counts.f1 == pytest.approx(54.5454545)


def test_load_identities_gives_a_name_to_another_object_after_a_gap(tmp_path: Path) -> None:
    """As clips do: `gbopt world` names the objects of every scene alike."""
    stamps = [0, 2 * 10**9, 4 * 10**9 + 1]
    images = [
        CocoImage(n, f"{n}.jpg", 10, 80, {"frame_index": n, "stamp_ns": stamp})
        for n, stamp in enumerate(stamps, 1)
    ]
    path = tmp_path / "annotations.json"
    rles, names = {n: [box(0)] for n in (1, 2, 3)}, {n: ["mug"] for n in (1, 2, 3)}
    write_coco(path, images, rles, names_by_image=names)
    found = load_identities(tmp_path, Config(clip=ClipConfig(max_gap_s=2.0)))
    first, second, third = (found[n].ids[0] for n in (1, 2, 3))
    assert first == second != third


def test_identity_counts_add_up() -> None:
    total = sum([IdentityCounts(1, 2, 3, 4), IdentityCounts(5, 6, 7, 8)], IdentityCounts())
    assert total == IdentityCounts(6, 8, 10, 12)
    assert total.f1 == pytest.approx(100 * 12 / 18)


def test_identified_masks_refuse_an_id_of_two_masks() -> None:
    with pytest.raises(ValueError, match="an id of its own for each mask"):
        IdentifiedMasks([1, 1], [box(0), box(20)])
