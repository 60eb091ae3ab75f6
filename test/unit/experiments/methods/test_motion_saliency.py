"""The first votes of NLC."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("skimage", reason="superpixels need scikit-image (extra `dev`)")
from support.moving_disc import SIZE, disc_inputs, discs

from experiments.methods.motion_saliency import appearance_saliency, saliency_of, vote_map
from experiments.methods.superpixels import Superpixels


def flow_of(background: tuple[float, float], thing: tuple[float, float]) -> np.ndarray:
    flow = np.full((30, 30, 2), background)
    flow[10:20, 10:20] = thing
    return flow


@pytest.mark.parametrize(
    ("background", "thing", "expected"),
    [
        ((0, 0), (0, 3), 9.0),  # at rest: squared speed
        ((0.5, 0), (0.5, 3), 9.0),  # against a slow pan
        ((4, 0.1), (-4, 0.1), (np.pi - np.arctan(0.025) - np.pi / 10) ** 2),  # direction
    ],
)
def test_saliency_is_the_departure_from_the_dominant_motion(
    background: tuple[float, float], thing: tuple[float, float], expected: float
) -> None:
    saliency = saliency_of(flow_of(background, thing))
    assert saliency[15, 15] == pytest.approx(expected)
    assert saliency[3, 3] < 0.1


def test_saliency_needs_a_dominant_motion() -> None:
    flow = np.concatenate([np.full((10, 30, 2), v) for v in ((3, 0.5), (-3, 0.5), (0.5, 3))])
    assert saliency_of(flow) is None


def test_votes_are_those_of_motion_or_else_of_appearance() -> None:
    inputs = disc_inputs()
    superpixels = Superpixels.of(inputs.images[:4], 150)
    inside = discs()[:4]
    moving = vote_map(inputs.images[:4], inputs.flow_network, superpixels)
    assert moving.max() == 1 and moving[inside].mean() > 5 * moving[~inside].mean()
    assert (moving[:, : int(SIZE[0] * 0.125)] == 0).all()

    class Turning:  # every quarter of the image moves its own way
        def flow(self, first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
            flow = np.zeros((len(first), *first[0].shape[:2], 2), np.float32)
            flow += np.where(np.indices(flow.shape[1:3]) % 40 < 20, 5, -5).transpose(1, 2, 0)
            return flow

    shown = vote_map(inputs.images[:4], Turning(), superpixels)
    assert shown.max() == 1 and shown[inside].mean() > 3 * shown[~inside].mean()


def test_appearance_is_judged_from_the_borders() -> None:
    images = [np.full((40, 50, 3), 40, np.uint8)]
    images[0][15:25, 20:30] = (200, 60, 60)
    superpixels = Superpixels.of(images, 60)
    saliency = superpixels.painted(appearance_saliency(images, superpixels))[0]
    assert saliency[20, 25] > 0.9 and saliency[3, 3] < 0.2
