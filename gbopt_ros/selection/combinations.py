"""Stage 1: the K best combinations of a frame under the non-overlap rule (Section 3.3, App. B.1).

The loss of a combination is a constant plus the evidence of the atoms that it covers. So the K
best combinations are the K cheapest independent sets of the conflict graph. Its components share
no pixel: each is solved on its own, and the K best sums over components are merged.

The paper runs Dijkstra's algorithm on a binary tree. Its edges become negative once shared
sub-masks are subtracted. The search here holds for any sign.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.config import SelectionConfig
from gbopt_ros.selection.atoms import Atoms, atoms
from gbopt_ros.selection.bit_sets import bit_sets, bits
from gbopt_ros.selection.independent_sets import Scored, best_independent_sets, scored_order
from gbopt_ros.selection.objective import background_evidence, empty_background_loss, on_grid
from gbopt_ros.structures import Combination, are_probabilities

_LARGEST_LIST = 5_000  # sets of a component, times its atoms; a search of more is faster


def best_combinations(
    masks: NDArray[np.bool_],
    background: NDArray[np.floating],
    k: int,
    overlap_tolerance: float = 0.0,
    *,
    epsilon: float = SelectionConfig.epsilon,
    prior: NDArray[np.floating] | None = None,
) -> list[Combination]:
    """The K combinations of masks with the lowest background loss.

    The empty combination competes too. Two masks conflict if their intersection over the smaller
    mask exceeds the tolerance. Masks without pixels are never selected.

    Args:
        masks: (N, H, W) bool.
        background: (H, W) float, probability that a pixel belongs to no object.
        k: maximum number of combinations.
        overlap_tolerance: 0 is the paper's rule: no shared pixel.
        epsilon: probabilities are clipped to [epsilon, 1 - epsilon].
        prior: (N,) additional cost of selecting each mask, summed over its pixels, of either sign;
            None: no prior, as in the paper.

    Returns:
        Cheapest first; equal losses by fewer masks, then by lower indices. If several combinations
        cost as much as the k-th, any of them may be returned. In crowds of dozens of masks that
        overlap, the search may come to its limit; the result is then not proven to be the best.

    Raises:
        ValueError: shapes do not fit, k < 1, or a probability is not in [0, 1].
    """
    if masks.ndim != 3 or masks.shape[1:] != background.shape:
        raise ValueError(
            f"best_combinations: expected masks (N, H, W) and background (H, W), "
            f"got {masks.shape} and {background.shape}"
        )
    decomposed = atoms(masks.astype(bool, copy=False))
    combinations, _ = combinations_of_atoms(
        decomposed, background, k, overlap_tolerance, epsilon=epsilon, prior=prior
    )
    return combinations


def combinations_of_atoms(
    decomposed: Atoms,
    background: NDArray[np.floating],
    k: int,
    overlap_tolerance: float,
    *,
    epsilon: float,
    prior: NDArray[np.floating] | None = None,
) -> tuple[list[Combination], bool]:
    """As `best_combinations`, of decomposed masks; and whether they are proven to be the best."""
    if k < 1:
        raise ValueError(f"best_combinations: expected k >= 1, got {k}")
    if background.size and not are_probabilities(background.min(), background.max()):
        raise ValueError(
            f"expected background probabilities, from 0 to 1; got {background.min():g} to "
            f"{background.max():g}"
        )
    constant = empty_background_loss(background, epsilon)
    evidence = decomposed.sums(background_evidence(decomposed.covered(background), epsilon))
    unary = np.zeros(len(decomposed.membership)) if prior is None else on_grid(prior)
    best, exact = _best_sets(decomposed, evidence, unary, k, overlap_tolerance)
    combinations = [
        Combination(indices, (constant + value) / background.size) for value, indices in best
    ]
    return combinations, exact


def conflict_graph(shared: NDArray[np.int64], overlap_tolerance: float) -> NDArray[np.bool_]:
    """The non-overlap rule: pairs of masks that may not be selected together.

    Args:
        shared: (N, N) number of pixels that each pair shares; areas on the diagonal.
        overlap_tolerance: largest intersection over the smaller mask that is allowed; 0 in the
            paper.

    Returns:
        (N, N) bool, symmetric, false on the diagonal.
    """
    areas = np.diag(shared)
    smaller = np.minimum(areas[:, None], areas[None, :])
    conflict: NDArray[np.bool_] = shared > overlap_tolerance * smaller
    np.fill_diagonal(conflict, False)
    return conflict


def _best_sets(
    decomposed: Atoms,
    evidence: NDArray[np.float64],
    prior: NDArray[np.float64],
    k: int,
    overlap_tolerance: float,
) -> tuple[list[Scored], bool]:
    """The K cheapest sets of masks, and whether they are proven to be."""
    shared = decomposed.intersections()
    conflict = conflict_graph(shared, overlap_tolerance)
    best: list[Scored] = [(0.0, ())]
    exact = True
    for members in _components(shared > 0):
        member = decomposed.membership[members]
        used = member.any(axis=0)
        inputs = member[:, used], evidence[used], prior[members], conflict[members][:, members]
        if every := _all_sets(*inputs):
            found, proven = heapq.nsmallest(k, every, key=scored_order), True
        else:
            found, proven = best_independent_sets(*inputs, k)
        best = _merge(best, [(cost, tuple(members[i] for i in s)) for cost, s in found], k)
        exact &= proven
    return best, exact


def _all_sets(
    membership: NDArray[np.bool_],
    evidence: NDArray[np.float64],
    prior: NDArray[np.float64],
    conflict: NDArray[np.bool_],
) -> list[Scored] | None:
    """All sets of masks without a conflict; None if so many that a search is faster.

    Args:
        membership, evidence, prior, conflict: as for `best_independent_sets`.
    """
    n = len(membership)
    sets, covered = np.zeros((1, n), bool), np.zeros((1, len(evidence)), bool)
    for i in range(n):
        free = ~(sets @ conflict[i])
        sets = np.concatenate([sets, sets[free]])
        sets[len(covered) :, i] = True
        covered = np.concatenate([covered, covered[free] | membership[i]])
        if covered.size > _LARGEST_LIST:
            return None
    costs = (covered @ evidence + sets @ prior).tolist()
    return [(cost, tuple(bits(s))) for cost, s in zip(costs, bit_sets(sets), strict=True)]


def _components(touching: NDArray[np.bool_]) -> list[list[int]]:
    """Connected components of the masks that have pixels; `touching` is true on their diagonal."""
    remaining = set(np.flatnonzero(touching.diagonal()).tolist())
    components = []
    while remaining:
        component: set[int] = set()
        frontier = {min(remaining)}
        while frontier:
            component |= frontier
            neighbours = touching[list(frontier)].any(axis=0)
            frontier = set(np.flatnonzero(neighbours).tolist()) - component
        components.append(sorted(component))
        remaining -= component
    return components


def _merge(first: list[Scored], second: list[Scored], k: int) -> list[Scored]:
    """The K best sums of one set of each list; the lists share no index."""
    dearest = sorted([a + b for a, _ in first for b, _ in second])[:k][-1]
    sums = [
        (a + b, tuple(sorted(left + right)))
        for a, left in first
        for b, right in second
        if a + b <= dearest
    ]
    return heapq.nsmallest(k, sums, key=scored_order)
