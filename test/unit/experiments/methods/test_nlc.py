"""NLC: superpixels that look alike vote alike."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("skimage", reason="superpixels need scikit-image (extra `dev`)")
from scipy import sparse
from support.moving_disc import FRAMES, disc_inputs, iou
from support.textures import texture

from experiments.methods.nlc import (
    Nlc,
    consensus,
    consensus_links,
    descriptors,
    large_components,
)
from experiments.methods.superpixels import Superpixels


@pytest.mark.parametrize("pan", [0, 1])
def test_masks_are_the_disc_before_a_background_at_rest_and_in_a_pan(pan: int) -> None:
    found = Nlc().masks(disc_inputs(pan))
    assert [len(p) for p in found] == [1] * FRAMES
    assert iou(found) > 0.75


def test_descriptors_tell_colours_apart_and_know_the_place() -> None:
    image = texture(60, 80) // 4
    image[:, 40:, 0] += 150  # the right half is red
    superpixels = Superpixels.of([image, image], 40)
    found = descriptors([image, image], superpixels)
    assert found.shape == (len(superpixels), 54 + 6 * 20 + 2)
    assert np.linalg.norm(found[:, :54], axis=1) == pytest.approx(1, abs=1e-5)
    assert found[:, 54:-2].reshape(-1, 6, 20).sum(axis=2) == pytest.approx(1)
    assert found[:, -2:] == pytest.approx(superpixels.centres() / (60, 80), abs=0.02)
    half = len(superpixels) // 2
    assert np.array_equal(found[:half], found[half:])
    links = consensus_links(found, superpixels.frames).toarray()
    assert links.sum(axis=1) == pytest.approx(1)
    red = superpixels.centres()[:, 1] > 48
    dark = superpixels.centres()[:, 1] < 32
    assert links[np.ix_(red, dark)].max() == 0


def test_consensus_takes_means_and_scales_every_frame_to_one() -> None:
    links = sparse.csr_array(np.array([[0.5, 0, 0.5], [0, 1.0, 0], [0.5, 0, 0.5]]))
    votes = consensus(np.array([1.0, 0.2, 0.0]), links, np.array([0, 2, 3]))
    assert votes == pytest.approx([1, 0.4, 1])  # 0.5, 0.2 and 0.5 before they are scaled
    nothing = consensus(np.zeros(3), links, np.array([0, 2, 3]))
    assert nothing.tolist() == [0, 0, 0]


def test_large_components_are_near_the_largest() -> None:
    mask = np.zeros((10, 20), bool)
    mask[:5, :4], mask[:3, 8:12], mask[:, 15] = True, True, True  # 20, 12 and 10 pixels
    kept = large_components(mask)
    assert kept[:5, :4].all() and kept[:3, 8:12].all() and kept.sum() == 32
    assert not large_components(np.zeros((3, 3), bool)).any()
