"""NLC: video segmentation by non-local consensus voting (Faktor & Irani, BMVC 2014).

As Pathak et al. (CVPR 2017) made it unsupervised ("uNLC"): superpixels vote for foreground by their
motion saliency; every superpixel then takes the mean vote of those that look alike within 15 frames
before and after it, again and again; what stays above a threshold is foreground.

Constants are those of uNLC's code (MIT; github.com/pathak22/videoseg, nlc.py and run_full.py).
Departures: the flow is that of the project, the original has Liu's coarse-to-fine flow. A
superpixel has 2 neighbours for each frame of its window, where the original has 62, the number for
a full window. Sigma^2 is 0.3 in place of 0.1, at which hardly a vote left its superpixel. The
threshold is the 0.4 of nlc.py and not the 0.7 of run_full.py, after which a dense CRF grows the
masks. Both were chosen on four sequences of DAVIS (bear, car-turn, dog-agility, elephant). The CRF
is left out, and so are the change points that cut a video to shots. See `motion_saliency` for the
first votes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from skimage.color import rgb2gray, rgb2lab

from experiments.methods.contract import Inputs
from experiments.methods.foreground import enlarged, proposals_of, shrunk
from experiments.methods.motion_saliency import vote_map
from experiments.methods.superpixels import Superpixels
from gbopt_ros.structures import BoolMask, Image, Proposals

_LONGER_SIDE = 650  # pixels
_SUPERPIXELS, _SIGMA = 400, 5.0
_PATCH, _CELLS, _ORIENTATIONS = 15, 3, 6  # pixels around a superpixel, cells a side, HOG
_COLOUR_BINS = 20  # of each channel of RGB and LAB
_RADIUS = 15  # frames before and after
_NEIGHBOURS = 2  # of a superpixel, for each frame of its window
_SIGMA2 = 0.3  # of the weight of a neighbour, squared distance in descriptor space
_ITERATIONS = 50
_THRESHOLD = 0.4
_RELATIVE_AREA = 0.6  # a component that is smaller than this share of the largest is removed


class Nlc:
    """Motion saliency, and consensus voting of superpixels that look alike."""

    label = "NLC (flow: the project's; no CRF)"

    def masks(self, inputs: Inputs) -> list[Proposals]:
        """T times the connected components of the foreground."""
        images = shrunk(inputs.images, _LONGER_SIDE)
        superpixels = Superpixels.of(images, _SUPERPIXELS, _SIGMA)
        votes = superpixels.means(vote_map(images, inputs.flow_network, superpixels))
        links = consensus_links(descriptors(images, superpixels), superpixels.frames)
        votes = consensus(votes, links, superpixels.starts)
        maps = enlarged(superpixels.painted(votes), inputs.clip.size)
        return [proposals_of(large_components(each > _THRESHOLD), each) for each in maps]


def descriptors(images: Sequence[Image], superpixels: Superpixels) -> NDArray[np.float32]:
    """(S, D) HOG, histograms of RGB and LAB, and position of the patch around each superpixel.

    HOG has unit norm, each histogram sum 1, the position is in shares of the image.
    """
    height, width = superpixels.labels.shape[1:]
    side = min(_PATCH, height, width)
    offsets = np.arange(side) - side // 2
    centres = np.rint(superpixels.centres()).astype(int)
    low, high = side // 2, np.array([height, width]) - (side - side // 2)
    rows, columns = np.clip(centres, low, high).T[..., None] + offsets  # (S, side) each
    cells = np.arange(side) * _CELLS // side
    cells = (cells[:, None] * _CELLS + cells).ravel()  # (side * side,)
    found = []
    for t, image in enumerate(images):
        own = slice(superpixels.starts[t], superpixels.starts[t + 1])
        patch = rows[own, :, None], columns[own, None, :]
        magnitude, orientation = _gradients(image)
        hog = _histograms(
            (cells * _ORIENTATIONS + orientation[patch].reshape(len(centres[own]), -1)),
            _CELLS**2 * _ORIENTATIONS,
            magnitude[patch].reshape(len(centres[own]), -1),
        )
        hog /= np.maximum(np.linalg.norm(hog, axis=1, keepdims=True), 1e-6)
        bins = _colour_bins(image)[patch].reshape(len(hog), side * side, 6)
        colours = [_histograms(bins[..., c], _COLOUR_BINS) / side**2 for c in range(6)]
        position = centres[own] / (height, width)
        found.append(np.concatenate([hog, *colours, position], axis=1))
    return np.concatenate(found).astype(np.float32)


def consensus_links(described: NDArray[np.float32], frames: NDArray[np.int64]) -> sparse.csr_array:
    """(S, S), how much each superpixel heeds every other one; every row has sum 1.

    A superpixel heeds those nearest to it in descriptor space, and itself, with weight
    exp(-squared distance / sigma^2).
    """
    squares = np.sum(described**2, axis=1)
    rows, columns, weights = [], [], []
    for t in range(int(frames[-1]) + 1):
        own = np.flatnonzero(frames == t)
        window = np.flatnonzero(np.abs(frames - t) <= _RADIUS)
        count = min(_NEIGHBOURS * len(np.unique(frames[window])), len(window) - 1)
        distances = squares[own, None] + squares[window] - 2 * described[own] @ described[window].T
        nearest = np.argpartition(distances, count, axis=1)[:, :count]
        rows.append(np.repeat(own, count))
        columns.append(window[nearest].ravel())
        closest = np.take_along_axis(distances, nearest, axis=1).clip(min=0)
        weights.append(np.exp(-closest / _SIGMA2).ravel())
    shape = (len(described), len(described))
    joined = [np.concatenate(each) for each in (weights, rows, columns)]
    links = sparse.coo_array((joined[0], (joined[1], joined[2])), shape).tocsr()
    return sparse.diags_array(1 / links.sum(axis=1)) @ links


def consensus(
    votes: NDArray[np.floating], links: sparse.csr_array, starts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(S,) votes after the iterations; the largest of every frame is 1, if one is above 0."""
    counts = np.diff(starts)
    for _ in range(_ITERATIONS):
        votes = links @ votes
        largest = np.maximum.reduceat(votes, starts[:-1])
        votes = votes / np.repeat(np.where(largest > 0, largest, 1), counts)
    return votes


