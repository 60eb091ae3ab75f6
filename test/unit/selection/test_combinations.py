"""Stage 1 against brute force, and its corner cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.oracles import all_combinations, cross_entropy

from gbopt_ros.selection import best_combinations, combinations

EPSILON = 1e-3


def random_frame(seed: int, n: int, size: int = 10) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, size, size), bool)
    for mask in masks:
        y, x = rng.integers(0, size, 2)
        h, w = rng.integers(1, 6, 2)
        mask[y : y + h, x : x + w] = True
        mask &= rng.random((size, size)) < 0.9
    return masks, rng.random((size, size))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 8),
    k=st.integers(1, 30),
    tolerance=st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]),
    listed=st.booleans(),
)
def test_best_combinations_equal_brute_force(
    seed: int, n: int, k: int, tolerance: float, listed: bool
) -> None:
    """Whether the sets of a component are listed or searched."""
    masks, background = random_frame(seed, n)
    expected = all_combinations(masks, background, tolerance, EPSILON)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(combinations, "_LARGEST_LIST", 10**6 if listed else 0)
        got = best_combinations(masks, background, k, tolerance, epsilon=EPSILON)
    assert len(got) == min(k, len(expected))
    np.testing.assert_allclose([c.loss for c in got], [e[0] for e in expected[:k]], atol=1e-6)
    assert len({c.indices for c in got}) == len(got)
    legal = {indices for _, indices in expected}
    assert all(c.indices in legal for c in got)
    for combination in got:
        union = masks[list(combination.indices)].any(axis=0)
        assert combination.loss == pytest.approx(
            cross_entropy(union, background, EPSILON), abs=1e-6
        )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 7), tolerance=st.sampled_from([0.0, 0.3]))
def test_best_combinations_add_a_prior_to_the_loss_of_every_set(
    seed: int, n: int, tolerance: float
) -> None:
    masks, background = random_frame(seed, n)
    prior = np.random.default_rng(seed).normal(0, 20, n)
    expected = sorted(
        loss + prior[list(indices)].sum() / background.size
        for loss, indices in all_combinations(masks, background, tolerance, EPSILON)
    )
    got = best_combinations(masks, background, 12, tolerance, epsilon=EPSILON, prior=prior)
    np.testing.assert_allclose([c.loss for c in got], expected[:12], atol=1e-6)


def test_best_combinations_of_no_candidates_are_the_empty_one() -> None:
    background = np.full((4, 4), 0.5)
    (only,) = best_combinations(np.zeros((0, 4, 4), bool), background, k=10)
    assert only.indices == ()
    assert only.loss == pytest.approx(np.log(2))


def test_best_combinations_of_overlapping_masks_hold_at_most_one() -> None:
    masks = np.zeros((5, 6, 6), bool)
    for i in range(5):
        masks[i, : i + 2, : i + 2] = True
    background = np.full((6, 6), 0.9)
    background[:4, :4] = 0.1
    got = best_combinations(masks, background, k=10)
    assert len(got) == 6
    assert got[0].indices == (2,)
    assert sorted(c.indices for c in got) == [(), (0,), (1,), (2,), (3,), (4,)]


def test_best_combinations_list_ties_by_fewer_masks_then_lower_indices() -> None:
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 0], masks[1, 2] = True, True
    got = best_combinations(masks, np.full((4, 4), 0.5), k=4)
    assert [c.indices for c in got] == [(), (0,), (1,), (0, 1)]
    assert len({c.loss for c in got}) == 1


def test_best_combinations_of_many_ties_end_quickly() -> None:
    masks = np.zeros((60, 8, 64), bool)
    for i in range(60):
        masks[i, 3, i] = True
    got = best_combinations(masks, np.full((8, 64), 0.5), k=10)
    assert len(got) == 10
    assert len({c.loss for c in got}) == 1


def test_best_combinations_never_hold_identical_masks() -> None:
    masks = np.zeros((3, 4, 4), bool)
    masks[:, 1:3, 1:3] = True
    background = np.where(masks[0], 0.1, 0.9)
    got = best_combinations(masks, background, k=10, overlap_tolerance=0.9)
    assert [c.indices for c in got] == [(0,), (1,), (2,), ()]


def test_best_combinations_count_shared_pixels_once() -> None:
    masks = np.zeros((2, 1, 10), bool)
    masks[0, 0, :5], masks[1, 0, 4:9] = True, True  # share one pixel of five
    background = np.full((1, 10), 0.2)
    assert best_combinations(masks, background, 1, 0.1)[0].indices in {(0,), (1,)}
    best = best_combinations(masks, background, 1, 0.2)[0]
    assert best.indices == (0, 1)
    expected = -(9 * np.log(0.8) + 1 * np.log(0.2)) / 10
    assert best.loss == pytest.approx(expected, abs=1e-6)


def test_best_combinations_never_hold_masks_without_pixels() -> None:
    masks = np.zeros((2, 4, 4), bool)
    masks[1, 0] = True
    got = best_combinations(masks, np.full((4, 4), 0.2), k=10)
    assert [c.indices for c in got] == [(1,), ()]


@given(seed=st.integers(0, 10**6), n=st.integers(2, 8))
@settings(max_examples=30, deadline=None)
def test_best_combinations_do_not_depend_on_the_order_of_candidates(seed: int, n: int) -> None:
    masks, background = random_frame(seed, n)
    order = np.random.default_rng(seed).permutation(n)
    straight = best_combinations(masks, background, 8)
    shuffled = best_combinations(masks[order], background, 8)
    assert [c.loss for c in straight] == [c.loss for c in shuffled]  # exact sums: to the last bit


def test_best_combinations_of_a_hundred_random_candidates() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((100, 120, 160), bool)
    for mask in masks:
        y, x = rng.integers(0, 110), rng.integers(0, 150)
        mask[y : y + rng.integers(10, 40), x : x + rng.integers(10, 40)] = True
    background = np.clip(rng.normal(0.5, 0.3, (120, 160)), 0, 1)
    got = best_combinations(masks, background, 10)
    losses = [c.loss for c in got]
    assert losses == sorted(losses)
    shared = masks[list(got[0].indices)].sum(axis=0)
    assert shared.max() == 1


@pytest.mark.parametrize(
    ("masks", "background", "k", "words"),
    [
        (np.zeros((2, 4, 4), bool), np.zeros((4, 5)), 3, r"background \(H, W\)"),
        (np.zeros((4, 4), bool), np.zeros((4, 4)), 3, r"masks \(N, H, W\)"),
        (np.zeros((2, 4, 4), bool), np.zeros((4, 4)), 0, "k >= 1, got 0"),
        (np.zeros((2, 4, 4), bool), np.full((4, 4), np.nan), 3, "from 0 to 1; got nan to nan"),
        (np.zeros((2, 4, 4), bool), np.full((4, 4), 255.0), 3, "from 0 to 1; got 255 to 255"),
        (np.zeros((2, 4, 4), bool), np.full((4, 4), -0.1), 3, "from 0 to 1; got -0.1 to -0.1"),
    ],
)
def test_best_combinations_refuse_bad_input(
    masks: np.ndarray, background: np.ndarray, k: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        best_combinations(masks, background, k)
