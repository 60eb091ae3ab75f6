"""The two stages on one clip: candidates in, a `Selection` out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import SelectionConfig
from gbopt_ros.selection.combinations import best_combinations
from gbopt_ros.selection.objective import (
    inside_flow_loss,
    outside_flow_loss,
    regularization_loss,
    score_prior,
)
from gbopt_ros.selection.path import Edge, PathResult, lazy_shortest_path, node_min_marginals
from gbopt_ros.selection.synthesis import background_photograph, composite
from gbopt_ros.structures import (
    BoolMask,
    Clip,
    Combination,
    FlowNetwork,
    FrameEnergy,
    FrameSelection,
    Proposals,
    Rle,
    Selection,
)

_PAIRS_PER_BATCH = 64  # composites of one batch: 120 MB at 480x640


def select_clip(
    clip: Clip,
    proposals: Sequence[Proposals],
    backgrounds: Sequence[NDArray[np.floating]],
    flows: Sequence[NDArray[np.floating]],
    flow_network: FlowNetwork,
    config: SelectionConfig,
    model_version: str = "",
) -> Selection:
    """Choose the masks of all frames of a clip jointly (Eq. 2, Section 3.3).

    Args:
        clip: T frames.
        proposals: T times the candidates of a frame.
        backgrounds: T arrays (H, W), probability that a pixel belongs to no object.
        flows: T - 1 arrays (H, W, 2), pixels (x, y), measured between consecutive frames.
        flow_network: g, for the composites.
        config: weights of the terms, K, overlap tolerance.
        model_version: of the proposal network, copied to the result.

    Raises:
        ValueError: lengths or shapes do not fit the clip.
    """
    _check_inputs(clip, proposals, backgrounds, flows)
    layers = [
        _make_layer(frame, background, config)
        for frame, background in zip(proposals, backgrounds, strict=True)
    ]
    graph = _Graph(clip, layers, flows, flow_network, config)
    found = graph.solve()
    margins = _margins(layers, graph.nodes, found)
    frames = tuple(
        _frame_selection(clip, t, proposals[t], layers[t], graph, found, margins[t], config)
        for t in range(len(clip))
    )
    return Selection(
        clip_id=clip.clip_id,
        frames=frames,
        energy=found.energy,
        lower_bound=found.lower_bound,
        optimal=found.lower_bound == found.energy,
        flow_runs=graph.flow_runs,
        model_version=model_version,
    )


@dataclass(frozen=True)
class _Layer:
    """One frame of the graph.

    Attributes:
        combinations: K_t of them, cheapest first.
        unions: RLE of the foreground of each.
    """

    combinations: list[Combination]
    unions: list[Rle]

    def __len__(self) -> int:
        return len(self.combinations)

    def foreground(self, k: int) -> BoolMask:
        return mask_ops.decode(self.unions[k])


def _make_layer(
    proposals: Proposals, background: NDArray[np.floating], config: SelectionConfig
) -> _Layer:
    masks = mask_ops.decode_all(proposals.rles, proposals.size)
    combinations = best_combinations(
        masks,
        background,
        config.k,
        config.overlap_tolerance,
        epsilon=config.epsilon,
        reduction=config.reduction,
        prior=score_prior(
            proposals.scores,
            mask_ops.areas(proposals.rles),
            config.neutral_score,
            config.score_weight,
        ),
    )
    unions = [
        mask_ops.encode(np.asarray(masks[list(combination.indices)].any(axis=0)))
        for combination in combinations
    ]
    return _Layer(combinations, unions)


class _Graph:
    """The layered graph of stage 2, its flow network runs counted."""

    def __init__(
        self,
        clip: Clip,
        layers: Sequence[_Layer],
        flows: Sequence[NDArray[np.floating]],
        flow_network: FlowNetwork,
        config: SelectionConfig,
    ) -> None:
        self._clip, self._layers, self._flows = clip, layers, flows
        self._flow_network, self._config = flow_network, config
        self._photograph = background_photograph(clip.size, config.seed)
        self.flow_runs = 0
        self.nodes = [
            config.lambda_background * np.array([c.loss for c in layer.combinations])
            for layer in layers
        ]
        self._outside = [
            np.array([outside_flow_loss(layer.foreground(k), flow) for k in range(len(layer))])
            for layer, flow in zip(layers, flows, strict=False)
        ]
        self.regularization = [
            config.lambda_regularization * _pairwise_regularization(first, second)
            for first, second in pairwise(layers)
        ]

    def solve(self) -> PathResult:
        """The cheapest path; every edge is evaluated first where the configuration says so."""
        bounds = [
            self._config.lambda_flow * outside[:, None] + regularization
            for outside, regularization in zip(self._outside, self.regularization, strict=True)
        ]
        # An edge that leaves an empty combination has no masks whose flow could be synthesised.
        leaves_empty = [
            np.array([len(c.indices) == 0 for c in layer.combinations]) for layer in self._layers
        ]
        known = [
            np.broadcast_to(empty[:, None], bound.shape) | (self._config.lambda_flow == 0)
            for empty, bound in zip(leaves_empty, bounds, strict=False)
        ]
        if self._config.exhaustive:
            for t, (bound, flags) in enumerate(zip(bounds, known, strict=True)):
                missing = [(t, int(k), int(m)) for k, m in np.argwhere(~flags)]
                for (_, k, m), cost in zip(missing, self._evaluate(missing), strict=True):
                    bound[k, m] = cost
            known = [np.ones_like(flags) for flags in known]
        return lazy_shortest_path(
            self.nodes, bounds, known, self._evaluate, self._config.max_flow_runs
        )

    def _evaluate(self, edges: list[Edge]) -> list[float]:
        """Weighted L_F + L_p of each edge; runs the flow network on batches of composites."""
        costs: list[float] = []
        for start in range(0, len(edges), _PAIRS_PER_BATCH):
            batch = edges[start : start + _PAIRS_PER_BATCH]
            nodes = {(t, k) for t, k, _ in batch} | {(t + 1, m) for t, _, m in batch}
            foregrounds = {(t, k): self._layers[t].foreground(k) for t, k in nodes}
            composites = {
                (t, k): composite(self._clip.frames[t].image, foreground, self._photograph)
                for (t, k), foreground in foregrounds.items()
            }
            synthetic = self._flow_network.flow(
                [composites[t, k] for t, k, _ in batch],
                [composites[t + 1, m] for t, _, m in batch],
            )
            self.flow_runs += len(batch)
            for (t, k, m), flow in zip(batch, synthetic, strict=True):
                inside = inside_flow_loss(foregrounds[t, k], self._flows[t], flow)
                costs.append(
                    self._config.lambda_flow * (float(self._outside[t][k]) + inside)
                    + float(self.regularization[t][k, m])
                )
        return costs

    def frame_energy(self, t: int, found: PathResult) -> FrameEnergy:
        """The terms of frame t on the path."""
        k = found.path[t]
        if t == len(self._layers) - 1:
            return FrameEnergy(float(self.nodes[t][k]), 0.0, 0.0)
        m = found.path[t + 1]
        regularization = float(self.regularization[t][k, m])
        flow = float(found.edges[t][k, m]) - regularization
        return FrameEnergy(float(self.nodes[t][k]), flow, regularization)


def _pairwise_regularization(first: _Layer, second: _Layer) -> NDArray[np.float64]:
    """(K_t, K_t+1) float64, L_p of every pair of combinations."""
    iou = mask_ops.iou_matrix(first.unions, second.unions)
    areas = mask_ops.areas(first.unions)[:, None] + mask_ops.areas(second.unions)[None, :]
    return np.where(areas > 0, -iou, regularization_loss(0, 0))


def _margins(
    layers: Sequence[_Layer], nodes: Sequence[NDArray[np.float64]], found: PathResult
) -> list[dict[int, float]]:
    """Per frame and selected candidate, what the best path without it costs more.

    Where every combination that was kept holds the candidate, the next one, whatever it is,
    costs at least as much as the last of them: its L_I alone gives the margin then.
    """
    through = node_min_marginals(nodes, found.edges)
    margins: list[dict[int, float]] = []
    for t, layer in enumerate(layers):
        chosen = layer.combinations[found.path[t]].indices
        frame: dict[int, float] = {}
        for i in chosen:
            without = [k for k, c in enumerate(layer.combinations) if i not in c.indices]
            if without:
                frame[i] = max(0.0, float(through[t][without].min()) - found.energy)
            else:
                frame[i] = max(0.0, float(nodes[t].max() - nodes[t][found.path[t]]))
        margins.append(frame)
    return margins


def _frame_selection(
    clip: Clip,
    t: int,
    proposals: Proposals,
    layer: _Layer,
    graph: _Graph,
    found: PathResult,
    margins: dict[int, float],
    config: SelectionConfig,
) -> FrameSelection:
    indices = layer.combinations[found.path[t]].indices
    masks = mask_ops.decode_all([proposals.rles[i] for i in indices], proposals.size)
    exclusive = mask_ops.make_exclusive(masks, proposals.scores[list(indices)])
    visible = np.asarray(
        exclusive.any(axis=(1, 2))
    )  # a mask may lose all its pixels to better ones
    kept = tuple(i for i, seen in zip(indices, visible, strict=True) if seen)
    rles = mask_ops.encode_all(exclusive[visible])
    margin = np.array([margins[i] for i in kept], np.float64)
    return FrameSelection(
        frame=clip.frames[t],
        indices=kept,
        rles=rles,
        boxes=mask_ops.boxes_xyxy(rles),
        scores=proposals.scores[list(kept)].astype(np.float32),
        margins=margin,
        confidences=confidence(margin, config.confidence_temperature),
        energy=graph.frame_energy(t, found),
    )


def confidence(margins: NDArray[np.float64], temperature: float) -> NDArray[np.float32]:
    """Gibbs probability of the path with a mask against the best path without it.

    1 / (1 + exp(-margin / temperature)): 0.5 at no margin, growing to 1; not calibrated.
    """
    return (1.0 / (1.0 + np.exp(-margins / temperature))).astype(np.float32)


def _check_inputs(
    clip: Clip,
    proposals: Sequence[Proposals],
    backgrounds: Sequence[NDArray[np.floating]],
    flows: Sequence[NDArray[np.floating]],
) -> None:
    t, size = len(clip), clip.size
    if not (len(proposals) == len(backgrounds) == t and len(flows) == t - 1):
        raise ValueError(
            f"select_clip: expected {t} proposals, {t} backgrounds and {t - 1} flows for {t} "
            f"frames, got {len(proposals)}, {len(backgrounds)} and {len(flows)}"
        )
    for index, (frame, background) in enumerate(zip(proposals, backgrounds, strict=True)):
        if frame.size != size or background.shape != size:
            raise ValueError(
                f"select_clip: frame {index}: expected proposals and background of size {size}, "
                f"got {frame.size} and {background.shape}"
            )
    for index, flow in enumerate(flows):
        if flow.shape != (*size, 2) or not np.all(np.isfinite(flow)):
            raise ValueError(
                f"select_clip: flow {index}: expected finite {(*size, 2)}, got {flow.shape}"
            )
