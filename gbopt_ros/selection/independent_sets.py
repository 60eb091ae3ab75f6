"""The K cheapest independent sets of a conflict graph: the search of stage 1.

A set of masks costs the evidence of every atom that it covers, once, and the prior of its masks.
Two masks of a clique of the conflict graph cannot both be taken. The search branches on one clique
after the other: one of its masks is taken, or none. States are popped in the order of a lower bound
on all sets that they lead to, so sets appear cheapest first.

The bound is the dual of a linear program: each clique u_C >= 0 pays for the mask taken from it, and
an atom that several compatible masks cover is shared between them. Any multipliers give a valid
bound; those of the optimum (HiGHS) make it almost tight, and those of a greedy clique cover are
found at once, which is faster for a few masks. The search branches first where the linear program
takes fractions of masks, as there its bound is too low, and then where a wrong decision costs most:
both raise the bounds of all states below at once.

The search is exact, but its time may grow exponentially with the number of masks. At a limit of
work it gives way to a beam search, and says so. The linear program has a limit, too: a larger one
leaves out atoms of little evidence, which makes the bounds lower and keeps them valid.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_GREEDY_UP_TO = 20  # masks; solving the linear program takes longer than it saves below
_ROUNDING = 1e-6  # nats; bounds and costs add the same numbers in different orders
# Limits of work, which unlike a limit of time leave the result the same everywhere.
_MAX_ROWS = 6_000  # of the linear program, and its iterations: half a second
_MAX_WORK = 10_000_000  # of the search, in terms of bounds: one to two seconds
_WORK_OF_STATE = 500  # terms that take as long as a state does beside its bound

_WORD = 2**64 - 1

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
    among = _Problem.of(
        membership[helpful], evidence, prior[helpful], conflict[np.ix_(helpful, helpful)]
    )
    found, exact = _search(among, least[helpful], k)
    best = [(cost, tuple(helpful[list(taken)].tolist())) for cost, taken in found]
    # A mask that never lowers the cost is only ever added to one of the K best sets of the others.
    whole = _Problem.of(membership, evidence, prior, conflict)
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
    shared = membership & _covered_by_compatible(membership, conflict)
    alone = (membership & ~shared) @ evidence
    least: NDArray[np.float64] = alone + shared @ np.minimum(evidence, 0.0) + prior
    return least


def _covered_by_compatible(
    membership: NDArray[np.bool_], conflict: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """(n, A) whether a mask that may be taken with mask i covers atom a."""
    compatible = ~conflict
    np.fill_diagonal(compatible, False)
    # Counts of at most n, exact in float32, whose product is fast.
    counts = compatible.astype(np.float32) @ membership.astype(np.float32)
    covered: NDArray[np.bool_] = counts > 0
    return covered


@dataclass(frozen=True)
class _Problem:
    """Masks as bit sets: bit i of an integer is mask i, or joint atom i.

    Joint atoms are those that two compatible masks cover; only their evidence may be shared.

    Attributes:
        own: n costs, without joint atoms.
        joint: (n, J) bool, the joint atoms of each mask.
        joint_evidence: (J,) float64.
        atoms: n bit sets of joint atoms.
        neighbours: n bit sets of masks in conflict.
    """

    own: list[float]
    joint: NDArray[np.bool_]
    joint_evidence: NDArray[np.float64]
    atoms: list[int]
    neighbours: list[int]

    @classmethod
    def of(
        cls,
        membership: NDArray[np.bool_],
        evidence: NDArray[np.float64],
        prior: NDArray[np.float64],
        conflict: NDArray[np.bool_],
    ) -> _Problem:
        is_joint = (membership & _covered_by_compatible(membership, conflict)).any(axis=0)
        own = membership @ np.where(is_joint, 0.0, evidence) + prior
        # Atoms of the same masks, which differed in masks that are not among these, are one.
        summed: dict[int, float] = {}
        for masks, value in zip(
            _bit_sets(membership[:, is_joint].T), evidence[is_joint].tolist(), strict=True
        ):
            summed[masks] = summed.get(masks, 0.0) + value
        joint = _as_rows([*summed], len(own)).T
        joint_evidence = np.array([*summed.values()])
        return cls(own.tolist(), joint, joint_evidence, _bit_sets(joint), _bit_sets(conflict))

    def added(self, mask: int, covered: int) -> float:
        """The cost of taking a mask when these joint atoms are covered already."""
        cost = self.own[mask]
        for atom in _bits(self.atoms[mask] & ~covered):
            cost += self.joint_evidence[atom]
        return float(cost)


@dataclass(frozen=True)
class _Multipliers:
    """A dual solution; see `_Bound` for what each part pays.

    Attributes:
        cliques: bit sets of masks that exclude each other, together all masks.
        clique: u >= 0 of each clique.
        given: (J,) from 0 to |e| for each joint atom of negative evidence e: what each mask that
            covers it is credited with; the rest, |e| - given, is credited once.
        paid: (n, J) >= 0: what each mask pays for joint atoms of positive evidence. What masks that
            can be taken together pay adds up to at most the evidence.
        fraction: (n,) from 0 to 1, of each mask that the linear program takes; 0 without one.
    """

    cliques: tuple[int, ...]
    clique: tuple[float, ...]
    given: NDArray[np.float64]
    paid: NDArray[np.float64]
    fraction: NDArray[np.float64]

    def reduced_costs(self, problem: _Problem) -> NDArray[np.float64]:
        """(n,) what taking a mask costs when cliques and joint atoms pay their parts."""
        members = _as_rows(self.cliques, len(problem.own))
        by_cliques = np.array(self.clique) @ members
        by_atoms = self.paid.sum(axis=1) - problem.joint @ self.given
        reduced: NDArray[np.float64] = np.array(problem.own) + by_cliques + by_atoms
        return reduced


def _search(problem: _Problem, least: NDArray[np.float64], k: int) -> tuple[list[Scored], bool]:
    """The K cheapest sets, best first, and whether they are proven to be; else at most K."""
    n = len(problem.own)
    if not n:
        return [(0.0, ())], True
    cliques = _maximal_cliques(problem.neighbours)
    multipliers = _optimal_multipliers(problem, cliques) if n > _GREEDY_UP_TO else None
    multipliers = multipliers or _greedy_multipliers(problem, cliques, least)
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
        for mask in _bits(clique & state.free):
            increase = self._bound.increase(mask, state.covered)
            self.add(least_cost + increase, depth - 1, state, (clique, mask))


def _next_clique(state: _State, order: Sequence[_Paying]) -> _Paying:
    """The first clique that has a free mask."""
    return next(paying for paying in order if paying[0] & state.free)


def _branching_order(problem: _Problem, multipliers: _Multipliers) -> list[_Paying]:
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
        members = [*_bits(clique)]
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
        return self.cost, tuple(_bits(self.taken))


class _Bound:
    """A lower bound on the cost of all sets that a state leads to.

    The cost so far, less what free masks can still save: u of each clique that has a free mask,
    and what remains of each joint atom of negative evidence that a free mask can cover. A free mask
    of negative reduced cost adds that: only where atoms that it would pay for are covered already.

    Attributes:
        start: the state where all masks are free.
        work: number of terms computed so far, and `_WORK_OF_STATE` for each state.
    """

    def __init__(self, problem: _Problem, multipliers: _Multipliers) -> None:
        evidence, given, paid = problem.joint_evidence, multipliers.given, multipliers.paid
        reduced = multipliers.reduced_costs(problem)
        # A mask that is credited with more than it pays is a clique of its own that pays the rest.
        alone = [(1 << i, -r) for i, r in enumerate(reduced.tolist()) if r < 0]
        self._reduced = np.maximum(reduced, 0.0).tolist()
        cliques = [*zip(multipliers.cliques, multipliers.clique, strict=True), *alone]
        savings = [(members, 0, u) for members, u in cliques if u]
        remaining = np.where(evidence < 0, -evidence - given, 0.0)
        coverers = _bit_sets(problem.joint.T)
        savings += [
            (coverers[a], coverers[a], float(remaining[a])) for a in np.flatnonzero(remaining)
        ]
        self.start = _State(savings, 0.0, 0, (1 << len(problem.own)) - 1, 0)
        self._problem, self._given = problem, given.tolist()
        self._if_covered = (given - paid).tolist()
        payers = _bit_sets(paid.T > 0)
        self._payments = [
            (coverers[a], payers[a], [(i, float(paid[i, a])) for i in _bits(payers[a])])
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
        for atom in _bits(again):
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
                value += sum(self._given[a] for a in _bits(again))
                bound += min(value, 0.0)
        return bound


def _with_others(problem: _Problem, best: list[Scored], others: list[int], k: int) -> list[Scored]:
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


def _maximal_cliques(neighbours: Sequence[int]) -> list[int]:
    """Maximal cliques, among them one with each mask and one with each edge, as bit sets."""
    cliques: list[int] = []
    seen = [0] * len(neighbours)  # masks that a clique has together with this one
    for mask, around in enumerate(neighbours):
        while (missing := around & ~seen[mask]) or not seen[mask]:
            clique, common = 1 << mask, around
            while common:
                pool = common & missing or common
                other = pool & -pool
                clique |= other
                common &= neighbours[other.bit_length() - 1]
            cliques.append(clique)
            for member in _bits(clique):
                seen[member] |= clique
    return cliques


def _greedy_multipliers(
    problem: _Problem, cliques: Sequence[int], least: NDArray[np.float64]
) -> _Multipliers:
    """Large cliques pay first, each as much as the best of its masks still needs."""
    needed: list[float] = (-least).tolist()
    paying = []
    for clique in sorted(cliques, key=int.bit_count, reverse=True):
        members = list(_bits(clique))
        multiplier = max(0.0, *(needed[i] for i in members))
        paying.append((clique, multiplier))
        for i in members:
            needed[i] -= multiplier
    evidence, conflict = problem.joint_evidence, _as_rows(problem.neighbours, len(least))
    alone = problem.joint & ~_covered_by_compatible(problem.joint, conflict)
    paid = np.where(alone, np.maximum(evidence, 0.0), 0.0)  # nobody else can have covered it
    multipliers = tuple(multiplier for _, multiplier in paying)
    return _Multipliers(
        tuple(clique for clique, _ in paying), multipliers, np.maximum(-evidence, 0.0), paid,
        np.zeros(len(least)),
    )  # fmt: skip


def _optimal_multipliers(problem: _Problem, cliques: Sequence[int]) -> _Multipliers | None:
    """The dual of the linear program over masks and joint atoms; None if it was not solved.

    Joint atoms of little evidence are left out where the program would be too large.
    """
    # Imported here: with few candidates, a node starts without it.
    from scipy.optimize import linprog
    from scipy.sparse import coo_matrix

    n, c, evidence = len(problem.own), len(cliques), problem.joint_evidence
    coverers = np.count_nonzero(problem.joint, axis=0)
    by_evidence = np.argsort(-np.abs(evidence), kind="stable")
    within = np.cumsum(coverers[by_evidence]) <= max(0, _MAX_ROWS - c)
    used = np.sort(by_evidence[within])
    # Of the others, all coverers pay the same share, or are credited with all of it.
    spread = np.where(evidence > 0, evidence / np.maximum(coverers, 1), evidence)
    spread[used] = 0.0
    given, paid = np.maximum(-spread, 0.0), np.where(problem.joint, np.maximum(spread, 0.0), 0.0)
    costs = problem.own + problem.joint @ spread

    joint, evidence = problem.joint[:, used], evidence[used]
    payers, dear = np.nonzero(joint & (evidence > 0))  # an atom is covered if one is taken
    saving = np.flatnonzero(evidence < 0)  # and only then
    takers, covered = np.nonzero(joint[:, saving])
    in_clique, of_clique = np.nonzero(_as_rows(cliques, n))  # (C, n)
    pairs = np.arange(len(payers))
    rows = [in_clique, c + pairs, c + pairs, c + len(pairs) + covered]
    columns = [of_clique, payers, n + dear, takers]
    values = [1.0, 1.0, -1.0, -1.0]
    rows.append(c + len(pairs) + np.arange(len(saving)))
    columns.append(n + saving)
    values.append(1.0)
    entries = np.concatenate([np.full(len(r), v) for r, v in zip(rows, values, strict=True)])
    places = np.concatenate(rows), np.concatenate(columns)
    limits = np.repeat([1.0, 0.0], [c, len(pairs) + len(saving)])
    matrix = coo_matrix((entries, places), (len(limits), n + len(used)))
    found = linprog(
        np.concatenate([costs, evidence]),
        A_ub=matrix.tocsc(),
        b_ub=limits,
        # An upper bound on the atoms that cost would take part of what masks pay for them.
        bounds=[(0.0, None)] * n + [(0.0, 1.0 if e < 0 else None) for e in evidence],
        method="highs-ds",
        options={"maxiter": _MAX_ROWS},
    )
    if found.status != 0:
        return None
    dual = np.maximum(-found.ineqlin.marginals, 0.0)
    paid[payers, used[dear]] = dual[c : c + len(pairs)]
    total = paid.sum(axis=0)  # rounding must not make masks pay more than there is
    there = np.maximum(problem.joint_evidence, 0.0)
    paid *= np.minimum(1.0, there / np.where(total > 0, total, 1.0))
    given[used[saving]] = np.minimum(dual[c + len(pairs) :], -evidence[saving])
    return _Multipliers(tuple(cliques), tuple(dual[:c].tolist()), given, paid, found.x[:n])


def _bits(bit_set: int) -> Iterator[int]:
    """The members of a bit set, ascending."""
    start = 0
    while bit_set:
        word = bit_set & _WORD  # operations on whole sets of thousands would be slow
        while word:
            low = word & -word
            yield start + low.bit_length() - 1
            word ^= low
        bit_set >>= 64
        start += 64


def _bit_sets(rows: NDArray[np.bool_]) -> list[int]:
    """Each row of (R, n) bool as a bit set."""
    packed = np.packbits(rows, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def _as_rows(bit_sets: Sequence[int], n: int) -> NDArray[np.bool_]:
    """(R, n) bool; the inverse of `_bit_sets`."""
    size = max(1, -(-n // 8))  # bytes
    packed = np.frombuffer(b"".join(b.to_bytes(size, "little") for b in bit_sets), np.uint8)
    rows = np.unpackbits(packed.reshape(-1, size), axis=1, count=n, bitorder="little")
    return rows.astype(bool)
