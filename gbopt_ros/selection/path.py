"""Stage 2: the cheapest path through the lattice of combinations (Section 3.3, App. B.2).

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
    """The cheapest path that is known, and what is known of the lattice.

    Attributes:
        path: T combination indices.
        energy: cost of the path, every edge of it evaluated.
        lower_bound: no path costs less; equal to `energy` unless the search was ended before.
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
    edges: Sequence[Costs],
    evaluated: Sequence[NDArray[np.bool_]],
    evaluate: Callable[[list[Edge]], Sequence[float]],
    budget: int = 0,
    max_gap: float = 0.0,
) -> PathResult:
    """The cheapest path, evaluating only what is needed to find it and to prove that it is.

    Lazy shortest path (Dellin and Srinivasa 2016): when every edge of the path that is cheapest
    under lower bounds has been evaluated, no other path can be cheaper. Which edges are evaluated
    decides how soon that is:

    1. Finding. Costs exceed their bounds, and by about as much on all edges that leave one node:
       there the masks whose flow is synthesised are the same. The path that is cheapest under
       what is to be expected is evaluated all along, until it has no unknown edge.
    2. Proving. Of the path that is cheapest under the bounds, the edges that most other cheap
       paths run through are evaluated: they rule out most at a time.

    Where the search is ended before the proof, the result is the cheapest of the paths that are
    evaluated all along, and the bound of the last path sought is the gap's other end.

    Args:
        nodes: T arrays (K_t,).
        bounds: T - 1 arrays (K_t, K_t+1), lower bounds of the edges.
        edges: T - 1 arrays of the same shapes: the cost of an edge where it is known already, its
            bound elsewhere.
        evaluated: T - 1 bool arrays of the same shapes: where a cost is known already.
        evaluate: the costs of a batch of edges, each at least its bound.
        budget: edges to evaluate at most, the T - 1 of a first path apart; 0 is no limit.
        max_gap: the search ends when no path can be cheaper by more than this.
    """
    edges = [edge.copy() for edge in edges]
    evaluated = [flag.copy() for flag in evaluated]
    runs = 0
    while True:
        path, least = shortest_path(nodes, edges)
        missing = _missing(path, evaluated)
        if not missing:
            return PathResult(path, least, least, tuple(edges), tuple(evaluated))
        raises = [edge - bound for edge, bound in zip(edges, bounds, strict=True)]
        batch = _missing(shortest_path(nodes, _expected(edges, raises, evaluated))[0], evaluated)
        batch = batch or _contested(missing, nodes, edges, _typical(raises) / 3)
        if budget or max_gap:
            sure = [np.where(e, c, np.inf) for c, e in zip(edges, evaluated, strict=True)]
            known_path, known = shortest_path(nodes, sure)
            if known - least <= max_gap or (budget and runs >= budget and np.isfinite(known)):
                return PathResult(known_path, known, least, tuple(edges), tuple(evaluated))
            if budget and np.isfinite(known):
                batch = batch[: budget - runs]
        runs += len(batch)
        for (t, k, m), cost in zip(batch, evaluate(batch), strict=True):
            if not np.isfinite(cost):
                raise ValueError(f"edge {k} -> {m} of frame {t}: cost is not finite ({cost})")
            edges[t][k, m] = max(cost, bounds[t][k, m])
            evaluated[t][k, m] = True


def _missing(path: Sequence[int], evaluated: Sequence[NDArray[np.bool_]]) -> list[Edge]:
    """The edges of a path that are not evaluated."""
    steps = enumerate(pairwise(path))
    return [(t, k, m) for t, (k, m) in steps if not evaluated[t][k, m]]


def _typical(raises: Sequence[Costs]) -> float:
    """By how much a cost exceeds its bound, on average; 0 where none is known to do so."""
    known = np.concatenate([raised[raised > 0] for raised in raises])
    return float(known.mean()) if len(known) else 0.0


def _expected(
    edges: Sequence[Costs], raises: Sequence[Costs], evaluated: Sequence[NDArray[np.bool_]]
) -> list[Costs]:
    """The costs of evaluated edges, of all others their bound and most of the raise to expect.

    That is the mean raise of the edges from the same node, or of all where none of these is
    known. Part of it is left out in favour of edges of which nothing is known.
    """
    optimism = 0.6
    typical = _typical(raises)
    expected = []
    for edge, raised, known in zip(edges, raises, evaluated, strict=True):
        count = known.sum(axis=1)
        mean = np.where(count > 0, raised.sum(axis=1) / np.maximum(count, 1), typical)
        expected.append(np.where(known, edge, edge + optimism * mean[:, None]))
    return expected


def _contested(
    missing: list[Edge], nodes: Sequence[Costs], edges: Sequence[Costs], temperature: float
) -> list[Edge]:
    """Of a path's missing edges those that most cheap paths run through, no two adjacent.

    Paths count with weight exp(-cost / temperature), summed by forward-backward (as Dellin and
    Srinivasa's partition selector). A cost may rule out either end of its edge, and the edges
    next to it are not needed then.

    Args:
        temperature: above 0; it is, where the expected costs differ from the bounds.
    """
    forward = [-nodes[0] / temperature]
    for edge, node in zip(edges, nodes[1:], strict=True):
        through = np.logaddexp.reduce(forward[-1][:, None] - edge / temperature, axis=0)
        forward.append(through - node / temperature)
    backward = [-nodes[-1] / temperature]
    for edge, node in zip(reversed(edges), reversed(nodes[:-1]), strict=True):
        onward = np.logaddexp.reduce(backward[-1] - edge / temperature, axis=1)
        backward.append(onward - node / temperature)
    backward.reverse()
    weights = {
        (t, k, m): float(forward[t][k] - edges[t][k, m] / temperature + backward[t + 1][m])
        for t, k, m in missing
    }
    enough = max(weights.values()) + np.log(0.8)
    chosen: list[Edge] = []
    for candidate in sorted(missing, key=lambda e: -weights[e]):
        apart = all(abs(candidate[0] - other[0]) > 1 for other in chosen)
        if weights[candidate] >= enough and apart:
            chosen.append(candidate)
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
