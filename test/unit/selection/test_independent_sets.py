"""The K cheapest independent sets against brute force, with both kinds of multipliers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from gbopt_ros.selection import independent_sets, multipliers
from gbopt_ros.selection.atoms import atoms
from gbopt_ros.selection.combinations import conflict_graph
from gbopt_ros.selection.independent_sets import (
    _beam_search,
    _Bound,
    _branching_order,
    _State,
    best_independent_sets,
    least_marginals,
    scored_order,
)
from gbopt_ros.selection.multipliers import (
    Problem,
    greedy_multipliers,
    maximal_cliques,
    optimal_multipliers,
)

Inputs = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def random_inputs(seed: int, n: int) -> Inputs:
    """Membership, evidence, prior and conflict; whole numbers add exactly."""
    rng = np.random.default_rng(seed)
    membership = rng.random((n, 3 * n)) < rng.uniform(0.1, 0.4)
    evidence = rng.integers(-9, 6, 3 * n).astype(float)
    prior = rng.integers(-5, 6, n).astype(float) * rng.integers(0, 2)
    conflict = np.triu(rng.random((n, n)) < rng.uniform(0.2, 0.7), 1)
    return membership, evidence, prior, conflict | conflict.T


def all_sets(inputs: Inputs) -> list[tuple[float, tuple[int, ...]]]:
    membership, evidence, prior, conflict = inputs
    n = len(prior)
    chosen = itertools.chain.from_iterable(
        itertools.combinations(range(n), r) for r in range(n + 1)
    )
    legal = [s for s in chosen if not any(conflict[a, b] for a, b in itertools.combinations(s, 2))]
    costs = [evidence[membership[list(s)].any(axis=0)].sum() + prior[list(s)].sum() for s in legal]
    return sorted(zip(costs, legal, strict=True), key=scored_order)


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 9),
    k=st.integers(1, 30),
    greedy=st.booleans(),
    rows=st.sampled_from([0, 20, 40, 6000]),
)
def test_best_independent_sets_equal_brute_force(
    seed: int, n: int, k: int, greedy: bool, rows: int
) -> None:
    """A linear program of any size gives them: it decides on the time alone."""
    inputs = random_inputs(seed, n)
    expected = all_sets(inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(independent_sets, "_GREEDY_UP_TO", 99 if greedy else 0)
        patch.setattr(multipliers, "_MAX_ROWS", rows)
        found, exact = best_independent_sets(*inputs, k)
    assert exact
    assert [cost for cost, _ in found] == [cost for cost, _ in expected[:k]]
    assert set(found) <= set(expected)
    assert len(set(found)) == len(found)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6), n=st.integers(0, 9), k=st.integers(1, 30), states=st.integers(0, 9)
)
def test_best_independent_sets_at_the_limit_are_sets_and_the_empty_one_competes(
    seed: int, n: int, k: int, states: int
) -> None:
    inputs = random_inputs(seed, n)
    expected = all_sets(inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(independent_sets, "_MAX_WORK", 500 * states)
        found, exact = best_independent_sets(*inputs, k)
    assert 1 <= len(found) == len(set(found)) <= min(k, len(expected))
    assert found == sorted(set(found) & set(expected), key=scored_order)
    assert found[0][0] <= 0.0
    if exact:
        assert [cost for cost, _ in found] == [cost for cost, _ in expected[:k]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 8))
def test_beam_search_as_wide_as_there_are_sets_finds_them(seed: int, n: int) -> None:
    inputs = random_inputs(seed, n)
    problem = Problem.of(*inputs)
    cliques = maximal_cliques(problem.neighbours)
    greedy = greedy_multipliers(problem, cliques, least_marginals(*inputs))
    order = _branching_order(problem, greedy)
    found = _beam_search(_Bound(problem, greedy), order, 2**n)
    assert sorted(found, key=scored_order) == all_sets(inputs)


def test_best_independent_sets_of_a_hard_crowd_end_at_the_limit() -> None:
    """Without a limit, the search takes longer than anybody waits."""
    rng = np.random.default_rng(0)
    n = 80
    upper = np.triu(rng.random((n, n)) < 0.3, 1)
    inputs = np.eye(n, dtype=bool), -rng.integers(90, 110, n) * 1.0, np.zeros(n), upper | upper.T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(independent_sets, "_MAX_WORK", 600_000)
        found, exact = best_independent_sets(*inputs, 8)
    assert not exact
    assert len(found) == 8
    for cost, taken in found:
        assert cost == inputs[1][list(taken)].sum()
        assert not inputs[3][np.ix_(taken, taken)].any()
    greedy: list[int] = []
    for i in np.argsort(inputs[1]):
        if not inputs[3][i, greedy].any():
            greedy.append(int(i))
    assert found[0][0] < inputs[1][greedy].sum()


@pytest.mark.parametrize("tolerance", [0.3, 1.0])
def test_best_independent_sets_of_ragged_masks_end_at_the_limits(tolerance: float) -> None:
    """Work is counted, not timed: a linear program over all of their atoms takes a minute."""
    rng = np.random.default_rng(1)
    decomposed = atoms(rng.random((30, 96, 128)) < 0.3)
    evidence = rng.normal(0.0, 1.0, len(decomposed.areas))
    conflict = conflict_graph(decomposed.intersections(), tolerance)
    rows, work = [], []

    def linear_program(*arguments: Any, **options: Any) -> Any:
        rows.append(options["A_ub"].shape[0])
        found = linprog(*arguments, **options)
        assert found.nit <= rows[-1]
        return found

    class Counted(_Bound):
        def __call__(self, state: _State) -> float:
            value = super().__call__(state)
            work.append(self.work)
            return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multipliers, "_MAX_ROWS", 600)
        patch.setattr(independent_sets, "_MAX_WORK", 2_000_000)
        patch.setattr("scipy.optimize.linprog", linear_program)
        patch.setattr(independent_sets, "_Bound", Counted)
        found, exact = best_independent_sets(
            decomposed.membership, evidence, np.zeros(30), conflict, 10
        )
    assert not exact
    assert rows[0] <= 600
    assert max(work) < 3 * 2_000_000
    assert found[0][0] <= 0.0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 8))
def test_bound_is_below_all_sets_that_a_state_leads_to(seed: int, n: int) -> None:
    """So are the simpler bounds by which states wait to be made."""
    inputs = random_inputs(seed, n)
    problem = Problem.of(*inputs)
    cliques = maximal_cliques(problem.neighbours)
    rng = np.random.default_rng(seed)
    sets = all_sets(inputs)

    def cheapest(state: _State) -> float:
        chosen = [(cost, sum(1 << i for i in taken)) for cost, taken in sets]
        return min(
            cost for cost, bits in chosen
            if bits & state.taken == state.taken and not bits & ~(state.taken | state.free)
        )  # fmt: skip

    for dual in (
        greedy_multipliers(problem, cliques, least_marginals(*inputs)),
        optimal_multipliers(problem, cliques),
    ):
        assert dual is not None
        bound = _Bound(problem, dual)
        order = _branching_order(problem, dual)
        assert sorted(order) == sorted(zip(dual.cliques, dual.clique, strict=True))
        for _ in range(5):
            state = bound.start
            while state.free:
                least = bound(state)
                assert least <= cheapest(state)
                clique, multiplier = order[rng.integers(len(order))]
                options = [i for i in range(n) if clique & state.free & 1 << i]
                if not options:
                    continue
                simpler = {None: multiplier} | {
                    i: bound.increase(i, state.covered) for i in options
                }
                for mask, increase in simpler.items():
                    assert least + increase <= cheapest(bound.after(state, (clique, mask)))
                state = bound.after(state, (clique, rng.choice([*simpler])))
            assert bound(state) <= state.cost == cheapest(state)


def test_optimal_multipliers_are_tight_where_the_greedy_ones_are_not() -> None:
    """A cycle of five masks in conflict, weights 1 to 5: cliques of two pay for three at most."""
    n = 5
    conflict = np.zeros((n, n), bool)
    for i in range(n):
        conflict[i, (i + 1) % n] = conflict[(i + 1) % n, i] = True
    inputs = np.eye(n, dtype=bool), -np.array([1.0, 2, 3, 4, 5]), np.zeros(n), conflict
    problem = Problem.of(*inputs)
    cliques = maximal_cliques(problem.neighbours)
    assert sorted(cliques) == sorted([0b11, 0b110, 0b1100, 0b11000, 0b10001])
    optimal = optimal_multipliers(problem, cliques)
    assert optimal is not None
    bound = _Bound(problem, optimal)
    least = bound(bound.start)
    [(best, taken)], _ = best_independent_sets(*inputs, 1)
    assert (best, taken) == (-8.0, (2, 4))
    assert best - 1e-5 < least <= best


@given(seed=st.integers(0, 10**6), n=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_maximal_cliques_hold_every_mask_and_every_edge(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((n, n)) < 0.5, 1)
    conflict = upper | upper.T
    cliques = maximal_cliques([int(sum(1 << int(j) for j in np.flatnonzero(r))) for r in conflict])
    members = [[i for i in range(n) if clique >> i & 1] for clique in cliques]
    for clique in members:
        assert all(conflict[a, b] for a, b in itertools.combinations(clique, 2))
        others = [i for i in range(n) if i not in clique and conflict[i, clique].all()]
        assert not others
    held = {pair for clique in members for pair in itertools.combinations(clique, 2)}
    assert held == {(a, b) for a, b in np.argwhere(upper)}
    assert set(itertools.chain.from_iterable(members)) == set(range(n))
