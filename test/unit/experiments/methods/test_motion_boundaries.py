"""Motion boundaries, and what they surround."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.methods.motion_boundaries import (
    amplified,
    boundary_probability,
    compactness,
    gradient_magnitude,
    inside_map,
    rays_inside,
)

SIZE = (60, 80)
DISC = (np.mgrid[0:60, 0:80][0] - 30) ** 2 + (np.mgrid[0:60, 0:80][1] - 40) ** 2 < 15**2


def moving_disc(speed: float, background: float = 0.0) -> np.ndarray:
    """A flow to the right of a disc, and of all else."""
    flow = np.zeros((*SIZE, 2))
    flow[..., 0] = np.where(DISC, speed, background)
    return flow


def outline() -> np.ndarray:
    """A closed rectangle, 2 pixels wide: a run of boundary pixels is one crossing."""
    boundary = np.zeros((20, 24), bool)
    boundary[5:15, 6:18] = True
    boundary[7:13, 8:16] = False
    return boundary


def test_rays_count_odd_crossings() -> None:
    votes = rays_inside(outline())
    assert (votes[7:13, 8:16] == 8).all()
    outside = np.ones(votes.shape, bool)
    outside[5:15, 6:18] = False
    assert votes[outside].max() <= 2  # rays along a side or through a corner


def test_rays_forgive_a_gap_in_the_boundary() -> None:
    boundary = outline()
    boundary[:7, 11] = False  # a ray that leaves here crosses nothing
    votes = rays_inside(boundary)
    assert (votes[7:13, 8:16] >= 5).all()
    assert votes[10, 11] == 7
    assert (votes[:5] < 5).all()


def test_gradient_magnitude_of_a_slope_is_its_slope() -> None:
    flow = np.zeros((4, 5, 2))
    flow[..., 0], flow[..., 1] = 3 * np.arange(5), 4 * np.arange(4)[:, None]
    assert gradient_magnitude(flow) == pytest.approx(np.full((4, 5), 5.0))


def test_boundary_probability_of_a_weak_gradient_needs_another_direction() -> None:
    same, opposed = moving_disc(2.2, 1.0), moving_disc(0.6, -0.6)
    edge = gradient_magnitude(same) > 0
    assert boundary_probability(same)[edge].max() < 0.1
    strongest = 1 - np.exp(-0.7 * 0.6 * 2**0.5)  # of the gradient; opposed directions are certain
    assert boundary_probability(opposed)[edge].max() == pytest.approx(strongest, abs=0.03)
    assert boundary_probability(same)[~edge].max() == 0


@pytest.mark.parametrize("speed", [0.8, 3.0, 12.0])
def test_inside_map_is_what_moves_against_the_rest_at_any_speed(speed: float) -> None:
    found = inside_map(moving_disc(speed - 1, -1))
    assert (found & DISC).sum() / (found | DISC).sum() > 0.8


def test_inside_map_of_a_pan_is_empty() -> None:
    assert not inside_map(moving_disc(5.0, 5.0)).any()


def test_amplified_brings_the_disc_to_speed_and_noise_not_far() -> None:
    assert amplified(moving_disc(3.0)).max() == pytest.approx(12.0)
    assert amplified(moving_disc(30.0)).max() == 30.0
    assert amplified(moving_disc(0.1)).max() == pytest.approx(1.6)


def test_compactness_is_one_for_a_disc_and_small_for_what_is_scattered() -> None:
    assert compactness(DISC) == pytest.approx(1, abs=0.02)
    corners = np.zeros(SIZE, bool)
    corners[:4, :4] = corners[-4:, -4:] = corners[:4, -4:] = True
    assert compactness(corners) < 0.05
    assert compactness(np.zeros(SIZE, bool)) == 0
