"""First votes of NLC: saliency by motion, or by appearance where motion says nothing.

Section 3.1 of Faktor & Irani (BMVC 2014) as the code of Pathak et al. (CVPR 2017) has it. Motion is
believed between frames with a dominant motion: they are at rest, or most of the flow has one
direction. There, what departs from it is salient. A clip in which fewer than half of the frames
have a dominant motion is judged by appearance instead, as manifold ranking from the borders of the
image does it (Yang et al., CVPR 2013), on the superpixels of the voting.

Departures: flow is computed at 400 pixels and counts in pixels of that, in place of 100, at which a
slow pan counts as rest. At rest, what departs from the median flow is salient, in place of what
moves at all: after a slow pan that is the background.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve
from skimage.color import rgb2lab

from experiments.methods.foreground import shrunk
from experiments.methods.superpixels import Superpixels
from gbopt_ros.perception.flow import high_detail_flow
from gbopt_ros.structures import FlowNetwork, Image

_FLOW_SIDE = 400  # pixels, longer side of the images that flow is computed on
_SIDE = 100  # pixels of the square maps that saliency is computed on
_RADIUS = 3  # frames before and after that a frame is compared with
_AT_REST = 1.0  # pixels; median flow below which a frame is at rest
_ONE_DIRECTION = 0.75  # share of the flow in one bin of direction
_DIRECTIONS = 10  # bins
_SMOOTHING = 5  # pixels, side of the window that saliency is averaged in
_BORDER = 0.125  # of the shorter side; nothing is salient there
_ENOUGH = 0.5  # share of frames with a dominant motion

# Manifold ranking, constants of its paper: sigma^2 of colour in normalised LAB, and alpha.
_COLOUR_SIGMA2, _ALPHA = 0.1, 0.99


def vote_map(
    images: Sequence[Image], flow_network: FlowNetwork, superpixels: Superpixels
) -> NDArray[np.float64]:
    """(T, H, W) saliency in [0, 1]; the largest of the clip is 1 if anything is salient."""
    height, width = superpixels.labels.shape[1:]
    small, dominant = motion_saliency(shrunk(images, _FLOW_SIDE), flow_network)
    if np.mean(dominant) >= _ENOUGH:
        saliency = np.stack([cv2.resize(each, (width, height)) for each in small])
    else:
        saliency = superpixels.painted(appearance_saliency(images, superpixels))
    border = int(_BORDER * min(height, width))
    inner = np.zeros_like(saliency)
    inner[:, border : height - border, border : width - border] = saliency[
        :, border : height - border, border : width - border
    ]
    return inner / inner.max() if inner.max() > 0 else inner


def motion_saliency(
    images: Sequence[Image], flow_network: FlowNetwork
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mean saliency over the pairs of a frame that have a dominant motion.

    Returns:
        (T, 100, 100) saliency, and (T,) whether any pair of a frame has a dominant motion.
    """
    network = high_detail_flow(flow_network)
    count = len(images)
    total, pairs = np.zeros((count, _SIDE, _SIDE)), np.zeros(count)
    for step in [*range(-_RADIUS, 0), *range(1, _RADIUS + 1)]:
        here = range(max(0, -step), min(count, count - step))
        if not here:
            continue
        flows = network.flow([images[t] for t in here], [images[t + step] for t in here])
        for t, flow in zip(here, flows, strict=True):
            small = cv2.resize(flow, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
            found = saliency_of(small)
            if found is not None:
                total[t] += found
                pairs[t] += 1
    return total / np.maximum(pairs, 1)[:, None, None], pairs > 0


def saliency_of(flow: NDArray[np.floating]) -> NDArray[np.float64] | None:
    """(H, W) squared departure from the dominant motion of a flow (H, W, 2), None without one."""
    magnitude = np.linalg.norm(flow, axis=-1)
    if np.median(magnitude) < _AT_REST:
        departure = np.linalg.norm(flow - np.median(flow, axis=(0, 1)), axis=-1)
    else:
        direction = np.arctan2(flow[..., 1], flow[..., 0])
        shares, edges = np.histogram(
            direction, _DIRECTIONS, range=(-np.pi, np.pi), weights=magnitude / magnitude.sum()
        )
        most = int(np.argmax(shares))
        if shares[most] <= _ONE_DIRECTION:
            return None
        target = (edges[most] + edges[most + 1]) / 2
        departure = (direction - target + np.pi) % (2 * np.pi) - np.pi
    window = (_SMOOTHING, _SMOOTHING)
    return cv2.blur(departure.astype(np.float64) ** 2, window, borderType=cv2.BORDER_REFLECT)


def appearance_saliency(images: Sequence[Image], superpixels: Superpixels) -> NDArray[np.float64]:
    """(S,) in [0, 1], manifold ranking in two stages (Yang et al. 2013).

    What ranks low as an answer to the superpixels of each border is salient; the salient ones are
    the query of the second stage.
    """
    lab = np.stack([rgb2lab(image) for image in images]) / 100
    ranking = _ranking(superpixels.means(lab), superpixels)
    frames, count = superpixels.frames, len(images)
    product = np.ones(len(superpixels))
    for border in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        query = np.zeros(len(superpixels))
        query[np.unique(superpixels.labels[border])] = 1
        product *= 1 - _per_frame(ranking(query), frames, count)
    mean = np.bincount(frames, product, count) / np.bincount(frames, minlength=count)
    return _per_frame(ranking((product > mean[frames]).astype(float)), frames, count)


def _ranking(colours: NDArray[np.floating], superpixels: Superpixels):
    """The function that ranks all superpixels for a query (S,): Eq. 4 of the paper.

    Superpixels are linked to neighbours, to neighbours of these, and along the border.
    """
    size = len(superpixels)
    pairs = superpixels.neighbours()
    once = sparse.coo_array((np.ones(len(pairs)), pairs.T), (size, size)).tocsr()
    once = once + once.T
    first, second = sparse.triu((once + once @ once), 1).nonzero()
    rings = [np.stack([first, second], axis=1)]
    for labels in superpixels.labels:
        edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        rings.append(np.stack(np.triu_indices(len(edge), 1), axis=1))
        rings[-1] = edge[rings[-1]]
    pairs = np.unique(np.concatenate(rings), axis=0)
    distance = np.linalg.norm(colours[pairs[:, 0]] - colours[pairs[:, 1]], axis=1)
    weights = np.exp(-distance / _COLOUR_SIGMA2)
    affinity = sparse.coo_array((weights, pairs.T), (size, size)).tocsr()
    affinity = affinity + affinity.T
    system = sparse.diags_array(affinity.sum(axis=1)) - _ALPHA * affinity
    return lambda query: spsolve(system.tocsc(), query)


def _per_frame(
    values: NDArray[np.floating], frames: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """(S,) values in [0, 1] after the smallest and the largest of each frame become 0 and 1."""
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, frames, values)
    np.maximum.at(high, frames, values)
    span = np.where(high > low, high - low, 1)
    return (values - low[frames]) / span[frames]
