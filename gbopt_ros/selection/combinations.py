"""Stage 1: the K best combinations of a frame under the non-overlap rule (Section 3.3, App. B.1).

The loss of a combination is a constant plus the evidence of the atoms that it covers. So the K
best combinations are the K cheapest independent sets of the conflict graph. Its components share
no pixel: best-first branch and bound solves each, and the K best sums over components are merged.

The paper runs Dijkstra's algorithm on a binary tree. Its edges become negative once shared
sub-masks are subtracted. The bound here holds for any sign.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.config import SelectionConfig
from gbopt_ros.masks import Atoms, atoms
from gbopt_ros.selection.objective import background_evidence, empty_background_loss, on_grid
from gbopt_ros.structures import Combination

_Scored = tuple[float, tuple[int, ...]]  # evidence of a set, its sorted indices


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
        cost as much as the k-th, any of them may be returned.

    Raises:
        ValueError: shapes do not fit, k < 1, or a probability is not finite.
    """
    if masks.ndim != 3 or masks.shape[1:] != background.shape:
        raise ValueError(
            f"best_combinations: expected masks (N, H, W) and background (H, W), "
            f"got {masks.shape} and {background.shape}"
        )
    decomposed = atoms(masks.astype(bool, copy=False))
    return combinations_of_atoms(
        decomposed, background, k, overlap_tolerance,
        epsilon=epsilon, prior=prior,
    )  # fmt: skip


def combinations_of_atoms(
    decomposed: Atoms,
    background: NDArray[np.floating],
    k: int,
    overlap_tolerance: float,
    *,
    epsilon: float,
    prior: NDArray[np.floating] | None = None,
) -> list[Combination]:
    """`best_combinations` of masks that are decomposed already."""
    if k < 1:
        raise ValueError(f"best_combinations: expected k >= 1, got {k}")
    if not np.all(np.isfinite(background)):
        raise ValueError("best_combinations: background holds values that are not finite")
    constant = empty_background_loss(background, epsilon)
    evidence = decomposed.sums(background_evidence(decomposed.covered(background), epsilon))
    unary = np.zeros(len(decomposed.membership)) if prior is None else on_grid(prior)
    best = _best_sets(decomposed, evidence, unary, k, overlap_tolerance)
    return [Combination(indices, (constant + value) / background.size) for value, indices in best]


def conflict_graph(decomposed: Atoms, overlap_tolerance: float) -> NDArray[np.bool_]:
    """The non-overlap rule: (N, N) bool, symmetric, pairs that may not be selected together."""
    shared = decomposed.intersections()
    areas = np.diag(shared)
    smaller = np.minimum(areas[:, None], areas[None, :])
    conflict = shared > overlap_tolerance * smaller
    np.fill_diagonal(conflict, False)
    return conflict


def _best_sets(
    decomposed: Atoms,
    evidence: NDArray[np.float64],
    prior: NDArray[np.float64],
    k: int,
    overlap_tolerance: float,
) -> list[_Scored]:
    conflict = conflict_graph(decomposed, overlap_tolerance)
    touching = decomposed.intersections() > 0
    best: list[_Scored] = [(0.0, ())]
    for members in _components(touching):
        component = _Component(
            members,
            decomposed.membership[members],
            evidence,
            prior[members],
            conflict[np.ix_(members, members)],
        )
        best = _merge(best, _best_of_component(component, k), k)
    return best


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


def _order(scored: _Scored) -> tuple[float, int, tuple[int, ...]]:
    return scored[0], len(scored[1]), scored[1]


def _merge(first: list[_Scored], second: list[_Scored], k: int) -> list[_Scored]:
    """The K best sums of one set of each list; the lists share no index."""
    sums = [(a + b, tuple(sorted(left + right))) for a, left in first for b, right in second]
    return heapq.nsmallest(k, sums, key=_order)


@dataclass(frozen=True)
class _Component:
    """Masks that are connected by shared pixels, n of them.

    Attributes:
        indices: candidate indices of the masks.
        membership: (n, A) bool, the atoms of each mask.
        evidence: (A,) float64, for each atom.
        prior: (n,) float64, for each mask.
        conflict: (n, n) bool.
    """

    indices: list[int]
    membership: NDArray[np.bool_]
    evidence: NDArray[np.float64]
    prior: NDArray[np.float64]
    conflict: NDArray[np.bool_]


