"""The K cheapest independent sets of a conflict graph: the search of stage 1.

A set of masks costs the evidence of every atom that it covers, once, and the prior of its masks.
Two masks of a clique of the conflict graph cannot both be taken. The search branches on one clique
after the other: one of its masks is taken, or none. States are popped in the order of a lower bound
on all sets that they lead to, so sets appear cheapest first.

The bound comes from multipliers of cliques and atoms (multipliers.py). The search branches first
where the linear program takes fractions of masks, as there its bound is too low, and then where a
wrong decision costs most: both raise the bounds of all states below at once.

The search is exact, but its time may grow exponentially with the number of masks. At a limit of
work it gives way to a beam search, and says so.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.selection.bit_sets import bit_sets, bits
from gbopt_ros.selection.multipliers import (
    Multipliers,
    Problem,
    covered_by_compatible,
    greedy_multipliers,
    maximal_cliques,
    optimal_multipliers,
)

_GREEDY_UP_TO = 20  # masks; solving the linear program takes longer than it saves below
_ROUNDING = 1e-6  # nats; bounds and costs add the same numbers in different orders
# A limit of work, which unlike a limit of time leaves the result the same everywhere.
_MAX_WORK = 10_000_000  # of the search, in terms of bounds: one to two seconds
_WORK_OF_STATE = 500  # terms that take as long as a state does beside its bound

Scored = tuple[float, tuple[int, ...]]
"""Cost of a set and its sorted indices."""


def scored_order(scored: Scored) -> tuple[float, int, tuple[int, ...]]:
    """Cheapest first; equal costs by fewer masks, then by lower indices."""
    return scored[0], len(scored[1]), scored[1]


def best_independent_sets(
    membership: NDArray[np.bool_],
    evidence: NDArray[np.float64],
    prior: NDArray[np.float64],
    conflict: NDArray[np.bool_],
    k: int,
) -> tuple[list[Scored], bool]:
    """The K cheapest sets of n masks, the empty one included, or all sets if there are fewer.

    Args:
        membership: (n, A) bool, the atoms of each mask.
        evidence: (A,) cost of covering each atom.
        prior: (n,) cost of each mask.
        conflict: (n, n) bool, symmetric, pairs that may not be taken together.

    Returns:
        The sets, cheapest first, and whether they are proven to be the K cheapest. If they are not,
        the search came to its limit, and they are the empty set and the cheapest that a beam search
        finds, K at most.
    """
    least = least_marginals(membership, evidence, prior, conflict)
    helpful, others = np.flatnonzero(least < 0), np.flatnonzero(least >= 0)
    among = Problem.of(
        membership[helpful], evidence, prior[helpful], conflict[np.ix_(helpful, helpful)]
    )
    found, exact = _search(among, least[helpful], k)
    best = [(cost, tuple(helpful[list(taken)].tolist())) for cost, taken in found]
    # A mask that never lowers the cost is only ever added to one of the K best sets of the others.
    whole = Problem.of(membership, evidence, prior, conflict)
    return sorted(_with_others(whole, best, others.tolist(), k), key=scored_order), exact


def least_marginals(
    membership: NDArray[np.bool_],
    evidence: NDArray[np.float64],
    prior: NDArray[np.float64],
    conflict: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """(n,) the least that taking a mask can add to the cost, whatever is taken already.

    Atoms shared with a compatible mask may be covered already, so only negative evidence of them
    counts.
    """
    shared = membership & covered_by_compatible(membership, conflict)
    alone = (membership & ~shared) @ evidence
    least: NDArray[np.float64] = alone + shared @ np.minimum(evidence, 0.0) + prior
    return least


def _search(problem: Problem, least: NDArray[np.float64], k: int) -> tuple[list[Scored], bool]:
    """The K cheapest sets, best first, and whether they are proven to be; else at most K."""
    n = len(problem.own)
    if not n:
        return [(0.0, ())], True
    cliques = maximal_cliques(problem.neighbours)
    multipliers = optimal_multipliers(problem, cliques) if n > _GREEDY_UP_TO else None
    multipliers = multipliers or greedy_multipliers(problem, cliques, least)
    bound = _Bound(problem, multipliers)
    order = _branching_order(problem, multipliers)
    frontier = _Frontier(bound, order)
    frontier.add(bound(bound.start), 0, bound.start)
    best: list[Scored] = []
    while frontier and len(best) < k:
        if bound.work >= _MAX_WORK:
            # A beam of this width makes no more states than the search did.
            found = _beam_search(bound, order, max(1, frontier.made // n))
            return heapq.nsmallest(k, {(0.0, ()), *best, *found}), False
        if popped := frontier.pop():
            least_cost, depth, state = popped
            if state.free:
                frontier.expand(least_cost, depth, state)
            else:
                best.append(state.scored)
    return best, True


def _beam_search(bound: _Bound, order: Sequence[_Paying], width: int) -> list[Scored]:
    """At most `width` cheap sets: of each decision, the states of the lowest bounds are made."""
    beam = [(bound(bound.start), 0, bound.start)]
    while any(state.free for _, _, state in beam):
        frontier = _Frontier(bound, order)
        for least_cost, depth, state in beam:
            if state.free:
                frontier.expand(least_cost, depth, state)
            else:
                frontier.add(least_cost, depth, state)
        beam = [frontier.take() for _ in range(min(width, len(frontier)))]
    return [state.scored for _, _, state in beam]


_Waiting = tuple[float, int, "_State"]
"""A lower bound, minus the number of decisions, and the state."""


class _Frontier:
    """States that wait, in the order of their lower bounds.

    Of equal bounds the state that decided on most cliques goes first. A state is made, and its own
    bound computed, once it is popped by a simpler bound: most never are.

    Attributes:
        made: number of states made so far.
    """

    def __init__(self, bound: _Bound, order: Sequence[_Paying]) -> None:
        self._bound, self._order = bound, order
        self._heap: list[tuple[float, int, int, _State, _Decision | None]] = []
        self._serials = itertools.count()
        self.made = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(
        self, least_cost: float, depth: int, state: _State, decision: _Decision | None = None
    ) -> None:
        """Add a state, or the one that a decision leads to; `depth` falls with every decision."""
        entry = (least_cost, depth, next(self._serials), state, decision)
        heapq.heappush(self._heap, entry)

    def take(self) -> _Waiting:
        """The state that waits with the lowest bound; its own bound may be higher."""
        least_cost, depth, _, state, decision = heapq.heappop(self._heap)
        if decision is not None:
            state = self._bound.after(state, decision)
            self.made += 1
            least_cost = max(least_cost, self._bound(state))
        return least_cost, depth, state

    def pop(self) -> _Waiting | None:
        """The state of the lowest bound; None if its own bound put it behind another one."""
        taken = self.take()
        if self._heap and taken[0] > self._heap[0][0]:
            self.add(*taken)
            return None
        return taken

    def expand(self, least_cost: float, depth: int, state: _State) -> None:
        """Add the states that the next decision leads to."""
        clique, multiplier = _next_clique(state, self._order)
        self.add(least_cost + multiplier, depth - 1, state, (clique, None))
        for mask in bits(clique & state.free):
            increase = self._bound.increase(mask, state.covered)
            self.add(least_cost + increase, depth - 1, state, (clique, mask))


def _next_clique(state: _State, order: Sequence[_Paying]) -> _Paying:
    """The first clique that has a free mask."""
    return next(paying for paying in order if paying[0] & state.free)


def _branching_order(problem: Problem, multipliers: Multipliers) -> list[_Paying]:
    """The cliques and their multipliers, those first that the search decides on first.

    Cliques whose masks are taken in fractions come first, by the cost of these masks; then those
    where all but the best decision cost most: the mean of the second best and the third, of taking
    one of the masks or none.
    """
    undecided = np.minimum(multipliers.fraction, 1 - multipliers.fraction)
    undecided *= np.abs(problem.own) * (undecided > _ROUNDING)
    reduced = np.maximum(multipliers.reduced_costs(problem), 0.0)

    def importance(paying: _Paying) -> tuple[float, float]:
        clique, multiplier = paying
        members = [*bits(clique)]
        decisions = sorted([multiplier, *reduced[members].tolist()])
        return float(undecided[members].sum()), fmean(decisions[1:3])

    paying = zip(multipliers.cliques, multipliers.clique, strict=True)
    return sorted(paying, key=importance, reverse=True)


_Paying = tuple[int, float]
"""A clique and its multiplier."""

_Saving = tuple[int, int, float]
"""Masks, the masks that cover a joint atom (0: no atom), and the amount that is saved if one of the
former is free and none of the latter is taken."""

_Decision = tuple[int, int | None]
"""A clique, and which of its masks is taken (None: none)."""


class _State(NamedTuple):
    """What the search has decided so far.

    Attributes:
        savings: those that are left.
        cost: of what is taken.
        taken: bit set of masks.
        free: bit set of the masks that may be taken, too.
        covered: bit set of the joint atoms of what is taken.
    """

    savings: list[_Saving]
    cost: float
    taken: int
    free: int
    covered: int

    @property
    def scored(self) -> Scored:
        """The set of what is taken."""
        return self.cost, tuple(bits(self.taken))


class _Bound:
    """A lower bound on the cost of all sets that a state leads to.

    The cost so far, less what free masks can still save: u of each clique that has a free mask,
    and what remains of each joint atom of negative evidence that a free mask can cover. A free mask
    of negative reduced cost adds that: only where atoms that it would pay for are covered already.

    Attributes:
        start: the state where all masks are free.
        work: number of terms computed so far, and `_WORK_OF_STATE` for each state.
    """

    def __init__(self, problem: Problem, multipliers: Multipliers) -> None:
        evidence, given, paid = problem.joint_evidence, multipliers.given, multipliers.paid
        reduced = multipliers.reduced_costs(problem)
        # A mask that is credited with more than it pays is a clique of its own that pays the rest.
        alone = [(1 << i, -r) for i, r in enumerate(reduced.tolist()) if r < 0]
        self._reduced = np.maximum(reduced, 0.0).tolist()
        cliques = [*zip(multipliers.cliques, multipliers.clique, strict=True), *alone]
        savings = [(members, 0, u) for members, u in cliques if u]
        remaining = np.where(evidence < 0, -evidence - given, 0.0)
        coverers = bit_sets(problem.joint.T)
        savings += [
            (coverers[a], coverers[a], float(remaining[a])) for a in np.flatnonzero(remaining)
        ]
        self.start = _State(savings, 0.0, 0, (1 << len(problem.own)) - 1, 0)
        self._problem, self._given = problem, given.tolist()
        self._if_covered = (given - paid).tolist()
        payers = bit_sets(paid.T > 0)
        self._payments = [
            (coverers[a], payers[a], [(i, float(paid[i, a])) for i in bits(payers[a])])
            for a in np.flatnonzero(paid.any(axis=0))
        ]
        self._credited = sum(1 << a for a, credit in enumerate(self._given) if credit)
        self.work = 0

    def after(self, state: _State, decision: _Decision) -> _State:
        """The state that a decision leads to."""
        clique, mask = decision
        savings, cost, taken, free, covered = state
        free &= ~clique
        if mask is not None:
            cost += self._problem.added(mask, covered)
            taken |= 1 << mask
            free &= ~self._problem.neighbours[mask]
            covered |= self._problem.atoms[mask]
        self.work += _WORK_OF_STATE + len(savings)
        left = [s for s in savings if s[0] & free and not s[1] & taken]
        return _State(left, cost, taken, free, covered)

    def increase(self, mask: int, covered: int) -> float:
        """By how much the bound of a state rises at least if it takes a mask."""
        value: float = self._reduced[mask]
        again = self._problem.atoms[mask] & covered
        self.work += again.bit_count()
        for atom in bits(again):
            value += self._if_covered[mask][atom]
        return max(value, 0.0)

    def __call__(self, state: _State) -> float:
        taken, free, covered = state.taken, state.free, state.covered
        bound = state.cost - _ROUNDING - sum([s[2] for s in state.savings])
        self.work += len(self._payments)
        reduced: dict[int, float] = {}
        for coverers, payers, payments in self._payments:
            if coverers & taken and payers & free:
                self.work += len(payments)
                for mask, payment in payments:
                    if free >> mask & 1:
                        reduced[mask] = reduced.get(mask, self._reduced[mask]) - payment
        for mask, value in reduced.items():
            if value < 0:  # it is not credited with covered atoms again
                again = self._problem.atoms[mask] & covered & self._credited
                self.work += again.bit_count()
                value += sum(self._given[a] for a in bits(again))
                bound += min(value, 0.0)
        return bound


def _with_others(problem: Problem, best: list[Scored], others: list[int], k: int) -> list[Scored]:
    """The K cheapest sets that are one of the best sets and any of the masks that lower no cost."""
    serials = itertools.count()
    heap = [(cost, next(serials), 0, taken) for cost, taken in best]
    heapq.heapify(heap)
    found: list[Scored] = []
    while heap and len(found) < k:
        cost, _, start, taken = heapq.heappop(heap)
        found.append((cost, tuple(sorted(taken))))
        covered = excluded = 0
        for mask in taken:
            covered |= problem.atoms[mask]
            excluded |= problem.neighbours[mask]
        for place, mask in enumerate(others[start:], start + 1):
            if not excluded >> mask & 1:
                dearer = cost + problem.added(mask, covered)
                heapq.heappush(heap, (dearer, next(serials), place, (*taken, mask)))
    return found
