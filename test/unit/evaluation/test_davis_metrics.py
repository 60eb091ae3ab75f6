"""J and F: values of the benchmark's own evaluation, brute force, and properties.

The numbers of `CASES` were computed by davis2017-evaluation on the same arrays.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gbopt_ros.evaluation.davis_metrics import (
    BOUNDARY_TOLERANCE,
    MAX_PROPOSALS,
    ObjectScore,
    contour,
    contour_accuracy,
    frame_statistics,
    region_similarity,
    score_sequence,
    summarise,
)
from gbopt_ros.io.datasets.davis import VOID
from gbopt_ros.structures import GboptError


def boxes(*frames: dict[int, tuple[int, int, int, int]], size: tuple[int, int] = (40, 60)):
    """(T, H, W) labels: number -> (y0, y1, x0, x1)."""
    labels = np.zeros((len(frames), *size), np.uint8)
    for t, frame in enumerate(frames):
        for number, (y0, y1, x0, x1) in frame.items():
            labels[t, y0:y1, x0:x1] = number
    return labels


A, B = (5, 15, 5, 20), (20, 35, 30, 50)


def moved(box: tuple[int, int, int, int], dy: int, dx: int) -> tuple[int, int, int, int]:
    return box[0] + dy, box[1] + dy, box[2] + dx, box[3] + dx


TRUTH = boxes(*({1: A, 2: B} for _ in range(6)))
CASES = {
    "shifted": (TRUTH, boxes(*({1: moved(A, 2, 0), 2: moved(B, 0, 1 + t)} for t in range(6)))),
    "swapped in the middle": (
        TRUTH,
        boxes(*({1: A, 2: B} for _ in range(2)), *({1: B, 2: A} for _ in range(4))),
    ),
    "one of two, as number 7": (TRUTH, boxes(*({7: B} for _ in range(6)))),
    "nothing": (TRUTH, np.zeros_like(TRUTH)),
    "void": (
        boxes(*({1: A, 2: B, VOID: (0, 40, 10, 33)} for _ in range(6))),
        boxes(*({1: A, 2: (18, 35, 28, 50), 3: (0, 4, 0, 60)} for _ in range(6))),
    ),
    "gone for a while, and back": (
        boxes({1: A}, {1: A}, {}, {}, {1: A}),
        boxes({3: A}, {3: moved(A, 1, 1)}, {}, {3: A}, {3: moved(A, 3, 3)}),
    ),
    "a later object that the first frame lacks": (
        boxes({1: A}, {1: A, 2: B}),
        boxes({1: A}, {1: A, 2: B}),
    ),
    "at the edges": (
        boxes({1: (0, 40, 0, 9), 2: (30, 40, 50, 60)}),
        boxes({1: (30, 40, 49, 60), 2: (2, 40, 0, 8)}),
    ),
}
# Of each object: J mean, recall, decay, then F; objects in the order of these numbers.
EXPECTED = {
    "shifted": [
        (66.66666667, 100, 0, 44, 0, 0),
        (71.12003938, 100, 29.22410922, 61.90476190, 83.33333333, 30),
    ],
    "swapped in the middle": [
        (66.66666667, 66.66666667, -100, 66.66666667, 66.66666667, -100),
        (66.66666667, 66.66666667, -100, 66.66666667, 66.66666667, -100),
    ],
    "one of two, as number 7": [(0, 0, 0, 0, 0, 0), (100, 100, 0, 100, 100, 0)],
    "nothing": [(0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0)],
    "void": [(88.23529412, 100, 0, 75.75757576, 100, 0), (100, 100, 0, 100, 100, 0)],
    "gone for a while, and back": [(62.26053640, 60, 66.76245211, 62, 60, 93)],
    "a later object that the first frame lacks": [(100, 100, 0, 100, 100, 0)],
    "at the edges": [
        (84.44444444, 100, 0, 90.69767442, 100, 0),
        (90.90909091, 100, 0, 100, 100, 0),
    ],
}


def numbers(score: ObjectScore) -> tuple[float, ...]:
    return (*score.J, *score.F)


@pytest.mark.parametrize("name", CASES)
def test_score_sequence_equals_the_official_evaluation(name: str) -> None:
    scores = score_sequence(*CASES[name])
    got = np.array(sorted(numbers(score) for score in scores))
    np.testing.assert_allclose(got, np.array(EXPECTED[name], float), rtol=0, atol=1e-6)


def test_score_sequence_names_the_matched_proposals() -> None:
    first, second = score_sequence(*CASES["one of two, as number 7"], "s")
    assert (first.sequence, first.object_id, first.J.mean) == ("s", 1, 0)
    assert (second.object_id, second.proposal, second.J.mean) == (2, 7, 100)
    swapped = score_sequence(*CASES["swapped in the middle"])
    assert [(score.object_id, score.proposal) for score in swapped] == [(1, 2), (2, 1)]


def test_score_sequence_knows_no_object_but_those_of_the_first_frame() -> None:
    """As in YCB-Video, where a number is that of a class."""
    labels = boxes({5: A, 16: B}, {5: A, 16: B, 9: (0, 4, 0, 60)})
    nothing, one = np.zeros_like(labels), np.where(labels == 16, 2, 0).astype(np.uint8)
    assert [(s.object_id, s.J.mean) for s in score_sequence(labels, nothing)] == [(5, 0), (16, 0)]
    first, second = score_sequence(labels, one)
    assert (first.object_id, first.J.mean, first.F.mean) == (5, 0, 0)
    assert (second.object_id, second.proposal, second.J.mean, second.F.mean) == (16, 2, 100, 100)


def test_summarise_weighs_objects_alike() -> None:
    scores = [
        *score_sequence(*CASES["one of two, as number 7"], "a"),
        *score_sequence(*CASES["gone for a while, and back"], "b"),
    ]
    metrics = summarise(scores)
    assert pytest.approx((0 + 100 + 62.26053640) / 3) == metrics.J
    assert pytest.approx((0 + 100 + 62) / 3) == metrics.F
    assert pytest.approx((metrics.J + metrics.F) / 2) == metrics.JF
    assert metrics.J_recall == pytest.approx((0 + 100 + 60) / 3)
    assert metrics.F_decay == pytest.approx(93 / 3)
    with pytest.raises(GboptError, match="no object was scored"):
        summarise([])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.25], (25, 0, 0)),
        ([1.0, 0.0], (50, 50, 100)),  # quarters: frame 1, frame 2; 1.25 and 1.75 are rounded
        ([0.5, 0.75, 1.0], (75, 66.66666667, -37.5)),  # 1 to 2, and 3: halves are rounded up
        ([0.2, 0.4, 0.6, 0.8, 1.0], (60, 60, -60)),  # 1 to 2 and 4 to 5
    ],
)
def test_frame_statistics(values: list[float], expected: tuple[float, ...]) -> None:
    assert frame_statistics(np.array(values)) == pytest.approx(expected)


def test_frame_statistics_of_long_sequences() -> None:
    values = np.repeat([0.9, 0.5, 0.5, 0.3], 100)
    assert frame_statistics(values).decay == pytest.approx(60 * 100 / 101)


def test_contour_lies_on_the_pixels_before_a_change() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2:4] = True
    shown = ["".join("#" if pixel else "." for pixel in row) for row in contour(mask)]
    assert shown == [".###.", ".#.#.", ".###.", "....."]
    assert not contour(np.ones((3, 3), bool)).any()


labels_of = arrays(np.uint8, (9, 13), elements=st.sampled_from([0, 0, 1, 2, 3]))


@settings(max_examples=60, deadline=None)
@given(proposals=labels_of, objects=labels_of)
def test_region_similarity_and_contour_accuracy_equal_brute_force(
    proposals: np.ndarray, objects: np.ndarray
) -> None:
    j = region_similarity(proposals, objects, 3, 3)
    f = contour_accuracy(proposals, objects, 3, 3)
    radius = np.ceil(BOUNDARY_TOLERANCE * np.sqrt(9**2 + 13**2))
    for p in range(3):
        for g in range(3):
            a, b = proposals == p + 1, objects == g + 1
            union = np.sum(a | b)
            assert j[p, g] == pytest.approx(np.sum(a & b) / union if union else 1)
            assert f[p, g] == pytest.approx(slow_f(a, b, radius))


def slow_f(a: np.ndarray, b: np.ndarray, radius: float) -> float:
    first, second = np.argwhere(contour(a)), np.argwhere(contour(b))
    if len(first) == 0 or len(second) == 0:
        return float(len(first) == len(second))
    near = np.linalg.norm(first[:, None] - second, axis=2) <= radius
    precision, recall = near.any(axis=1).mean(), near.any(axis=0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


clips = arrays(np.uint8, (3, 9, 13), elements=st.integers(0, 3))


def with_three_objects(labels: np.ndarray) -> np.ndarray:
    """The labels with three objects in the first frame."""
    labels = labels.copy()
    labels[0, 0, :3] = 3, 2, 1
    return labels


@settings(max_examples=40, deadline=None)
@given(labels=clips.map(with_three_objects))
def test_score_sequence_of_the_labels_is_perfect(labels: np.ndarray) -> None:
    for score in score_sequence(labels, labels):
        assert numbers(score) == (100, 100, 0, 100, 100, 0)
    permuted = np.array([0, 17, 5, 11], np.uint8)[labels]
    scores = score_sequence(labels, permuted)
    assert {numbers(score) for score in scores} == {(100, 100, 0, 100, 100, 0)}


@settings(max_examples=40, deadline=None)
@given(labels=clips.map(with_three_objects), proposals=clips, order=st.permutations([1, 2, 3]))
def test_score_sequence_does_not_depend_on_the_order_of_proposals(
    labels: np.ndarray, proposals: np.ndarray, order: list[int]
) -> None:
    renamed = np.array([0, *order], np.uint8)[proposals]
    one, two = (summarise(score_sequence(labels, p)) for p in (proposals, renamed))
    assert pytest.approx(two.JF) == one.JF  # matchings may tie, their sum may not


@settings(max_examples=40, deadline=None)
@given(labels=clips.map(with_three_objects), proposals=clips)
def test_score_sequence_finds_the_best_matching(labels: np.ndarray, proposals: np.ndarray) -> None:
    single = np.zeros((3, 3))
    for p in range(3):
        for g in range(3):
            j, f = (
                np.mean(
                    [
                        measure(proposal, truth, 3, 3)[p, g]
                        for proposal, truth in zip(proposals, labels, strict=True)
                    ]
                )
                for measure in (region_similarity, contour_accuracy)
            )
            single[p, g] = 50 * (j + f)
    best = max(np.mean([single[p, g] for g, p in enumerate(o)]) for o in permutations(range(3)))
    assert pytest.approx(best) == summarise(score_sequence(labels, proposals)).JF


@settings(max_examples=40, deadline=None)
@given(
    labels=clips.map(with_three_objects),
    proposals=clips,
    void=arrays(bool, (3, 9, 13)),
    other=clips,
)
def test_score_sequence_ignores_void(
    labels: np.ndarray, proposals: np.ndarray, void: np.ndarray, other: np.ndarray
) -> None:
    labels = np.where(void, VOID, labels).astype(np.uint8)
    labels[0, 0, :3] = 3, 2, 1
    proposals[0, 0, 0] = other[0, 0, 0] = 3  # else the number of proposals may change
    changed = np.where(labels == VOID, other, proposals)
    assert score_sequence(labels, proposals) == score_sequence(labels, changed)


def test_score_sequence_refuses_bad_shapes_and_counts() -> None:
    with pytest.raises(GboptError, match=r"s: expected labels and proposals of one shape"):
        score_sequence(TRUTH, TRUTH[:3], "s")
    with pytest.raises(GboptError, match="no object in the first frame"):
        score_sequence(np.where(TRUTH > 0, VOID, 0).astype(np.uint8), TRUTH)
    with pytest.raises(GboptError, match=f"number 21; at most {MAX_PROPOSALS} proposals"):
        score_sequence(TRUTH, TRUTH + 19)
