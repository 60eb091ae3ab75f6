"""The two stages on a stream: frames come one by one and are decided at most `lag` frames later."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.config import SelectionConfig
from gbopt_ros.selection.lattice import Lattice
from gbopt_ros.selection.path import PathResult, reachable_costs
from gbopt_ros.selection.two_stage import frame_selections
from gbopt_ros.structures import FlowNetwork, Frame, FrameSelection, Proposals


class FixedLagSelector:
    """Joint selection with a fixed lag (a truncated Viterbi algorithm).

    After every frame the cheapest path up to it is found. A frame is decided as soon as all paths
    that can still become the cheapest agree on its combination. After `lag` more frames it is
    decided by the cheapest path known. Only undecided frames and the last decided one are in
    memory. Masks keep the outlines that were proposed.

    With lag None, all decisions are those of the offline optimum, unless `optimality_gap` or
    `max_flow_runs` ends the search. Lazy evaluation knows only bounds of many edges, so frames are
    decided early less often than with `exhaustive`; the masks are the same.

    Args:
        flow_network: g, for the composites.
        config: weights of the terms, K, overlap tolerance.
        lag: maximum number of frames to wait for a decision; None: no limit.

    Attributes:
        energy: cost of the cheapest known path that keeps to all decisions.
        lower_bound: no path over the K combinations of each frame costs less; -inf once the lag
            forced a decision.
    """

    def __init__(
        self, flow_network: FlowNetwork, config: SelectionConfig, lag: int | None = None
    ) -> None:
        if lag is not None and lag < 0:
            raise ValueError(f"FixedLagSelector: expected lag >= 0 or None, got {lag}")
        self._lag = lag
        self._lattice = Lattice(flow_network, config)
        self._decided = 0  # layers at the front of the lattice: 0 or 1
        self.energy = self.lower_bound = 0.0
        self._forced = False  # a decision that may not be the optimum's

    @property
    def optimal(self) -> bool:
        """Whether the energy is proven to be the minimum."""
        return self._lattice.exact and self.lower_bound == self.energy

    @property
    def flow_runs(self) -> int:
        """Number of pairs of composites that the flow network was run on."""
        return self._lattice.flow_runs

    def add(
        self,
        frame: Frame,
        proposals: Proposals,
        background: NDArray[np.floating],
        flow: NDArray[np.floating] | None,
        ahead: int = 0,
    ) -> tuple[FrameSelection, ...]:
        """Take the next frame.

        Args:
            frame: all frames have one size.
            proposals: the candidates of the frame.
            background: (H, W), probability that a pixel belongs to no object.
            flow: (H, W, 2), pixels (x, y), from the frame before; None for the first frame only.
            ahead: number of frames for which it has waited already.

        Returns:
            The frames that are decided now, in order, with energies and margins of the path that
            is the cheapest now.

        Raises:
            ValueError: shapes do not fit, or the flow is missing or not finite.
        """
        layers = self._lattice.layers
        if (flow is None) != (not layers):
            raise ValueError("FixedLagSelector: the first frame, and no other, has no flow")
        if not layers:
            self._forced = False
        self._lattice.append(frame, proposals, background, flow)
        found = self._solve()
        decided = self._agreed(found)
        due = 0 if self._lag is None else len(layers) - max(0, self._lag - ahead)
        if due > max(decided, self._decided):
            decided = due
            self._forced = True
            self.lower_bound = -np.inf
        return self._emit(found, decided)

    def finish(self) -> tuple[FrameSelection, ...]:
        """Decide all frames that are left. The selector is empty then, ready for the next clip."""
        if not self._lattice.layers:
            return ()
        frames = self._emit(self._solve(), len(self._lattice.layers))
        self._lattice.cut(len(self._lattice.layers))
        self._decided = 0
        return frames

    def _solve(self) -> PathResult:
        found = self._lattice.solve()
        self.energy = found.energy
        self.lower_bound = -np.inf if self._forced else found.lower_bound
        return found

    def _agreed(self, found: PathResult) -> int:
        """Number of layers at the front on which all paths that may become the best agree.

        They agree on a layer if, to every combination of the newest layer, the best combination of
        the layer surely leads at a lower cost than any other one can.
        """
        edges = zip(found.edges, found.evaluated, strict=True)
        known = [np.where(evaluated, cost, np.inf) for cost, evaluated in edges]
        at_most = reachable_costs(self._lattice.nodes, known)
        at_least = reachable_costs(self._lattice.nodes, found.edges)
        for t, k in enumerate(found.path):
            others = np.delete(at_least[t], k, axis=0)
            if len(others) and not np.all(at_most[t][k] < others.min(axis=0)):
                return t
        return len(found.path)

    def _emit(self, found: PathResult, decided: int) -> tuple[FrameSelection, ...]:
        if decided <= self._decided:
            return ()
        frames = frame_selections(self._lattice, found, range(self._decided, decided))
        self._fix(found, decided - 1)
        self._lattice.cut(decided - 1)
        self._decided = 1
        return frames

    def _fix(self, found: PathResult, t: int) -> None:
        """Leave one way through layer t, at the cost of the path up to it."""
        nodes, path = self._lattice.nodes, found.path
        energy = float(nodes[0][path[0]])
        for s in range(t):
            energy += float(found.edges[s][path[s], path[s + 1]])
            energy += float(nodes[s + 1][path[s + 1]])
        fixed = np.full(len(nodes[t]), np.inf)
        fixed[path[t]] = energy
        nodes[t] = fixed
