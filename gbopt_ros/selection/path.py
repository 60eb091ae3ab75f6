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
    forward = _forward(nodes, edges)
    path = [int(forward[-1].argmin())]
    for before, edge in zip(reversed(forward[:-1]), reversed(edges), strict=True):
        path.append(int((before + edge[:, path[-1]]).argmin()))
    return tuple(reversed(path)), float(forward[-1].min())


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
        budget: maximum number of edges to evaluate; 0: no limit. A first path is always evaluated,
            which may take T - 1.
        max_gap: the search ends when no path can be cheaper by more than this.

    Raises:
        ValueError: a cost is not finite.
    """
    lattice = _Padded(nodes, bounds, edges, evaluated)
    runs = 0
    while True:
        path, least = shortest_path(lattice.nodes, [*lattice.edges])
        missing = _missing(path, lattice.evaluated)
        if not missing:
            return lattice.result(path, least, least)
        expected = lattice.expected()
        hoped, cost = shortest_path(lattice.nodes, expected)
        batch = _missing(hoped, lattice.evaluated)
        batch = batch or lattice.rivals(expected, cost) or missing[::2]
        if budget or max_gap:
            sure = np.where(lattice.evaluated, lattice.edges, np.inf)
            known_path, known = shortest_path(lattice.nodes, [*sure])
            if known - least <= max_gap or (budget and runs >= budget and np.isfinite(known)):
                return lattice.result(known_path, known, least)
            if budget and np.isfinite(known):
                batch = batch[: budget - runs]
        runs += len(batch)
        for (t, k, m), cost in zip(batch, evaluate(batch), strict=True):
            if not np.isfinite(cost):
                raise ValueError(f"edge {k} -> {m} of frame {t}: cost is not finite ({cost})")
            lattice.edges[t, k, m] = max(cost, bounds[t][k, m])
            lattice.evaluated[t, k, m] = True


def _missing(path: tuple[int, ...], evaluated: NDArray[np.bool_]) -> list[Edge]:
    """The unknown edges of a path."""
    steps = enumerate(pairwise(path))
    return [(t, k, m) for t, (k, m) in steps if not evaluated[t, k, m]]


class _Padded:
    """A lattice with as many nodes in every layer, so that one operation serves all layers.

    Nodes and edges that do not exist cost inf and count as known.

    Attributes:
        nodes: T arrays (K,) float64.
        edges: (T - 1, K, K) float64, the cost where it is known, else its bound.
        evaluated: (T - 1, K, K) bool.
    """

    def __init__(
        self,
        nodes: Sequence[Costs],
        bounds: Sequence[Costs],
        edges: Sequence[Costs],
        evaluated: Sequence[NDArray[np.bool_]],
    ) -> None:
        t, k = len(nodes), max(map(len, nodes))
        self.nodes, self.edges = [*np.full((t, k), np.inf)], np.full((t - 1, k, k), np.inf)
        self.evaluated = np.ones((t - 1, k, k), bool)
        self._exists, self._bounds = ~self.evaluated, np.zeros((t - 1, k, k))
        self._shapes = [edge.shape for edge in edges]
        for padded, values in zip(self.nodes, nodes, strict=True):
            padded[: len(values)] = values
        for i, (first, second) in enumerate(self._shapes):
            place = i, slice(first), slice(second)
            self._exists[place], self._bounds[place] = True, bounds[i]
            self.edges[place], self.evaluated[place] = edges[i], evaluated[i]

    def expected(self) -> list[Costs]:
        """The expected cost of every edge: known, or the bound and most of the expected excess.

        The expected excess is the mean over the known edges from the same node or, where there are
        none, over all known edges. A part is left out, in favour of unknown edges.

        Returns:
            T - 1 arrays (K, K).
        """
        optimism = 0.6
        excess = np.where(self._exists, self.edges - self._bounds, 0.0)
        raised = excess[excess > 0]
        typical = raised.mean() if len(raised) else 0.0
        count = (self.evaluated & self._exists).sum(axis=2)  # (T - 1, K)
        mean = np.where(count > 0, excess.sum(axis=2) / np.maximum(count, 1), typical)
        return [*np.where(self.evaluated, self.edges, self.edges + optimism * mean[:, :, None])]

    def rivals(self, expected: Sequence[Costs], least: float) -> list[Edge]:
        """The unknown edges whose bounds allow a path cheaper than `least`, best first.

        All other edges of the path have their expected costs.
        """
        before = np.array(_forward(self.nodes, expected))
        after = np.array(self.nodes) + np.array(_backward(self.nodes, expected))
        through = before[:-1, :, None] + self.edges + after[1:, None, :]  # (T - 1, K, K)
        allow = np.argwhere(~self.evaluated & (through < least))
        best_first = np.argsort(through[tuple(allow.T)], kind="stable")
        return [(t, k, m) for t, k, m in allow[best_first].tolist()]

    def result(self, path: tuple[int, ...], energy: float, lower_bound: float) -> PathResult:
        parts = [(i, slice(first), slice(second)) for i, (first, second) in enumerate(self._shapes)]
        edges = tuple(self.edges[part].copy() for part in parts)
        evaluated = tuple(self.evaluated[part].copy() for part in parts)
        return PathResult(path, energy, lower_bound, edges, evaluated)


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
