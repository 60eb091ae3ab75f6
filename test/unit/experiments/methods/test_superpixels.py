"""The superpixels of a clip."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("skimage", reason="superpixels need scikit-image (extra `dev`)")
from support.textures import texture

from experiments.methods.superpixels import Superpixels

# Two frames of 2 x 4 pixels: left and right half, then top and bottom row.
HALVES = Superpixels(
    np.array([[[0, 0, 1, 1], [0, 0, 1, 1]], [[2, 2, 2, 2], [3, 3, 3, 3]]]), np.array([0, 2, 4])
)


def test_means_areas_centres_and_painted() -> None:
    values = np.arange(16.0).reshape(2, 2, 4)
    assert HALVES.means(values).tolist() == [2.5, 4.5, 9.5, 13.5]
    both = HALVES.means(np.stack([values, -values], axis=-1))
    assert both.tolist() == [[2.5, -2.5], [4.5, -4.5], [9.5, -9.5], [13.5, -13.5]]
    assert HALVES.areas.tolist() == [4, 4, 4, 4]
    assert HALVES.frames.tolist() == [0, 0, 1, 1]
    assert HALVES.centres().tolist() == [[0.5, 0.5], [0.5, 2.5], [0, 1.5], [1, 1.5]]
    assert HALVES.painted(np.array([5, 6, 7, 8]))[0].tolist() == [[5, 5, 6, 6]] * 2


def test_neighbours_are_of_one_frame() -> None:
    assert HALVES.neighbours().tolist() == [[0, 1], [2, 3]]


def test_transfers_count_the_pixels_that_the_flow_takes_along() -> None:
    flow = np.zeros((1, 2, 4, 2))
    assert HALVES.transfers(flow).toarray()[:2].tolist() == [[0, 0, 2, 2], [0, 0, 2, 2]]
    flow[..., 0] = 3.0  # all but the first column leave the image
    assert HALVES.transfers(flow).toarray()[:2].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]


def test_of_numbers_the_superpixels_through_the_frames() -> None:
    found = Superpixels.of([texture(40, 60, seed) for seed in range(2)], 24)
    assert found.starts[0] == 0 and found.starts[-1] == len(found)
    for labels, (low, high) in zip(found.labels, pairwise(found.starts), strict=True):
        assert np.unique(labels).tolist() == list(range(low, high))
        assert 12 <= high - low <= 36
