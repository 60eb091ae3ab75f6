"""Brute force for both stages, written from the paper's equations and nothing else."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray


def cross_entropy(foreground: NDArray, background: NDArray, epsilon: float) -> float:
    """Eq. 3, mean over pixels."""
    bg = np.clip(background.astype(np.float64), epsilon, 1 - epsilon)
    return float(-np.where(foreground, np.log(1 - bg), np.log(bg)).mean())


def all_combinations(
    masks: NDArray, background: NDArray, tolerance: float, epsilon: float
) -> list[tuple[float, tuple[int, ...]]]:
    """(loss, indices) of every set of non-empty masks within the overlap rule, cheapest first."""
    n = len(masks)
    usable = [i for i in range(n) if masks[i].any()]

    def compatible(i: int, j: int) -> bool:
        shared = int((masks[i] & masks[j]).sum())
        return shared <= tolerance * min(int(masks[i].sum()), int(masks[j].sum()))

    found = []
    for size in range(len(usable) + 1):
        for indices in itertools.combinations(usable, size):
            if all(compatible(i, j) for i, j in itertools.combinations(indices, 2)):
                union = masks[list(indices)].any(axis=0)
                found.append((cross_entropy(union, background, epsilon), indices))
    return sorted(found)


def path_energy(nodes: list[NDArray], edges: list[NDArray], path: tuple[int, ...]) -> float:
    """The cost of a path through a layered graph."""
    cost = sum(layer[k] for layer, k in zip(nodes, path, strict=True))
    return float(cost + sum(edge[path[t], path[t + 1]] for t, edge in enumerate(edges)))


def all_paths(nodes: list[NDArray], edges: list[NDArray]) -> list[tuple[float, tuple[int, ...]]]:
    """(cost, path) of every path through a layered graph, cheapest first."""
    found = []
    for path in itertools.product(*(range(len(layer)) for layer in nodes)):
        found.append((path_energy(nodes, edges, path), path))
    return sorted(found)
