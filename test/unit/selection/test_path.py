"""Stage 2 against brute force: paths, laziness, min-marginals."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.oracles import all_paths, path_energy

from gbopt_ros.selection.path import (
    PathResult,
    lazy_shortest_path,
    node_min_marginals,
    shortest_path,
)


def random_graph(seed: int, layers: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, layers)
    nodes = [rng.integers(-4, 5, size) / 4 for size in sizes]  # a coarse grid makes ties common
    edges = [rng.integers(-4, 5, (a, b)) / 4 for a, b in pairwise(sizes)]
    return nodes, edges


graphs = st.builds(random_graph, st.integers(0, 10**6), st.integers(1, 5))


@settings(max_examples=200, deadline=None)
@given(graph=graphs)
def test_shortest_path_equals_brute_force(graph: tuple) -> None:
    nodes, edges = graph
    path, energy = shortest_path(nodes, edges)
    assert energy == all_paths(nodes, edges)[0][0]
    assert path_energy(nodes, edges, path) == energy


@settings(max_examples=200, deadline=None)
@given(graph=graphs, slack=st.integers(0, 10**6))
def test_lazy_shortest_path_finds_the_optimum_with_fewer_evaluations(
    graph: tuple, slack: int
) -> None:
    nodes, edges = graph
    rng = np.random.default_rng(slack)
    bounds = [edge - rng.integers(0, 4, edge.shape) / 4 for edge in edges]
    known = [rng.random(edge.shape) < 0.3 for edge in edges]
    bounds = [np.where(k, e, b) for k, e, b in zip(known, edges, bounds, strict=True)]
    asked: list[tuple[int, int, int]] = []

    def evaluate(batch: list[tuple[int, int, int]]) -> list[float]:
        asked.extend(batch)
        return [float(edges[t][k, m]) for t, k, m in batch]

    found = lazy_shortest_path(nodes, bounds, bounds, known, evaluate)
    assert found.energy == all_paths(nodes, edges)[0][0]
    assert path_energy(nodes, edges, found.path) == found.energy
    assert len(asked) == len(set(asked)), "an edge was evaluated twice"
    assert not any(known[t][k, m] for t, k, m in asked)
    for got, true, flags in zip(found.edges, edges, found.evaluated, strict=True):
        np.testing.assert_array_equal(got[flags], true[flags])
        assert np.all(got <= true)


@settings(max_examples=200, deadline=None)
@given(graph=graphs, budget=st.integers(1, 12))
def test_lazy_shortest_path_with_a_budget_gives_the_best_known_path_and_its_gap(
    graph: tuple, budget: int
) -> None:
    nodes, edges = graph
    rng = np.random.default_rng(budget)
    bounds = [edge - rng.integers(0, 8, edge.shape) / 4 for edge in edges]
    known = [np.zeros(edge.shape, bool) for edge in edges]
    runs = 0

    def evaluate(batch: list[tuple[int, int, int]]) -> list[float]:
        nonlocal runs
        runs += len(batch)
        return [float(edges[t][k, m]) for t, k, m in batch]

    found = lazy_shortest_path(nodes, bounds, bounds, known, evaluate, budget)
    optimum = all_paths(nodes, edges)[0][0]
    assert runs <= max(budget, len(edges))
    assert runs >= budget or found.lower_bound == found.energy, "some of the budget is left"
    assert found.lower_bound <= optimum <= found.energy
    assert path_energy(nodes, edges, found.path) == found.energy
    unlimited = lazy_shortest_path(nodes, bounds, bounds, known, evaluate)
    assert unlimited.lower_bound == unlimited.energy == optimum
    if found.lower_bound == found.energy:
        assert found.energy == optimum


@settings(max_examples=200, deadline=None)
@given(graph=graphs, gap=st.integers(1, 8))
def test_lazy_shortest_path_ends_at_the_gap(graph: tuple, gap: int) -> None:
    nodes, edges = graph
    rng = np.random.default_rng(gap)
    bounds = [edge - rng.integers(0, 8, edge.shape) / 4 for edge in edges]
    known = [np.zeros(edge.shape, bool) for edge in edges]

    def search(max_gap: float) -> tuple[PathResult, int]:
        asked = 0

        def evaluate(batch: list[tuple[int, int, int]]) -> list[float]:
            nonlocal asked
            asked += len(batch)
            return [float(edges[t][k, m]) for t, k, m in batch]

        return lazy_shortest_path(nodes, bounds, bounds, known, evaluate, max_gap=max_gap), asked

    found, runs = search(gap / 4)
    optimum = all_paths(nodes, edges)[0][0]
    assert found.lower_bound <= optimum <= found.energy <= found.lower_bound + gap / 4
    assert path_energy(nodes, edges, found.path) == found.energy
    assert runs <= search(0.0)[1]


def test_lazy_shortest_path_asks_at_once_for_all_edges_that_may_be_cheaper() -> None:
    """By hand: each edge that leaves combination 0 costs 1 more than its bound, no other does.

    The first path, 0 -> 0, costs 1.4. No other is expected to cost less (1 -> 1: 0.9 + 0.6), but
    by their bounds, 0.9, 1.0 and 1.2, all may.
    """
    nodes = [np.array([0.0, 0.1]), np.array([0.4, 0.4])]
    bounds = [np.array([[0.0, 0.8], [0.5, 0.4]])]
    costs = bounds[0] + [[1.0, 1.0], [0.0, 0.0]]
    asked = []

    def evaluate(batch: list[tuple[int, int, int]]) -> list[float]:
        asked.append(batch)
        return [float(costs[k, m]) for _, k, m in batch]

    known = [np.zeros((2, 2), bool)]
    found = lazy_shortest_path(nodes, bounds, bounds, known, evaluate)
    assert (found.path, found.energy) == ((1, 1), pytest.approx(0.9))
    assert asked == [[(0, 0, 0)], [(0, 1, 1), (0, 1, 0), (0, 0, 1)]]


@settings(max_examples=100, deadline=None)
@given(graph=graphs)
def test_node_min_marginals_equal_brute_force(graph: tuple) -> None:
    nodes, edges = graph
    paths = all_paths(nodes, edges)
    for t, through in enumerate(node_min_marginals(nodes, edges)):
        for k, cost in enumerate(through):
            assert cost == min(c for c, path in paths if path[t] == k)


def test_shortest_path_of_a_single_frame_takes_its_cheapest_node() -> None:
    path, energy = shortest_path([np.array([3.0, 1.0, 2.0])], [])
    assert (path, energy) == ((1,), 1.0)


def test_shortest_path_of_two_frames_by_hand() -> None:
    nodes = [np.array([0.0, 1.0]), np.array([0.0, 0.0])]
    edges = [np.array([[5.0, 4.0], [1.0, 2.0]])]
    assert shortest_path(nodes, edges) == ((1, 0), 2.0)


def test_shortest_path_prefers_lower_indices_in_ties() -> None:
    nodes = [np.zeros(3), np.zeros(3)]
    assert shortest_path(nodes, [np.zeros((3, 3))])[0] == (0, 0)