class _State(NamedTuple):
    """Decisions on the first masks of a component, in the heap's order.

    Of equal bounds the most complete state goes first, then the one that was made first.
    """

    bound: float
    negative_depth: int
    serial: int
    cost: float
    taken: tuple[int, ...]
    free: NDArray[np.bool_]  # (n,) compatible with all that is taken
    covered: NDArray[np.bool_]  # (A,) atoms paid for


def _best_of_component(component: _Component, k: int) -> list[_Scored]:
    """Best-first branch and bound over the masks in a fixed order, each taken or left.

    At most one mask of a clique of the conflict graph can be taken. So the bound of a state adds,
    for every clique of a greedy clique cover, the best marginal of a mask that is still free.
    States are popped in the order of their bounds, so complete states appear cheapest first.
    """
    if len(component.indices) == 1:
        alone = float(component.evidence[component.membership[0]].sum() + component.prior[0])
        return sorted([(0.0, ()), (alone, (component.indices[0],))], key=_order)[:k]
    used = component.membership.any(axis=0)
    member = component.membership[:, used]
    evidence = component.evidence[used]
    floor = component.prior + _marginal_floor(member, evidence, component.conflict)
    order = np.lexsort((np.array(component.indices), floor))
    member, floor, prior = member[order], floor[order], component.prior[order]
    conflict = component.conflict[np.ix_(order, order)]
    indices = [component.indices[i] for i in order]
    cliques = _clique_cover(conflict)
    n = len(indices)
    heap: list[_State] = []
    serials = itertools.count()

    def push(
        cost: float,
        depth: int,
        taken: tuple[int, ...],
        free: NDArray[np.bool_],
        covered: NDArray[np.bool_],
    ) -> None:
        gains = np.where(free, np.minimum(floor, 0.0), 0.0)
        gains[:depth] = 0.0
        best_of_clique = np.zeros(n)
        np.minimum.at(best_of_clique, cliques, gains)
        bound = cost + float(best_of_clique.sum())
        heapq.heappush(heap, _State(bound, -depth, next(serials), cost, taken, free, covered))

    push(0.0, 0, (), np.ones(n, bool), np.zeros(len(evidence), bool))
    best: list[_Scored] = []
    while heap and len(best) < k:
        state = heapq.heappop(heap)
        depth = -state.negative_depth
        while depth < n and not state.free[depth]:
            depth += 1
        if depth == n:
            best.append((state.cost, tuple(sorted(indices[i] for i in state.taken))))
            continue
        push(state.cost, depth + 1, state.taken, state.free, state.covered)
        added = member[depth] & ~state.covered
        push(
            state.cost + float(evidence[added].sum() + prior[depth]),
            depth + 1,
            (*state.taken, depth),
            state.free & ~conflict[depth],
            state.covered | member[depth],
        )
    return sorted(best, key=_order)


def _marginal_floor(
    member: NDArray[np.bool_], evidence: NDArray[np.float64], conflict: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(n,) the least evidence that taking a mask can add, whatever is taken already.

    Atoms shared with a compatible mask may be covered already, so only negative evidence of them
    counts. With tolerance 0 there are none, and the floor is the mask's own evidence.
    """
    floor = np.zeros(len(member))
    compatible = ~conflict
    np.fill_diagonal(compatible, False)
    for i, row in enumerate(member):
        shared = row & member[compatible[i]].any(axis=0)
        floor[i] = evidence[row & ~shared].sum() + np.minimum(evidence[shared], 0.0).sum()
    return floor


def _clique_cover(conflict: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n,) number of the clique of each mask: greedily, the first clique that it fits into."""
    cliques: list[list[int]] = []
    labels = np.zeros(len(conflict), np.int64)
    for i in range(len(conflict)):
        for label, clique in enumerate(cliques):
            if conflict[i, clique].all():
                clique.append(i)
                labels[i] = label
                break
        else:
            labels[i] = len(cliques)
            cliques.append([i])
    return labels
