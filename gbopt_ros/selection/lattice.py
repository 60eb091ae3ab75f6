"""The lattice of stage 2: nodes are the combinations of a frame, edges cost L_F + L_p (Eq. 17)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import SelectionConfig
from gbopt_ros.perception.flow import low_detail_flow
from gbopt_ros.selection.atoms import Atoms, atoms_of_rles
from gbopt_ros.selection.combinations import combinations_of_atoms
from gbopt_ros.selection.objective import (
    inside_flow_loss,
    outside_flow_loss,
    regularization_losses,
    score_prior,
)
from gbopt_ros.selection.path import (
    Costs,
    Edge,
    PathResult,
    lazy_shortest_path,
    node_min_marginals,
)
from gbopt_ros.selection.score_propagation import is_cut, propagated_scores, warped_iou
from gbopt_ros.selection.synthesis import at_composite_size, background_photograph, composite
from gbopt_ros.structures import (
    BoolMask,
    Combination,
    FlowNetwork,
    Frame,
    FrameEnergy,
    Image,
    Proposals,
    Rle,
)

_PAIRS_PER_BATCH = 32  # composites of one batch: 60 MB at 480x640
_CACHED_COMPOSITES = 64


@dataclass(frozen=True)
class Layer:
    """One frame of the lattice.

    Attributes:
        frame: image and stamp.
        proposals: the candidates.
        combinations: K_t of them, cheapest first.
        exact: whether they are proven to be the K cheapest.
        atoms: of the candidates.
        unions: RLE of the foreground of each combination.
        scores: (N,) float64, scores of the candidates after score propagation.
        image: (h, w, 3) uint8, RGB, at the size of the composites.
        labels: (h, w) int32, the atom of the candidates at each pixel of `image`; A: none.
        selected: (K_t, A + 1) bool, the atoms of each combination; the last one is false.
        after_cut: whether there is a cut between the frame before and this one.
    """

    frame: Frame
    proposals: Proposals
    combinations: list[Combination]
    exact: bool
    atoms: Atoms = field(repr=False)
    unions: list[Rle] = field(repr=False)
    scores: NDArray[np.float64] = field(repr=False)
    image: Image = field(repr=False)
    labels: NDArray[np.int32] = field(repr=False)
    selected: NDArray[np.bool_] = field(repr=False)
    after_cut: bool

    def __len__(self) -> int:
        return len(self.combinations)

    def foreground(self, k: int) -> BoolMask:
        """(h, w) bool, the pixels of a combination at the size of the composites."""
        foreground: BoolMask = self.selected[k][self.labels]
        return foreground


def make_layer(
    frame: Frame,
    proposals: Proposals,
    background: NDArray[np.floating],
    config: SelectionConfig,
    before: Layer | None = None,
    flow: NDArray[np.floating] | None = None,
) -> Layer:
    """Stage 1 on one frame.

    Args:
        before: the layer of the frame before.
        flow: (H, W, 2), pixels, from that frame to this one.

    Raises:
        ValueError: shapes do not fit, the background is no probability, or the flow is not finite.
    """
    size = frame.size if before is None else before.frame.size
    shapes = ("image", frame.size), ("proposals", proposals.size), ("background", background.shape)
    for name, found in shapes:
        if tuple(found) != size:
            raise ValueError(f"frame {frame.index}: expected {name} of size {size}, got {found}")
    if flow is not None and (flow.shape != (*size, 2) or not np.all(np.isfinite(flow))):
        raise ValueError(
            f"frame {frame.index}: expected a finite flow {(*size, 2)}, got {flow.shape}"
        )
    decomposed = atoms_of_rles(proposals.rles, proposals.size)
    scores, after_cut = proposals.scores.astype(np.float64), False
    if before is not None and flow is not None:
        scores, after_cut = _follow(before, proposals, decomposed, flow, config)
    prior = None
    if _scores_count(proposals, config):
        prior = score_prior(scores, proposals.size, config.neutral_score, config.score_weight)
    try:
        combinations, exact = combinations_of_atoms(
            decomposed, background, config.k, config.overlap_tolerance,
            epsilon=config.epsilon, prior=prior,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"frame {frame.index}: {error}") from error
    chosen = [list(combination.indices) for combination in combinations]
    unions = [
        mask_ops.union([proposals.rles[i] for i in indices], proposals.size) for indices in chosen
    ]
    selected = np.zeros((len(chosen), len(decomposed.areas) + 1), bool)
    for row, indices in zip(selected, chosen, strict=True):
        row[:-1] = decomposed.membership[indices].any(axis=0)
    image = at_composite_size(frame.image, config.composite_side)
    labels = decomposed.labels_at(image.shape[:2])
    return Layer(
        frame, proposals, combinations, exact, decomposed, unions, scores, image, labels, selected,
        after_cut,
    )  # fmt: skip


def _follow(
    before: Layer,
    proposals: Proposals,
    decomposed: Atoms,
    flow: NDArray[np.floating],
    config: SelectionConfig,
) -> tuple[NDArray[np.float64], bool]:
    """Scores (N,) of the next frame after score propagation, and whether there is a cut before."""
    scores = proposals.scores.astype(np.float64)
    propagates = (
        _scores_count(proposals, config)
        and _scores_count(before.proposals, config)
        and config.score_propagation > 0
    )
    if not (propagates or config.detect_cuts):
        return scores, False
    iou = warped_iou(before.atoms, decomposed, flow)
    if config.detect_cuts and is_cut(scores, iou):
        return scores, True
    if propagates:
        scores = propagated_scores(scores, before.scores, iou, config.score_propagation)
    return scores, False


def _scores_count(proposals: Proposals, config: SelectionConfig) -> bool:
    """Whether scores count: those of other networks may be near 0 for objects of unseen classes."""
    return proposals.calibration is not None and config.score_weight > 0


class Lattice:
    """Layers in the order of time: frames are added at the end and cut off at the front.

    Args:
        flow_network: g, for the composites.
        config: weights of the terms, K, overlap tolerance.

    Attributes:
        layers: T of them.
        nodes: T arrays (K_t,) float64, weighted L_I.
        bounds: T - 1 arrays (K_t, K_t+1) float64: lower bounds of weighted L_F + L_p.
        edges: T - 1 arrays of the same shapes: weighted L_F + L_p where evaluated, else its bound.
        evaluated: T - 1 arrays (K_t, K_t+1) bool.
        exact: whether stage 1 is proven optimal in all layers since the lattice was empty.
        flow_runs: pairs of composites that the flow network was run on.
    """

    def __init__(self, flow_network: FlowNetwork, config: SelectionConfig) -> None:
        self._config = config
        # Composites that are shrunk show little detail that a flow could find.
        self._flow_network = (
            low_detail_flow(flow_network) if config.composite_side else flow_network
        )
        self.layers: list[Layer] = []
        self.nodes: list[Costs] = []
        self.bounds: list[Costs] = []
        self.edges: list[Costs] = []
        self.evaluated: list[NDArray[np.bool_]] = []
        self.exact = True
        self.flow_runs = 0
        self._flows: list[NDArray[np.floating]] = []
        self._regularization: list[Costs] = []
        self._outside: list[Costs] = []
        self._photograph: Image | None = None
        # By the number of the layer among all that were added, and the combination.
        self._composites: OrderedDict[tuple[int, int], tuple[Image, BoolMask]] = OrderedDict()
        self._gone = 0  # number of layers cut off

    def append(
        self,
        frame: Frame,
        proposals: Proposals,
        background: NDArray[np.floating],
        flow: NDArray[np.floating] | None,
    ) -> None:
        """Add the next frame.

        Args:
            proposals: the candidates of the frame.
            background: (H, W), probability that a pixel belongs to no object.
            flow: (H, W, 2), pixels, from the frame before; None for the first frame.

        Raises:
            ValueError: as `make_layer`.
        """
        config = self._config
        before = self.layers[-1] if self.layers else None
        layer = make_layer(frame, proposals, background, config, before, flow)
        self.exact = layer.exact and (before is None or self.exact)
        self.layers.append(layer)
        self.nodes.append(config.lambda_background * np.array([c.loss for c in layer.combinations]))
        if before is None or flow is None:
            size = layer.labels.shape
            self._photograph = background_photograph(size, config.seed, config.photograph)
            return
        in_single = flow.astype(np.float32, copy=False)  # OpenCV takes no half precision
        self._flows.append(at_composite_size(in_single, config.composite_side))
        outside, regularization = np.zeros(len(before)), np.zeros((len(before), len(layer)))
        # Across a cut neither the flow nor the area of the frame before says anything.
        flow_counts = config.lambda_flow > 0 and not layer.after_cut
        if flow_counts:
            foregrounds = map(before.foreground, range(len(before)))
            losses = [outside_flow_loss(foreground, self._flows[-1]) for foreground in foregrounds]
            outside = config.lambda_flow * np.array(losses)
        if not layer.after_cut:
            regularization = regularization_losses(before.unions, layer.unions)
            regularization *= config.lambda_regularization
        self._outside.append(outside)
        self._regularization.append(regularization)
        bound = outside[:, None] + regularization
        # After an empty combination there is no flow to synthesise: the bound is the cost.
        empty = np.array([len(c.indices) == 0 for c in before.combinations])
        known = np.broadcast_to(empty[:, None], bound.shape) | (not flow_counts)
        self.bounds.append(bound)
        self.edges.append(bound.copy())
        self.evaluated.append(known)
        if config.exhaustive:
            t = len(self.edges) - 1
            missing = [(t, int(k), int(m)) for k, m in np.argwhere(~known)]
            for (_, k, m), cost in zip(missing, self._evaluate(missing), strict=True):
                self.edges[t][k, m] = cost
            if not np.all(np.isfinite(self.edges[t])):
                raise ValueError(f"edges of frame {t}: a cost is not finite")
            self.evaluated[t] = np.ones_like(known)

    def solve(self) -> PathResult:
        """The cheapest path through all layers; evaluated edges are kept for the next call."""
        found = lazy_shortest_path(
            self.nodes,
            self.bounds,
            self.edges,
            self.evaluated,
            self._evaluate,
            budget=self._config.max_flow_runs,
            max_gap=self._config.optimality_gap * len(self.layers),
        )
        self.edges, self.evaluated = list(found.edges), list(found.evaluated)
        return found

    def cut(self, first: int) -> None:
        """Forget the layers before `first`."""
        self._gone += first
        for key in [key for key in self._composites if key[0] < self._gone]:
            del self._composites[key]
        for values in (
            self.layers, self.nodes, self.bounds, self.edges, self.evaluated,
            self._flows, self._regularization, self._outside,
        ):  # fmt: skip
            del values[:first]

    def frame_energy(self, t: int, path: tuple[int, ...]) -> FrameEnergy:
        """The terms of Eq. 2 for frame t on an evaluated path."""
        k = path[t]
        loss = self._config.lambda_background * self.layers[t].combinations[k].loss
        if t == len(self.layers) - 1:
            return FrameEnergy(loss, 0.0, 0.0)
        m = path[t + 1]
        regularization = float(self._regularization[t][k, m])
        return FrameEnergy(loss, float(self.edges[t][k, m]) - regularization, regularization)

    def margins(self, found: PathResult) -> list[dict[int, float]]:
        """Per frame and selected candidate, the additional cost of the best path without it.

        If all K combinations hold the candidate, the margin is estimated from L_I alone: any other
        combination has at least the L_I of the last of the K.
        """
        through = node_min_marginals(self.nodes, found.edges)
        margins: list[dict[int, float]] = []
        for t, layer in enumerate(self.layers):
            best = found.path[t]
            frame: dict[int, float] = {}
            for i in layer.combinations[best].indices:
                without = [k for k, c in enumerate(layer.combinations) if i not in c.indices]
                if without:
                    margin = float(through[t][without].min()) - found.energy
                else:
                    margin = float(self.nodes[t].max() - self.nodes[t][best])
                frame[i] = max(0.0, margin)
            margins.append(frame)
        return margins

    def _evaluate(self, edges: list[Edge]) -> list[float]:
        """Weighted L_F + L_p of each edge; runs the flow network on batches of composites."""
        costs: list[float] = []
        for start in range(0, len(edges), _PAIRS_PER_BATCH):
            batch = edges[start : start + _PAIRS_PER_BATCH]
            first = [self._composite(t, k) for t, k, _ in batch]
            second = [self._composite(t + 1, m) for t, _, m in batch]
            synthetic = self._flow_network.flow(
                [image for image, _ in first], [image for image, _ in second]
            )
            (height, width), image = self.layers[0].frame.size, self.layers[0].image
            scale = np.array([width / image.shape[1], height / image.shape[0]], np.float32)
            # In pixels of the frame; sides are rounded. A row at once: NumPy is slow on pairs.
            synthetic = synthetic * np.tile(scale, (image.shape[1], 1))
            self.flow_runs += len(batch)
            for (t, k, m), (_, foreground), flow in zip(batch, first, synthetic, strict=True):
                inside = inside_flow_loss(foreground, self._flows[t], flow)
                costs.append(
                    float(self._outside[t][k])
                    + self._config.lambda_flow * inside
                    + float(self._regularization[t][k, m])
                )
        return costs

    def _composite(self, t: int, k: int) -> tuple[Image, BoolMask]:
        """The masks of a combination on the photograph, and their pixels."""
        layer = self.layers[t]
        key = self._gone + t, k
        made = self._composites.pop(key, None)
        if made is None:
            assert self._photograph is not None
            foreground = layer.foreground(k)
            made = composite(layer.image, foreground, self._photograph), foreground
        self._composites[key] = made
        if len(self._composites) > _CACHED_COMPOSITES:
            self._composites.popitem(last=False)
        return made
