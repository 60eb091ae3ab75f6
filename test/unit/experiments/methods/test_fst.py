"""FST: motion boundaries, location priors, and a graph cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("maxflow", reason="FST needs PyMaxflow (extra `dev`)")
pytest.importorskip("sklearn", reason="FST needs scikit-learn (extra `dev`)")
from scipy import sparse
from support.fakes import make_clip
from support.moving_disc import FRAMES, disc_inputs, iou

from experiments.methods.contract import Inputs
from experiments.methods.fst import Fst, _flows, location_prior
from gbopt_ros.perception.flow import DisFlow
from gbopt_ros.structures import Image


def test_masks_are_the_disc_that_moves_against_a_pan() -> None:
    found = Fst().masks(disc_inputs())
    assert [len(p) for p in found] == [1] * FRAMES
    assert iou(found) > 0.95
    assert min(p.scores[0] for p in found) > 0.9


@pytest.mark.parametrize("frames", [1, 3])
def test_masks_of_frames_at_rest_are_none(frames: int) -> None:
    images = [disc_inputs().images[0]] * frames
    found = Fst().masks(Inputs(make_clip(images), (), DisFlow(), None, None))
    assert [len(p) for p in found] == [0] * frames


def test_flows_of_smaller_images_are_in_their_pixels() -> None:
    clip = make_clip([np.zeros((48, 64, 3), np.uint8)] * 3)
    flows = _flows(Inputs(clip, (), Constant(), None, None), (12, 40))
    np.testing.assert_allclose(flows, np.broadcast_to([5.0, -2.0], (3, 12, 40, 2)))


class Constant:
    """A flow network to which everything moves 8 pixels to the right and 8 up."""

    def flow(self, first: Sequence[Image], _: Sequence[Image]) -> NDArray[np.float32]:
        return np.broadcast_to(np.float32([8, -8]), (len(first), *first[0].shape[:2], 2))


def test_location_prior_is_carried_along_the_flow_both_ways() -> None:
    """Three frames of two superpixels; the first of each is the same thing."""
    transfers = sparse.csr_array((6, 6))
    transfers = transfers.tolil()
    for before, after in ((0, 2), (1, 3), (2, 4), (3, 5)):
        transfers[before, after] = 10
    inside = np.array([0, 0, 1.0, 0, 0, 0])  # seen to move in the middle frame alone
    trust = np.array([1, 1, 0.5, 1, 1, 1])
    prior = location_prior(inside, transfers.tocsr(), trust, np.array([0, 2, 4, 6]))
    # 0.75 of the largest counts as certain; the flow of the mover is trusted by half.
    assert prior == pytest.approx([0.5 / 0.75, 0.001, 0.999, 0.001, 0.5 / 0.75, 0.001])


def test_location_prior_without_anything_inside_is_low() -> None:
    prior = location_prior(np.zeros(2), sparse.csr_array((2, 2)), np.ones(2), np.array([0, 1, 2]))
    assert prior.tolist() == [0.001, 0.001]
