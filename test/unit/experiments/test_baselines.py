"""What selection is compared with: thresholds, and selection by ground truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from experiments import baselines
from gbopt_ros.evaluation.mask_quality import PrecisionRecallCurve
from gbopt_ros.masks import boxes_xyxy, encode_all, iou_matrix
from gbopt_ros.structures import GboptError, Proposals

SIZE = (8, 12)


def square(row: int, column: int, side: int = 3) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[row : row + side, column : column + side] = True
    return mask


def proposals(*scored: tuple[float, np.ndarray]) -> Proposals:
    rles = encode_all(np.array([mask for _, mask in scored], bool).reshape(-1, *SIZE))
    scores = np.array([score for score, _ in scored], np.float32)
    return Proposals(SIZE, rles, scores, boxes_xyxy(rles))


# --------------------------------------------------------------------------------------- thresholds


def test_best_threshold_has_the_highest_f1() -> None:
    curve = PrecisionRecallCurve(
        thresholds=np.array([0.9, 0.7, 0.5, 0.3]),
        precision=np.array([1.0, 1.0, 0.75, 0.4]),
        recall=np.array([0.25, 0.5, 0.75, 0.8]),  # F1 0.4, 0.667, 0.75, 0.533
        instances=4,
    )
    assert baselines.best_threshold(curve) == 0.5


def test_best_threshold_is_the_highest_of_equally_good_ones() -> None:
    curve = PrecisionRecallCurve(
        np.array([0.9, 0.6]), np.array([1.0, 0.5]), np.array([0.5, 1.0]), 2
    )
    assert baselines.best_threshold(curve) == 0.9


@pytest.mark.parametrize("points", [0, 2])
def test_best_threshold_needs_a_right_proposal(points: int) -> None:
    zero = np.zeros(points)
    with pytest.raises(GboptError, match="no proposal on the validation recording is right"):
        baselines.best_threshold(PrecisionRecallCurve(zero, zero, zero, 3))


@pytest.mark.parametrize(
    ("scores", "objects", "threshold"),
    [
        ([[0.9, 0.5], [0.8, 0.1]], 1.0, 0.8),  # two masks in two frames
        ([[0.9, 0.5], [0.8, 0.1]], 1.5, 0.5),
        ([[0.9, 0.5], [0.8, 0.1]], 9.0, 0.1),  # more than there are: all
        ([[0.9, 0.5], [0.8, 0.1]], 0.1, np.inf),  # nearer to none than to one
        ([[0.9, 0.5, 0.5, 0.5], [0.8]], 1.5, 0.8),  # 3 expected; ties allow 2 or 5
        ([[], []], 2.0, np.inf),
    ],
)
def test_expected_number_threshold_keeps_as_many_masks_as_objects(
    scores: list[list[float]], objects: float, threshold: float
) -> None:
    arrays = [np.array(values) for values in scores]
    assert baselines.expected_number_threshold(arrays, objects) == threshold


@given(
    st.lists(st.lists(st.integers(0, 8), max_size=6), min_size=1, max_size=4),
    st.floats(0, 7),
)
def test_expected_number_threshold_is_the_nearest_of_all(
    levels: list[list[int]], objects: float
) -> None:
    scores = [np.array(frame, float) / 8 for frame in levels]
    joined = np.concatenate(scores)
    threshold = baselines.expected_number_threshold(scores, objects)
    expected = objects * len(scores)
    possible = [np.count_nonzero(joined >= t) for t in [*joined, np.inf]]
    chosen = np.count_nonzero(joined >= threshold)
    assert abs(chosen - expected) == min(abs(n - expected) for n in possible)


def test_above_keeps_proposals_from_the_threshold_on() -> None:
    found = proposals((0.75, square(0, 0)), (0.5, square(4, 0)), (0.25, square(0, 6)))
    kept = baselines.above(found, 0.5)
    assert kept.rles == found.rles[:2]
    assert kept.scores.tolist() == [0.75, 0.5]
    assert len(baselines.above(found, 0.8)) == 0


def test_objects_an_image_is_the_mean_number_of_instances() -> None:
    rles = encode_all(np.array([square(0, 0), square(4, 4)]))
    assert baselines.objects_an_image({1: rles, 2: (), 3: rles}) == pytest.approx(4 / 3)


# ---------------------------------------------------------------------- selection by ground truth


def test_agreeing_with_matches_best_in_sum_and_not_greedily() -> None:
    """Mask 0 fits both instances; greedy matching would leave the second one without."""
    first, second = np.zeros((2, 1, 40), bool)
    first[0, :10], second[0, 5:17] = True, True
    wide, left = np.zeros((2, 1, 40), bool)
    wide[0, 4:14] = True  # IoU 0.43 with first, 0.69 with second
    left[0, 1:10] = True  # IoU 0.9 with first
    rles = encode_all(np.array([wide, left]))
    found = Proposals((1, 40), rles, np.array([0.9, 0.2], np.float32), boxes_xyxy(rles))
    chosen = baselines.agreeing_with(found, encode_all(np.array([first, second])))
    assert chosen.rles == rles


def test_agreeing_with_leaves_out_pairs_below_half() -> None:
    found = proposals((0.9, square(0, 0, 4)), (0.8, square(0, 6, 2)))
    chosen = baselines.agreeing_with(found, encode_all(square(0, 6, 3)[None]))  # IoU 4 / 9
    assert len(chosen) == 0
    assert len(baselines.agreeing_with(found, ())) == 0


@given(st.integers(0, 10**6))
def test_agreeing_with_equals_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    candidates, instances = rng.random((n, 1, 12)) < 0.6, rng.random((m, 1, 12)) < 0.6
    candidates[:, 0, 0] = instances[:, 0, 0] = True
    rles, truth = encode_all(candidates), encode_all(instances)
    found = Proposals((1, 12), rles, np.linspace(0.9, 0.5, n, dtype=np.float32), boxes_xyxy(rles))
    overlap = iou_matrix(rles, truth)
    overlap[overlap < 0.5] = 0
    places = range(max(n, m))
    best = max(
        sum(overlap[i, order[i]] for i in range(n) if order[i] < m)
        for order in itertools.permutations(places, n)
    )
    chosen = baselines.agreeing_with(found, truth)
    reached = iou_matrix(chosen.rles, truth) if len(chosen) else np.zeros((0, m))
    reached[reached < 0.5] = 0
    k = len(chosen)
    again = max(
        sum(reached[i, order[i]] for i in range(k) if order[i] < m)
        for order in itertools.permutations(range(max(k, m)), k)
    )
    assert again == pytest.approx(best)
