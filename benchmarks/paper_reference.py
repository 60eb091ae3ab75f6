"""The paper's optimisation as written (Appendix B), to compare with; slow on purpose.

Stage 1 is Dijkstra's algorithm, iterated, on the binary tree of "selected" and "not selected".
The paper does not say how a path that was found is kept from being found again; here every path
inherits the edges that were set to infinity when it was found (Lawler 1972), which is complete.

Where it is valid: candidates that share no pixel. With overlaps the states of shared sub-masks
follow the last node that was added ("we subtract the contribution of the shared sub-masks according
to their assigned state in the previous node"), so that a mask left out after an overlapping one was
selected takes its pixels back to the background: the weight of the path is then not L_I of the
combination. Keeping selected pixels selected (`keep_foreground`) mends the weights, but edges can
be negative then, and the first leaf that Dijkstra's algorithm reaches need not be the cheapest.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Path = tuple[bool, ...]
Bans = frozenset[Path]  # edges by the choices that lead to their end


class BinaryTree:
    """The tree of Figures 8 and 10 over N masks.

    Args:
        masks: (N, H, W) bool.
        background: (H, W) float, probability that a pixel belongs to no object.
        epsilon: probabilities are clipped to [epsilon, 1 - epsilon].
        keep_foreground: a sub-mask that was selected stays so, whatever later nodes say.
    """

    def __init__(
        self,
        masks: NDArray[np.bool_],
        background: NDArray[np.floating],
        epsilon: float,
        keep_foreground: bool = False,
    ) -> None:
        bg = np.clip(background.astype(np.float64), epsilon, 1 - epsilon)
        self.n, self.keep_foreground = len(masks), keep_foreground
        # Decomposing, then hashing: sub-masks by the set of masks that cover their pixels.
        codes = {}
        for pixel in np.argwhere(masks.any(axis=0)):
            codes.setdefault(masks[:, pixel[0], pixel[1]].tobytes(), []).append(tuple(pixel))
        self.sub_masks: list[list[int]] = [[] for _ in masks]
        self.costs: list[tuple[float, float]] = []  # of each sub-mask: background, foreground
        for code, pixels in codes.items():
            rows, columns = np.array(pixels).T
            values = bg[rows, columns]
            for i in np.flatnonzero(np.frombuffer(code, bool)):
                self.sub_masks[i].append(len(self.costs))
            self.costs.append((-np.log(values).sum(), -np.log(1 - values).sum()))
        self.rest = float(-np.log(bg[~masks.any(axis=0)]).sum())

    def step(self, states: dict[int, bool], i: int, select: bool) -> float:
        """Weight of the edge that selects mask i or does not; updates the states."""
        weight = 0.0
        for sub_mask in self.sub_masks[i]:
            before = states.get(sub_mask)
            if before is True and select:
                return np.inf
            if before is select or (before is True and self.keep_foreground):
                continue
            if before is not None:
                weight -= self.costs[sub_mask][before]
            weight += self.costs[sub_mask][select]
            states[sub_mask] = select
        return weight

    def shortest(self, bans: Bans) -> tuple[float, tuple[bool, ...]] | None:
        """Dijkstra's algorithm from the root to the first leaf that it reaches."""
        serial = itertools.count()
        heap: list[tuple[float, int, tuple[bool, ...], dict[int, bool]]] = [
            (0.0, next(serial), (), {})
        ]
        while heap:
            cost, _, path, states = heapq.heappop(heap)
            if len(path) == self.n:
                return cost, path
            for select in (False, True):
                child = (*path, select)
                if child in bans:
                    continue
                assigned = dict(states)
                weight = self.step(assigned, len(path), select)
                if np.isfinite(weight):
                    heapq.heappush(heap, (cost + weight, next(serial), child, assigned))
        return None


def best_combinations(
    masks: NDArray[np.bool_],
    background: NDArray[np.floating],
    k: int,
    epsilon: float,
    keep_foreground: bool = False,
) -> list[tuple[float, tuple[int, ...]]]:
    """(weight of the path, mean over pixels; indices) of the K shortest paths, shortest first."""
    tree = BinaryTree(masks, background, epsilon, keep_foreground)
    first = tree.shortest(frozenset())
    assert first is not None, "the empty combination is always there"
    serial = itertools.count()
    waiting: list[tuple[float, Path, int, Bans]] = [(*first, next(serial), frozenset())]
    found: list[tuple[float, tuple[bool, ...]]] = []
    seen = set()
    while waiting and len(found) < k:
        cost, path, _, bans = heapq.heappop(waiting)
        # Found before under other bans: what these leave besides it is behind its last edge.
        depths = range(1, len(path) + 1) if path not in seen else [len(path)]
        if path not in seen:
            seen.add(path)
            found.append((cost, path))
        for depth in depths:
            tighter = bans | {path[:depth]}
            other = tree.shortest(tighter)
            if other is not None:
                heapq.heappush(waiting, (*other, next(serial), tighter))
    return [
        ((cost + tree.rest) / background.size, tuple(int(i) for i in np.flatnonzero(path)))
        for cost, path in found
    ]


def shortest_path(
    nodes: Sequence[NDArray[np.float64]], edges: Sequence[NDArray[np.float64]]
) -> tuple[float, tuple[int, ...]]:
    """Dijkstra's algorithm on the layered graph, its negative weights shifted by a constant."""
    shift = -min(0.0, *(float(e.min()) for e in edges), *(float(n.min()) for n in nodes))
    heap = [(float(c) + shift, (k,)) for k, c in enumerate(nodes[0])]
    heapq.heapify(heap)
    settled = set()
    while heap:
        cost, path = heapq.heappop(heap)
        t = len(path) - 1
        if (t, path[-1]) in settled:
            continue
        settled.add((t, path[-1]))
        if t == len(nodes) - 1:
            return cost - shift * (2 * t + 1), path
        for m, weight in enumerate(edges[t][path[-1]] + nodes[t + 1]):
            heapq.heappush(heap, (cost + float(weight) + 2 * shift, (*path, m)))
    raise ValueError("no path")
