"""Stage 2: the cheapest path through the lattice of combinations (Section 3.3, App. B.2).

Layer t holds the K_t combinations of frame t; a path takes one of each layer. L_p is negative, so
Dijkstra's algorithm, which the paper names, does not apply; dynamic programming over the layers
does. Eq. 17 puts L_I(I_t) on the edge t -> t + 1 and so drops L_I of the last frame. Here L_I is
on the nodes, all T of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]
Edge = tuple[int, int, int]
"""(t, k, k'): from combination k of frame t to combination k' of frame t + 1."""


@dataclass(frozen=True)
class PathResult:
    """The cheapest known path, and the costs that were found on the way.

    Attributes:
        path: T combination indices.
        energy: cost of the path, all its edges evaluated.
        lower_bound: no path costs less; equal to `energy` unless the search ended early.
        edges: T - 1 arrays (K_t, K_t+1) float64: the cost where an edge was evaluated, its lower
            bound elsewhere.
        evaluated: T - 1 arrays (K_t, K_t+1) bool.
    """

    path: tuple[int, ...]
    energy: float
    lower_bound: float
    edges: tuple[Costs, ...] = field(repr=False)
    evaluated: tuple[NDArray[np.bool_], ...] = field(repr=False)


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


def lazy_shortest_path(
    nodes: Sequence[Costs],
    bounds: Sequence[Costs],
    edges: Sequence[Costs],
    evaluated: Sequence[NDArray[np.bool_]],
    evaluate: Callable[[list[Edge]], Sequence[float]],
    budget: int = 0,
    max_gap: float = 0.0,
) -> PathResult:
    """The cheapest path, found and proven with few evaluations.

    Lazy shortest path (Dellin and Srinivasa 2016): once all edges of the path that is cheapest
    under the lower bounds are evaluated, no other path can be cheaper. Two steps are repeated:

    1. Finding. All edges that leave one node exceed their bounds by about the same amount, since
       the flow of the same masks is synthesised. The path that is cheapest under the expected
       costs is evaluated, until it has no unknown edge.
    2. Proving. All edges are evaluated that could still be part of a cheaper path if every other
       edge had its expected cost. If there are none, it is every second unknown edge of the path
       that is cheapest under the bounds: a cost may rule out its neighbours, too.

    If the search ends before the proof, the result is the cheapest of the evaluated paths.

    Args:
        nodes: T arrays (K_t,).
        bounds: T - 1 arrays (K_t, K_t+1), lower bounds of the edges.
        edges: T - 1 arrays of the same shapes: the cost of a known edge, else its bound.
        evaluated: T - 1 bool arrays of the same shapes, true at the known edges.
        evaluate: gives the costs of a batch of edges, each at least its bound.
        budget: maximum number of edges to evaluate after a first path of T - 1; 0: no limit.
        max_gap: the search ends when no path can be cheaper by more than this.

    Raises:
        ValueError: a cost is not finite.
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
        expected = _expected(edges, raises, evaluated)
        hoped, cost = shortest_path(nodes, expected)
        batch = _missing(hoped, evaluated)
        batch = batch or _rivals(nodes, edges, expected, evaluated, cost) or missing[::2]
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
    """The unknown edges of a path."""
    steps = enumerate(pairwise(path))
    return [(t, k, m) for t, (k, m) in steps if not evaluated[t][k, m]]


def _typical(raises: Sequence[Costs]) -> float:
    """Mean excess of the costs that exceed their bounds; 0 where none does."""
    known = np.concatenate([raised[raised > 0] for raised in raises])
    return float(known.mean()) if len(known) else 0.0


def _expected(
    edges: Sequence[Costs], raises: Sequence[Costs], evaluated: Sequence[NDArray[np.bool_]]
) -> list[Costs]:
    """The expected cost of every edge: known, or the bound and most of the expected excess.

    The expected excess is the mean over the known edges from the same node or, where there are
    none, over all known edges. A part is left out, in favour of unknown edges.
    """
    optimism = 0.6
    typical = _typical(raises)
    expected = []
    for edge, raised, known in zip(edges, raises, evaluated, strict=True):
        count = known.sum(axis=1)
        mean = np.where(count > 0, raised.sum(axis=1) / np.maximum(count, 1), typical)
        expected.append(np.where(known, edge, edge + optimism * mean[:, None]))
    return expected


def _rivals(
    nodes: Sequence[Costs],
    edges: Sequence[Costs],
    expected: Sequence[Costs],
    evaluated: Sequence[NDArray[np.bool_]],
    least: float,
) -> list[Edge]:
    """The unknown edges whose bounds allow a path cheaper than `least`, best first.

    All other edges of the path have their expected costs.
    """
    before, after = _forward(nodes, expected), _backward(nodes, expected)
    rivals = []
    for t, (edge, known) in enumerate(zip(edges, evaluated, strict=True)):
        through = before[t][:, None] + edge + (nodes[t + 1] + after[t + 1])  # (K_t, K_t+1)
        allow = np.argwhere(~known & (through < least))
        rivals += [(float(through[k, m]), (t, int(k), int(m))) for k, m in allow]
    return [edge for _, edge in sorted(rivals)]


def node_min_marginals(nodes: Sequence[Costs], edges: Sequence[Costs]) -> list[Costs]:
    """The cost of the cheapest path through every node, by forward-backward.

    Returns:
        T arrays (K_t,) float64.
    """
    return [f + b for f, b in zip(_forward(nodes, edges), _backward(nodes, edges), strict=True)]


def reachable_costs(nodes: Sequence[Costs], edges: Sequence[Costs]) -> list[Costs]:
    """The cost of the cheapest path through every node to every node of the last layer.

    Returns:
        T arrays (K_t, K_T) float64.
    """
    onward = [np.where(np.eye(len(nodes[-1]), dtype=bool), 0.0, np.inf)]
    for edge, node in zip(reversed(edges), reversed(nodes[1:]), strict=True):
        steps = edge + node[None, :]  # (K_t, K_t+1)
        onward.append((steps[:, :, None] + onward[-1][None, :, :]).min(axis=1))
    return [f[:, None] + b for f, b in zip(_forward(nodes, edges), reversed(onward), strict=True)]


def _forward(nodes: Sequence[Costs], edges: Sequence[Costs]) -> list[Costs]:
    """T arrays (K_t,), the cost of the cheapest path from the first layer to every node."""
    forward = [nodes[0]]
    for edge, node in zip(edges, nodes[1:], strict=True):
        forward.append((forward[-1][:, None] + edge).min(axis=0) + node)
    return forward


def _backward(nodes: Sequence[Costs], edges: Sequence[Costs]) -> list[Costs]:
    """T arrays (K_t,), the cost of the cheapest path from every node, without it, to the end."""
    backward = [np.zeros_like(nodes[-1])]
    for edge, node in zip(reversed(edges), reversed(nodes[1:]), strict=True):
        backward.append((edge + (node + backward[-1])).min(axis=1))
    return backward[::-1]
