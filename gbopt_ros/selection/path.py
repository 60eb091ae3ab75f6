"""Stage 2: the cheapest path through the layered graph of combinations (Section 3.3, App. B.2).

Layer t holds the K_t combinations of frame t; a path takes one of each. L_p is negative, so the
condition of Dijkstra's algorithm that the paper names does not hold; dynamic programming over
the layers needs none. Eq. 17 puts L_I(I_t) on the edge t -> t + 1 and so drops that of the last
frame; here it stands on the nodes, all T of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]
Edge = tuple[int, int, int]
"""(t, k, k'): from combination k of frame t to combination k' of frame t + 1."""


@dataclass(frozen=True)
class PathResult:
    """The cheapest path that is known, and what is known of the graph.

    Attributes:
        path: T combination indices.
        energy: cost of the path, every edge of it evaluated.
        lower_bound: no path costs less; equal to `energy` unless the budget ran out.
        edges: T - 1 arrays (K_t, K_t+1) float64: the cost where an edge was evaluated, its lower
            bound elsewhere.
        evaluated: T - 1 arrays (K_t, K_t+1) bool.
    """

    path: tuple[int, ...]
    energy: float
    lower_bound: float
    edges: tuple[Costs, ...]
    evaluated: tuple[NDArray[np.bool_], ...]


def shortest_path(nodes: Sequence[Costs], edges: Sequence[Costs]) -> tuple[tuple[int, ...], float]:
    """The cheapest path and its cost, by dynamic programming, O(T K^2).

    Args:
        nodes: T arrays (K_t,), K_t >= 1.
        edges: T - 1 arrays (K_t, K_t+1).

    Returns:
        T combination indices (of equally cheap paths the one that prefers lower indices from
        the last frame on backwards), and the cost.
    """
    backward: list[NDArray[np.intp]] = []
    best = nodes[0]
    for edge, node in zip(edges, nodes[1:], strict=True):
        through = best[:, None] + edge  # (K_t, K_t+1)
        came_from = through.argmin(axis=0)
        backward.append(came_from)
        best = through[came_from, np.arange(len(node))] + node
    path = [int(best.argmin())]
    for came_from in reversed(backward):
        path.append(int(came_from[path[-1]]))
    return tuple(reversed(path)), float(best.min())


def path_energy(nodes: Sequence[Costs], edges: Sequence[Costs], path: Sequence[int]) -> float:
    """The cost of a given path."""
    energy = sum(float(node[k]) for node, k in zip(nodes, path, strict=True))
    steps = zip(edges, path, path[1:], strict=False)
    return energy + sum(float(edge[k, m]) for edge, k, m in steps)


def lazy_shortest_path(
    nodes: Sequence[Costs],
    bounds: Sequence[Costs],
    known: Sequence[NDArray[np.bool_]],
    evaluate: Callable[[list[Edge]], Sequence[float]],
    budget: int = 0,
) -> PathResult:
    """The cheapest path, evaluating only edges that the best path of lower bounds runs through.

    The edges of a first path are evaluated all at once, then some of each next path. Lazy shortest
    path (Dellin and Srinivasa 2016): when every edge of the path that is cheapest under the bounds
    has been evaluated, no other path can be cheaper. Where the budget ends the search before, the
    result is the cheapest of the paths that are evaluated all along, and the bound of the last
    path sought is the gap's other end.

    Args:
        nodes: T arrays (K_t,).
        bounds: T - 1 arrays (K_t, K_t+1), lower bounds of the edges.
        known: T - 1 bool arrays of the same shapes: where a bound is the cost itself.
        evaluate: the costs of a batch of edges, each at least its bound.
        budget: edges to evaluate at most, the T - 1 of a first path apart; 0 is no limit.
    """
    edges = [bound.copy() for bound in bounds]
    evaluated = [flag.copy() for flag in known]
    runs = 0
    first_is_known = False
    while True:
        path, energy = shortest_path(nodes, edges)
        missing = [(t, k, m) for t, (k, m) in enumerate(pairwise(path)) if not evaluated[t][k, m]]
        if not missing:
            return PathResult(path, energy, energy, tuple(edges), tuple(evaluated))
        if budget and first_is_known and runs + len(missing) > budget:
            sure = [np.where(e, c, np.inf) for c, e in zip(edges, evaluated, strict=True)]
            known_path, known_energy = shortest_path(nodes, sure)
            return PathResult(known_path, known_energy, energy, tuple(edges), tuple(evaluated))
        if first_is_known:
            missing = _apart(missing, evaluated)
        first_is_known = True
        runs += len(missing)
        for (t, k, m), cost in zip(missing, evaluate(missing), strict=True):
            if not np.isfinite(cost):
                raise ValueError(f"edge {k} -> {m} of frame {t}: cost is not finite ({cost})")
            edges[t][k, m] = max(cost, bounds[t][k, m])
            evaluated[t][k, m] = True


def _apart(edges: list[Edge], evaluated: Sequence[NDArray[np.bool_]]) -> list[Edge]:
    """Some of a path's edges, no two of them next to each other.

    A cost may rule out either end of its edge, and the edges next to it are not needed then. Pairs
    of frames of which little is known go first: there a cost rules out most.
    """
    chosen: list[Edge] = []
    for edge in sorted(edges, key=lambda e: int(evaluated[e[0]].sum())):
        if all(abs(edge[0] - other[0]) > 1 for other in chosen):
            chosen.append(edge)
    return chosen


def node_min_marginals(nodes: Sequence[Costs], edges: Sequence[Costs]) -> list[Costs]:
    """For every node the cost of the cheapest path through it, by forward-backward.

    Returns:
        T arrays (K_t,) float64.
    """
    forward = [nodes[0]]
    for edge, node in zip(edges, nodes[1:], strict=True):
        forward.append((forward[-1][:, None] + edge).min(axis=0) + node)
    backward = [np.zeros_like(nodes[-1])]
    for edge, node in zip(reversed(edges), reversed(nodes[1:]), strict=True):
        backward.append((edge + (node + backward[-1])[None, :]).min(axis=1))
    return [f + b for f, b in zip(forward, reversed(backward), strict=True)]


def reachable_costs(nodes: Sequence[Costs], edges: Sequence[Costs]) -> list[Costs]:
    """The cheapest path through every node to every node of the last layer.

    Returns:
        T arrays (K_t, K_T) float64.
    """
    last = len(nodes[-1])
    onward = [np.where(np.eye(last, dtype=bool), 0.0, np.inf)]
    for edge, node in zip(reversed(edges), reversed(nodes[1:]), strict=True):
        steps = edge + node[None, :]  # (K_t, K_t+1)
        onward.append((steps[:, :, None] + onward[-1][None, :, :]).min(axis=1))
    forward = [nodes[0]]
    for edge, node in zip(edges, nodes[1:], strict=True):
        forward.append((forward[-1][:, None] + edge).min(axis=0) + node)
    return [f[:, None] + b for f, b in zip(forward, reversed(onward), strict=True)]
