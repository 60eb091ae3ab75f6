"""The two stages on one clip: candidates in, a `Selection` out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import SelectionConfig
from gbopt_ros.selection.graph import LayeredGraph
from gbopt_ros.selection.path import PathResult
from gbopt_ros.structures import Clip, FlowNetwork, FrameSelection, Proposals, Selection


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

    Masks are as they were proposed; `with_outlines` draws them anew.

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
    graph = LayeredGraph(flow_network, config)
    for frame, candidates, background, flow in zip(
        clip.frames, proposals, backgrounds, [None, *flows], strict=True
    ):
        graph.append(frame, candidates, background, flow)
    found = graph.solve()
    frames = frame_selections(graph, found, range(len(clip)), config)
    return Selection(
        clip_id=clip.clip_id,
        frames=frames,
        energy=found.energy,
        lower_bound=found.lower_bound,
        optimal=found.lower_bound == found.energy,
        flow_runs=graph.flow_runs,
        model_version=model_version,
    )


def frame_selections(
    graph: LayeredGraph, found: PathResult, which: Iterable[int], config: SelectionConfig
) -> tuple[FrameSelection, ...]:
    """What a path selects on some of the graph's frames, with energies and confidences."""
    margins = graph.margins(found)
    return tuple(_frame_selection(graph, found, t, margins[t], config) for t in which)


def _frame_selection(
    graph: LayeredGraph,
    found: PathResult,
    t: int,
    margins: dict[int, float],
    config: SelectionConfig,
) -> FrameSelection:
    layer = graph.layers[t]
    proposals = layer.proposals
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
        frame=layer.frame,
        indices=kept,
        rles=rles,
        boxes=mask_ops.boxes_xyxy(rles),
        scores=proposals.scores[list(kept)].astype(np.float32),
        margins=margin,
        confidences=confidence(margin, proposals.scores[list(kept)], config),
        energy=graph.frame_energy(t, found.path),
    )


def confidence(
    margins: NDArray[np.float64], scores: NDArray[np.floating], config: SelectionConfig
) -> NDArray[np.float32]:
    """How probable it is that a selected mask shows an object (IoU >= 0.5 with it).

    A logistic model of the margin and the network's score; its coefficients are fitted on
    recordings with ground truth and hold for the networks and the settings that they were fitted
    with.

    Args:
        margins: (S,) >= 0, what the best path without the mask costs more.
        scores: (S,) in [0, 1], of the network.
        config: the coefficients.

    Returns:
        (S,) float32 in [0, 1].
    """
    weights = np.array([config.confidence_margin, config.confidence_score])
    logit = config.confidence_bias + confidence_features(margins, scores) @ weights
    probability: NDArray[np.float32] = (1.0 / (1.0 + np.exp(-logit))).astype(np.float32)
    return probability


def confidence_features(
    margins: NDArray[np.float64], scores: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(S, 2) float64, what `confidence` is a model of."""
    clipped = np.clip(scores.astype(np.float64), 1e-3, 1 - 1e-3)
    return np.column_stack([np.log1p(1e4 * margins), np.log(clipped / (1 - clipped))])


def _check_inputs(
    clip: Clip,
    proposals: Sequence[Proposals],
    backgrounds: Sequence[NDArray[np.floating]],
    flows: Sequence[NDArray[np.floating]],
) -> None:
    t = len(clip)
    if not (len(proposals) == len(backgrounds) == t and len(flows) == t - 1):
        raise ValueError(
            f"select_clip: expected {t} proposals, {t} backgrounds and {t - 1} flows for {t} "
            f"frames, got {len(proposals)}, {len(backgrounds)} and {len(flows)}"
        )
