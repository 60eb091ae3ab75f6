"""Multipliers of cliques and atoms, from which the search of stage 1 has its lower bounds.

The dual of a linear program: each clique u_C >= 0 of the conflict graph pays for the mask taken
from it, and an atom that several compatible masks cover is shared between them. Any multipliers
give a valid bound; those of the optimum (HiGHS) make it almost tight, and those of a greedy clique
cover are found at once, which is faster for a few masks.

The linear program has a limit of size: a larger one leaves out atoms of little evidence, which
makes the bounds lower and keeps them valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.selection.bit_sets import as_rows, bit_sets, bits

# A limit of work, which unlike a limit of time leaves the result the same everywhere.
_MAX_ROWS = 6_000  # of the linear program, and its iterations: half a second


@dataclass(frozen=True)
class Problem:
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
    ) -> Problem:
        is_joint = (membership & covered_by_compatible(membership, conflict)).any(axis=0)
        own = membership @ np.where(is_joint, 0.0, evidence) + prior
        # Atoms of the same masks, which differed in masks that are not among these, are one.
        summed: dict[int, float] = {}
        for masks, value in zip(
            bit_sets(membership[:, is_joint].T), evidence[is_joint].tolist(), strict=True
        ):
            summed[masks] = summed.get(masks, 0.0) + value
        joint = as_rows([*summed], len(own)).T
        joint_evidence = np.array([*summed.values()])
        return cls(own.tolist(), joint, joint_evidence, bit_sets(joint), bit_sets(conflict))

    def added(self, mask: int, covered: int) -> float:
        """The cost of taking a mask when these joint atoms are covered already."""
        cost = self.own[mask]
        for atom in bits(self.atoms[mask] & ~covered):
            cost += self.joint_evidence[atom]
        return float(cost)


@dataclass(frozen=True)
class Multipliers:
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

    def reduced_costs(self, problem: Problem) -> NDArray[np.float64]:
        """(n,) what taking a mask costs when cliques and joint atoms pay their parts."""
        members = as_rows(self.cliques, len(problem.own))
        by_cliques = np.array(self.clique) @ members
        by_atoms = self.paid.sum(axis=1) - problem.joint @ self.given
        reduced: NDArray[np.float64] = np.array(problem.own) + by_cliques + by_atoms
        return reduced


def covered_by_compatible(
    membership: NDArray[np.bool_], conflict: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """(n, A) whether a mask that may be taken with mask i covers atom a."""
    compatible = ~conflict
    np.fill_diagonal(compatible, False)
    # Counts of at most n, exact in float32, whose product is fast.
    counts = compatible.astype(np.float32) @ membership.astype(np.float32)
    covered: NDArray[np.bool_] = counts > 0
    return covered


def maximal_cliques(neighbours: Sequence[int]) -> list[int]:
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
            for member in bits(clique):
                seen[member] |= clique
    return cliques


def greedy_multipliers(
    problem: Problem, cliques: Sequence[int], least: NDArray[np.float64]
) -> Multipliers:
    """Large cliques pay first, each as much as the best of its masks still needs."""
    needed: list[float] = (-least).tolist()
    paying = []
    for clique in sorted(cliques, key=int.bit_count, reverse=True):
        members = list(bits(clique))
        multiplier = max(0.0, *(needed[i] for i in members))
        paying.append((clique, multiplier))
        for i in members:
            needed[i] -= multiplier
    evidence, conflict = problem.joint_evidence, as_rows(problem.neighbours, len(least))
    alone = problem.joint & ~covered_by_compatible(problem.joint, conflict)
    paid = np.where(alone, np.maximum(evidence, 0.0), 0.0)  # nobody else can have covered it
    multipliers = tuple(multiplier for _, multiplier in paying)
    return Multipliers(
        tuple(clique for clique, _ in paying), multipliers, np.maximum(-evidence, 0.0), paid,
        np.zeros(len(least)),
    )  # fmt: skip


def optimal_multipliers(problem: Problem, cliques: Sequence[int]) -> Multipliers | None:
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
    in_clique, of_clique = np.nonzero(as_rows(cliques, n))  # (C, n)
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
    return Multipliers(tuple(cliques), tuple(dual[:c].tolist()), given, paid, found.x[:n])
