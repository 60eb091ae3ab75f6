"""The two stages on a stream: frames come in one by one and are decided a bounded time later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.config import SelectionConfig
from gbopt_ros.selection.clip_selector import frame_selections
from gbopt_ros.selection.lattice import Lattice
from gbopt_ros.selection.path import PathResult, reachable_costs
from gbopt_ros.structures import FlowNetwork, Frame, FrameSelection, Proposals


class FixedLagSelector:
    """Joint selection with a fixed lag (the Viterbi algorithm's truncation).

    After every frame the cheapest path up to it is found. A frame is decided as soon as every
    path that can still become the cheapest takes the same combination of it, whatever comes
    later; or, where that is not so, when `lag` frames have come after it: then with the cheapest
    path known. Only undecided frames and the last decided one are held. Masks are as they were
    proposed; `redraw_outlines` draws them anew.

    With lag None every decision is one that the offline optimum makes too, and `finish` ends at
    that optimum, unless `optimality_gap` or `max_flow_runs` ends the search before. A decision
    needs the costs of competing paths to be known: with lazy evaluation many edges are only
    bounded, so that frames are decided early less often than with `exhaustive`; the masks are the
    same.

    Args:
        flow_network: g, for the composites.
        config: weights of the terms, K, overlap tolerance.
        lag: frames to wait at most before a frame is decided; None is no limit.

    Attributes:
        energy: of the cheapest path known so far that keeps to all decisions.
        lower_bound: no path costs less; -inf once the lag forced a decision.
        flow_runs: pairs of composites that the flow network was run on so far.
    """

    def __init__(
        self, flow_network: FlowNetwork, config: SelectionConfig, lag: int | None = None
    ) -> None:
        if lag is not None and lag < 0:
            raise ValueError(f"FixedLagSelector: expected lag >= 0 or None, got {lag}")
        self._lag = lag
        self._lattice = Lattice(flow_network, config)
        self._held = 0  # decided layers at the front of the lattice: 0 or 1
        self.energy = self.lower_bound = 0.0
        self._forced = False  # a decision that may not be the optimum's

    @property
    def flow_runs(self) -> int:
        """Pairs of composites that the flow network was run on so far."""
        return self._lattice.flow_runs

    @property
    def pending(self) -> int:
        """Frames that are not decided."""
        return len(self._lattice.layers) - self._held

    def add(
        self,
        frame: Frame,
        proposals: Proposals,
        background: NDArray[np.floating],
        flow: NDArray[np.floating] | None,
    ) -> tuple[FrameSelection, ...]:
        """Take the next frame.

        Args:
            frame: of the size of all frames before it.
            proposals: its candidates.
            background: (H, W), probability that a pixel belongs to no object.
            flow: (H, W, 2), pixels (x, y), measured from the frame before; None for the first.

        Returns:
            The frames that are decided by it, in order. Their energies and margins are those of
            the cheapest path at this time.

        Raises:
            ValueError: shapes do not fit, a flow is not finite, or the first frame alone must come
                without one.
        """
        layers = self._lattice.layers
        if (flow is None) != (not layers):
            raise ValueError("FixedLagSelector: the first frame, and no other, has no flow")
        if not layers:
            self._forced = False
        self._lattice.append(frame, proposals, background, flow)
        found = self._solve()
        decided = self._agreed(found)
        if self._lag is not None and len(layers) - self._lag > max(decided, self._held):
            decided = len(layers) - self._lag
            self._forced = True
            self.lower_bound = -np.inf
        return self._emit(found, decided)

    def finish(self) -> tuple[FrameSelection, ...]:
        """Decide all frames that are left; the selector is empty then and ready for a new clip."""
        if not self._lattice.layers:
            return ()
        frames = self._emit(self._solve(), len(self._lattice.layers))
        self._lattice.cut(len(self._lattice.layers))
        self._held = 0
        return frames

    def _solve(self) -> PathResult:
        found = self._lattice.solve()
        self.energy = found.energy
        self.lower_bound = -np.inf if self._forced else found.lower_bound
        return found

    def _agreed(self, found: PathResult) -> int:
        """How many layers from the front are the same on every path that may become the best.

        A layer is, if to each combination of the newest layer the surest way leads through the
        combination of the best path, and no other way could be as cheap.
        """
        sure = [
            np.where(evaluated, cost, np.inf)
            for cost, evaluated in zip(found.edges, found.evaluated, strict=True)
        ]
        nodes = self._lattice.nodes
        at_most = reachable_costs(nodes, sure)
        at_least = reachable_costs(nodes, found.edges)
        agreed = 0
        for k, upper, lower in zip(found.path, at_most, at_least, strict=True):
            others = np.delete(lower, k, axis=0)
            if len(others) and not np.all(upper[k] < others.min(axis=0)):
                break
            agreed += 1
        return agreed

    def _emit(self, found: PathResult, decided: int) -> tuple[FrameSelection, ...]:
        if decided <= self._held:
            return ()
        which = range(self._held, decided)
        frames = frame_selections(self._lattice, found, which)
        last = decided - 1
        self._fix(found, last)
        self._lattice.cut(last)
        self._held = 1
        return frames

    def _fix(self, found: PathResult, t: int) -> None:
        """Leave one way through layer t, at the cost of the path up to it."""
        energy = _prefix_energy(self._lattice.nodes, found, t)
        fixed = np.full(len(self._lattice.nodes[t]), np.inf)
        fixed[found.path[t]] = energy
        self._lattice.nodes[t] = fixed


def _prefix_energy(nodes: Sequence[NDArray[np.float64]], found: PathResult, t: int) -> float:
    energy = float(nodes[0][found.path[0]])
    for s in range(t):
        energy += float(found.edges[s][found.path[s], found.path[s + 1]])
        energy += float(nodes[s + 1][found.path[s + 1]])
    return energy
