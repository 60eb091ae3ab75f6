"""VideoPCA, and IOA's student of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("skimage", reason="the experiments need scikit-image (extra `dev`)")
from support.moving_disc import FRAMES, disc_inputs, iou

from experiments.methods import ioa
from experiments.methods.ioa import Ioa, best_masks, predict, trained
from experiments.methods.video_pca import (
    VideoPca,
    colour_posterior,
    reconstruction_error,
    soft_masks,
)


def test_masks_are_the_disc_that_the_components_do_not_explain() -> None:
    found = VideoPca().masks(disc_inputs())
    assert [len(p) for p in found] == [1] * FRAMES
    assert iou(found) > 0.9


def test_reconstruction_error_is_where_few_components_fail() -> None:
    """Three pixels change as three components can say; a fourth flashes up once."""
    rng = np.random.default_rng(0)
    images = np.full((8, 2, 4, 3), 100, np.uint8)
    images[:, 0, :3, 0] = rng.integers(0, 255, (8, 3))
    assert reconstruction_error(list(images)) == pytest.approx(0, abs=1e-4)
    images[5, 1, 3] = 140
    error = reconstruction_error(list(images))
    assert np.unravel_index(error.argmax(), error.shape) == (5, 1, 3)


def test_colour_posterior_compares_shares_of_colours() -> None:
    colours = np.array([[[0, 0, 1, 1, 1, 1]]])
    foreground = np.array([[[True, False, False, False, False, True]]])
    shares = colour_posterior(colours, foreground)
    assert shares[0, 0, 0] == pytest.approx(0.5 / (0.5 + 0.25))
    assert shares[0, 0, 5] == pytest.approx(0.5 / (0.5 + 0.75))


def test_best_masks_have_the_highest_mean_where_they_are_not_zero() -> None:
    soft = np.zeros((60, 4, 4))
    soft[:, 0, 0] = np.linspace(0.1, 0.9, 60)
    soft[0, 1] = 1.0  # (4 + 0.1) / 5
    assert best_masks(soft).tolist() == [0, *range(49, 60)]  # 20 %
    assert best_masks(soft[:10]).tolist() == [0, *range(3, 10)]  # at least 8
    assert best_masks(soft[:3]).tolist() == [0, 1, 2]


def test_ioa_learns_its_teacher_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ioa, "_STEPS", 30)
    inputs = disc_inputs()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    found = Ioa().masks(inputs)
    assert iou(found) > 0.85
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_student_is_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ioa, "_STEPS", 2)
    inputs = disc_inputs()
    soft = soft_masks(inputs.images)
    first, second = (predict(trained(inputs.images, soft), inputs.images[:1]) for _ in range(2))
    assert np.array_equal(first[0], second[0]) and first[0].max() == 1
