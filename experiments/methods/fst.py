"""FST: fast object segmentation in unconstrained video (Papazoglou & Ferrari, ICCV 2013).

What motion boundaries surround is probably an object. That is carried along the flow to location
priors; colours of what is inside and outside make appearance models; a graph cut over the
superpixels of all frames gives the segmentation, and is repeated with its own colours.

Constants are those of the paper (Sections 3 and 4) or, where it gives none, of the released code
(v1.2; GPL, nothing is copied): frames of at most 400 pixels, 5 and 8 Gaussians, at most 4 cuts.
The number of superpixels is set here.
Weights of unary, spatial and temporal terms are 10, 250 and 1000, which the release uses for half
of SegTrack; with its defaults for YouTube-Objects (5000 and 4000) objects of low contrast vanish.

Departures: the flow is that of the project, where the original has large-displacement optical flow
(Brox & Malik 2011). It is amplified where objects are slow, see `motion_boundaries`. Superpixels
are SLIC, which the authors call as good as the TurboPixels of the paper. Colour models are fitted
to superpixels that are drawn by their weight, one model for ten frames, over which weights change
by 1 percent. The last frame has the inside-outside map of the flow back to the frame before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import maxflow
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from experiments.methods.contract import Inputs
from experiments.methods.foreground import enlarged, proposals_of, shrunk
from experiments.methods.motion_boundaries import gradient_magnitude, inside_map
from experiments.methods.superpixels import Superpixels
from gbopt_ros.perception.flow import high_detail_flow
from gbopt_ros.perception.motion import resized
from gbopt_ros.structures import Image, Proposals

_LONGER_SIDE = 400  # pixels
_SUPERPIXELS = 1500  # a frame
_LAMBDA_FLOW = 2.0  # how fast trust in the flow falls with its gradient (Eq. 6)
_LOCATION_NORM = 0.75  # share of the largest prior that counts as certain
_SURE = 1e-3  # smallest probability
_INSIDE, _OUTSIDE = 0.2, 0.05  # shares of a superpixel that make it a first sample of colours
_MIXTURES = {True: 5, False: 8}  # Gaussians of foreground and background
_FADE = 1e-4  # how fast the weight of a frame falls with the squared distance in time (Eq. 10)
_BLOCK = 10  # frames that share a colour model
_SAMPLES = 2000  # superpixels drawn for a model
_CUTS = 4
_SPATIAL, _TEMPORAL = 25.0, 100.0  # weights of Eq. 5, where the unary terms have 1
_SEED = 0


class Fst:
    """Inside-outside maps, then location and appearance models with a graph cut."""

    label = "FST (flow: the project's)"

    def masks(self, inputs: Inputs) -> list[Proposals]:
        """T times the connected components of the foreground."""
        if len(inputs.clip) < 2:
            none = np.zeros(inputs.clip.size, bool)
            return [proposals_of(none, none) for _ in inputs.images]
        images = shrunk(inputs.images, _LONGER_SIDE)
        labels, probability = segment(images, _flows(inputs, images[0].shape[:2]))
        masks = [mask >= 0.5 for mask in enlarged(labels, inputs.clip.size)]
        return [
            proposals_of(mask, values)
            for mask, values in zip(masks, enlarged(probability, inputs.clip.size), strict=True)
        ]


def segment(
    images: Sequence[Image], flows: NDArray[np.floating]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(T, H, W) labels of the last cut, and (T, H, W) probabilities of its unary terms.

    Args:
        flows: (T, H, W, 2), pixels (x, y), from each frame to the next, from the last one back.
    """
    superpixels = Superpixels.of(images, _SUPERPIXELS)
    inside = superpixels.means(np.stack([inside_map(flow) for flow in flows]))
    colours = superpixels.means(np.stack(images))
    transfers = superpixels.transfers(flows[:-1])
    trust = superpixels.means(np.stack([gradient_magnitude(flow) for flow in flows]))
    location = location_prior(inside, transfers, np.exp(-_LAMBDA_FLOW * trust), superpixels.starts)
    edges, weights = _pairwise(superpixels, colours, transfers)
    foreground, background = np.where(inside > _INSIDE, inside, 0), 1 - inside
    background[inside >= _OUTSIDE] = 0
    labels, probability = np.zeros(len(superpixels), bool), location
    for _ in range(_CUTS):
        appearance = _appearance(colours, superpixels.frames, foreground, background)
        if appearance is None:  # everything is one or the other: no colours to compare
            break
        cut = _cut(location, appearance, edges, weights)
        product = location * appearance
        probability = product / (product + (1 - location) * (1 - appearance))
        changed, labels = np.any(cut != labels), cut
        if not changed:
            break
        foreground, background = labels.astype(float), 1.0 - labels
    return superpixels.painted(labels), superpixels.painted(probability)


def _flows(inputs: Inputs, size: tuple[int, int]) -> NDArray[np.float32]:
    """(T, height, width, 2), pixels, from each frame to the next, from the last one back."""
    images = inputs.images
    flows = high_detail_flow(inputs.flow_network).flow(images, [*images[1:], images[-2]])
    height, width = inputs.clip.size
    scale = np.array([size[1] / width, size[0] / height], np.float32)
    return np.stack([scale * resized(flow, size) for flow in flows])