def large_components(mask: BoolMask) -> BoolMask:
    """The mask without components that are small beside its largest."""
    labels, count = ndimage.label(mask)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    keep = areas >= _RELATIVE_AREA * max(areas.max(), 1)
    return keep[labels]


def _gradients(image: Image) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(H, W) magnitude, and bin of the orientation without sign."""
    by_row, by_column = np.gradient(rgb2gray(image))
    angle = np.arctan2(by_row, by_column) % np.pi
    bins = (angle * _ORIENTATIONS / np.pi).astype(np.int64).clip(max=_ORIENTATIONS - 1)
    return np.hypot(by_row, by_column), bins


def _colour_bins(image: Image) -> NDArray[np.int64]:
    """(H, W, 6) bin of each channel of RGB and LAB."""
    values = np.concatenate([image, rgb2lab(image)], axis=2)
    low = np.array([0, 0, 0, 0, -128, -128])
    span = np.array([256, 256, 256, 101, 256, 256])
    return ((values - low) / span * _COLOUR_BINS).astype(np.int64).clip(0, _COLOUR_BINS - 1)


def _histograms(
    bins: NDArray[np.int64], count: int, weights: NDArray | None = None
) -> NDArray[np.float64]:
    """(S, count) one histogram for each row of (S, P) bins."""
    codes = np.arange(len(bins))[:, None] * count + bins
    flat = None if weights is None else weights.ravel()
    return np.bincount(codes.ravel(), flat, len(bins) * count).reshape(-1, count).astype(float)
