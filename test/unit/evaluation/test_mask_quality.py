"""Precision and recall of masks, by hand, against brute force and point by point."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbopt_ros import masks as mask_ops
from gbopt_ros.evaluation.mask_quality import (
    PrecisionRecallCurve,
    mask_precision_recall,
    precision_at_recall,
    threshold_curve,
)
from gbopt_ros.structures import GboptError, Proposals, Rle


def bar(start: int, stop: int) -> Rle:
    """A mask of the pixels [start, stop) of a 1 x 20 image."""
    mask = np.zeros((1, 20), bool)
    mask[0, start:stop] = True
    return mask_ops.encode(mask)


def proposals(*scored: tuple[Rle, float]) -> Proposals:
    rles = tuple(rle for rle, _ in scored)
    scores = np.array([score for _, score in scored], np.float32)
    return Proposals((1, 20), rles, scores, mask_ops.boxes_xyxy(rles))


def test_mask_precision_recall_counts_by_hand():
    gt = {"a": (bar(0, 10), bar(10, 20)), "b": (bar(0, 4),), "c": ()}
    masks = {"a": (bar(0, 8), bar(9, 12)), "b": (), "c": (bar(5, 9),)}
    quality = mask_precision_recall(gt, masks)
    # bar(0, 8) has IoU 0.8; bar(9, 12) has 2/11 with its instance.
    assert quality.counts.matched == 1
    assert (quality.precision, quality.recall) == (1 / 3, 1 / 3)
    assert quality.counts.masks == quality.counts.instances == 3
    assert quality.counts.mean_iou == pytest.approx(0.8)


def test_mask_precision_recall_iou_threshold_is_inclusive():
    gt, masks = {0: (bar(0, 10),)}, {0: (bar(0, 5),)}  # IoU is exactly a half
    assert mask_precision_recall(gt, masks, iou=0.5).recall == 1
    assert mask_precision_recall(gt, masks, iou=0.51).recall == 0


def test_mask_precision_recall_pairs_an_instance_with_its_closest_mask():
    quality = mask_precision_recall({0: (bar(0, 10),)}, {0: (bar(0, 6), bar(0, 9), bar(0, 7))})
    assert (quality.precision, quality.recall) == (1 / 3, 1)
    assert quality.counts.mean_iou == pytest.approx(0.9)


def test_mask_precision_recall_pairs_as_many_as_possible():
    # The first mask is closest to the instance that alone fits the second mask.
    gt = {0: (bar(0, 10), bar(2, 11))}
    masks = {0: (bar(0, 9), bar(0, 6))}
    ious = mask_ops.iou_matrix(masks[0], gt[0])
    assert ious[0, 0] > ious[0, 1] > 0.5 and ious[1, 0] > 0.5 > ious[1, 1]
    assert mask_precision_recall(gt, masks).counts.matched == 2


def test_mask_precision_recall_of_nothing():
    assert mask_precision_recall({0: (bar(0, 5),)}, {})[:2] == (1.0, 0.0)
    assert mask_precision_recall({0: ()}, {0: (bar(0, 5),)})[:2] == (0.0, 1.0)
    assert mask_precision_recall({0: ()}, {})[:2] == (1.0, 1.0)


def test_mask_precision_recall_refuses_masks_on_unlabelled_frames():
    with pytest.raises(GboptError, match="frame 3 has masks but no ground truth"):
        mask_precision_recall({0: ()}, {3: (bar(0, 5),)})
    with pytest.raises(GboptError, match="no ground truth"):
        threshold_curve({0: (bar(0, 5),)}, {3: proposals()})


def test_threshold_curve_refuses_a_bad_iou_and_no_instance():
    with pytest.raises(GboptError, match="iou"):
        mask_precision_recall({0: ()}, {}, iou=0)
    with pytest.raises(GboptError, match="no instance"):
        threshold_curve({0: ()}, {0: proposals()})


def test_threshold_curve_by_hand():
    gt = {0: (bar(0, 5), bar(10, 15)), 1: (bar(0, 5),)}
    found = {
        0: proposals((bar(0, 5), 0.9), (bar(5, 9), 0.5), (bar(10, 15), 0.25)),
        1: proposals((bar(8, 12), 0.5)),
    }
    curve = threshold_curve(gt, found)
    assert curve.thresholds.tolist() == [np.float32(0.9), 0.5, 0.25]
    assert curve.precision.tolist() == [1, 1 / 3, 2 / 4]
    assert curve.recall == pytest.approx([1 / 3, 1 / 3, 2 / 3])


def test_precision_at_recall_is_that_of_the_best_threshold_that_reaches_it():
    curve = PrecisionRecallCurve(
        np.array([0.9, 0.7, 0.5, 0.3]),
        np.array([1.0, 0.4, 0.6, 0.2]),
        np.array([0.2, 0.4, 0.6, 0.6]),
        10,
    )
    assert [precision_at_recall(curve, r) for r in (0.0, 0.2, 0.3, 0.6, 0.61)] == [
        1.0, 1.0, 0.6, 0.6, 0.0
    ]  # fmt: skip


def test_threshold_curve_of_no_proposals_is_empty():
    curve = threshold_curve({0: (bar(0, 5),)}, {0: proposals()})
    assert len(curve.thresholds) == 0
    assert precision_at_recall(curve, 0.1) == 0


spans = st.tuples(st.integers(0, 19), st.integers(1, 8)).map(
    lambda span: bar(span[0], min(20, span[0] + span[1]))
)
scored = st.lists(st.tuples(spans, st.sampled_from([0.125, 0.25, 0.5, 0.75])), max_size=6).map(
    lambda pairs: proposals(*sorted(pairs, key=lambda pair: -pair[1]))
)
labels = st.lists(spans, max_size=5).map(tuple)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(labels, scored), min_size=1, max_size=3), st.sampled_from([0.3, 0.5]))
def test_threshold_curve_equals_mask_precision_recall_of_the_kept_proposals(frames, iou):
    gt = {i: instances for i, (instances, _) in enumerate(frames)}
    found = {i: proposed for i, (_, proposed) in enumerate(frames)}
    if not any(gt.values()):
        return
    curve = threshold_curve(gt, found, iou)
    assert curve.thresholds.tolist() == sorted(
        {float(s) for p in found.values() for s in p.scores}, reverse=True
    )
    for threshold, precision, recall in zip(
        curve.thresholds, curve.precision, curve.recall, strict=True
    ):
        kept = {
            key: [r for r, s in zip(p.rles, p.scores, strict=True) if s >= threshold]
            for key, p in found.items()
        }
        quality = mask_precision_recall(gt, kept, iou)
        assert (precision, recall) == pytest.approx((quality.precision, quality.recall))


@settings(max_examples=150, deadline=None)
@given(labels, st.lists(spans, max_size=4), st.sampled_from([0.2, 0.5]))
def test_mask_precision_recall_matching_equals_brute_force(instances, masks, iou):
    ious = mask_ops.iou_matrix(masks, instances)
    columns = [*range(len(instances)), *[-1] * len(masks)]
    best = max(
        sum(g >= 0 and ious[m, g] >= iou for m, g in enumerate(chosen))
        for chosen in permutations(columns, len(masks))
    )
    assert mask_precision_recall({0: instances}, {0: masks}, iou).counts.matched == best