def location_prior(
    inside: NDArray[np.floating],
    transfers: sparse.csr_array,
    trust: NDArray[np.floating],
    starts: NDArray[np.int64],
) -> NDArray[np.float64]:
    """(S,) probability of an object, accumulated along the flow in both directions (Section 3.2).

    Args:
        inside: (S,) share of each superpixel that is inside motion boundaries.
        transfers: see `Superpixels.transfers`.
        trust: (S,) in [0, 1], how reliable the flow of a superpixel is.
        starts: (T + 1,) first superpixel of each frame, and S.
    """
    frames = list(range(len(starts) - 1))
    total = inside.copy()
    for order, counts in ((frames, transfers), (frames[::-1], transfers.T.tocsr())):
        out = np.maximum(counts.sum(axis=1), 1)
        share = sparse.diags_array(1 / out) @ counts  # of a superpixel's pixels
        arriving = inside.copy()
        for before, after in pairwise(order):
            here, there = (slice(starts[t], starts[t + 1]) for t in (before, after))
            block = share.tocsr()[here, there]
            weight = block.sum(axis=0)
            gain = block.T @ (trust[here] * arriving[here])
            gain = np.divide(gain, weight, out=np.zeros_like(gain), where=weight > 0)
            arriving[there] += gain
        total += arriving - inside
    largest = total.max()
    if largest == 0:
        return np.full(len(total), _SURE)
    return np.clip(total / (_LOCATION_NORM * largest), _SURE, 1 - _SURE)


def _appearance(
    colours: NDArray[np.floating],
    frames: NDArray[np.int64],
    foreground: NDArray[np.floating],
    background: NDArray[np.floating],
) -> NDArray[np.float64] | None:
    """(S,) probability that colours (S, 3) are of the foreground, from weighted samples (S,)."""
    probability = np.zeros(len(colours))
    for start in range(0, int(frames[-1]) + 1, _BLOCK):
        block = (frames >= start) & (frames < start + _BLOCK)
        fade = np.exp(-_FADE * (frames - frames[block].mean()) ** 2)
        logs = {}
        for kind, weights in ((True, foreground * fade), (False, background * fade)):
            if np.count_nonzero(weights) < _MIXTURES[kind]:
                return None
            rng = np.random.default_rng(_SEED)
            chosen = rng.choice(len(colours), _SAMPLES, p=weights / weights.sum())
            # The variance of one grey level keeps flat regions from becoming a point.
            mixture = GaussianMixture(_MIXTURES[kind], reg_covar=1.0, random_state=_SEED)
            with threadpool_limits(1):  # so few points: more threads only wait for each other
                logs[kind] = mixture.fit(colours[chosen]).score_samples(colours[block])
        probability[block] = 1 / (1 + np.exp(np.clip(logs[False] - logs[True], -50, 50)))
    return np.clip(probability, _SURE, 1 - _SURE)


def _pairwise(
    superpixels: Superpixels, colours: NDArray[np.floating], transfers: sparse.csr_array
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(E, 2) connected superpixels, and (E,) what it costs to label them differently (Eq. 11, 12).

    Neighbours of a frame count by their distance, those of two frames by the share of pixels that
    the flow takes from one to the other; both less the more their colours differ.
    """
    spatial = superpixels.neighbours()
    centres = superpixels.centres()
    distance = np.linalg.norm(centres[spatial[:, 0]] - centres[spatial[:, 1]], axis=1)
    flowing = transfers.tocoo()
    temporal = np.stack([flowing.row, flowing.col], axis=1).astype(np.int64)
    share = flowing.data / superpixels.areas[flowing.row]
    contrasts = [_squared(colours, spatial), _squared(colours, temporal)]
    weights = np.concatenate([
        _SPATIAL * _alike(contrasts[0], 1 / distance), _TEMPORAL * _alike(contrasts[1], share)
    ])  # fmt: skip
    return np.concatenate([spatial, temporal]), weights


def _squared(colours: NDArray[np.floating], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.sum((colours[edges[:, 0]] - colours[edges[:, 1]]) ** 2, axis=1)


def _alike(contrast: NDArray[np.floating], strength: NDArray[np.floating]) -> NDArray[np.float64]:
    mean = np.mean(contrast * strength)
    return strength * np.exp(-0.5 * contrast / mean) if mean > 0 else strength


def _cut(
    location: NDArray[np.floating],
    appearance: NDArray[np.floating],
    edges: NDArray[np.int64],
    weights: NDArray[np.floating],
) -> NDArray[np.bool_]:
    """(S,) labels of least energy (Eq. 5)."""
    graph = maxflow.Graph[float](len(location), len(edges))
    nodes = graph.add_nodes(len(location))
    graph.add_edges(nodes[edges[:, 0]], nodes[edges[:, 1]], weights, weights)
    as_background = -np.log(1 - location) - np.log(1 - appearance)
    as_foreground = -np.log(location) - np.log(appearance)
    graph.add_grid_tedges(nodes, as_background, as_foreground)
    graph.maxflow()
    return ~graph.get_grid_segments(nodes)
