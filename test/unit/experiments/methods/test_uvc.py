"""UVC: masks of the first frame, carried by correspondence of features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from support.fakes import make_proposals
from support.moving_squares import GREEN, RED, SIZE, inputs_of, picture, place

from experiments.methods import uvc
from experiments.methods.uvc import Uvc
from gbopt_ros.masks import decode_all, encode_all

REDS = [place(4, 4 + 3 * t) for t in range(4)]
GREENS = [place(30, 40 - 3 * t) for t in range(4)]
IMAGES = [picture({RED: r, GREEN: g}) for r, g in zip(REDS, GREENS, strict=True)]
NONE = make_proposals(np.zeros((0, *SIZE), bool))


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def test_zero_shot_carries_the_sure_proposals_of_the_first_frame() -> None:
    masks = np.array([REDS[0], GREENS[0], place(20, 4)])
    found = [make_proposals(masks, (0.9, 0.2, 0.1)), *[NONE] * 3]
    carried = Uvc().masks(inputs_of(IMAGES, found))
    for t in range(4):
        assert carried[t].scores == pytest.approx([0.9, 0.2])
        red, green = decode_all(carried[t].rles, SIZE)
        assert iou(red, REDS[t]) > 0.8 and iou(green, GREENS[t]) > 0.8, t
        assert not (red & green).any()


def test_one_shot_carries_the_ground_truth() -> None:
    truth = encode_all(np.array([GREENS[0]]))
    carried = Uvc(one_shot=True).masks(inputs_of(IMAGES, [NONE] * 4, truth=truth))
    assert carried[0].rles == truth
    for t in range(4):
        (green,) = decode_all(carried[t].rles, SIZE)
        assert carried[t].scores.tolist() == [1.0]
        assert iou(green, GREENS[t]) > 0.8, t


def test_without_a_first_mask_there_is_none() -> None:
    found = [NONE, make_proposals(REDS[1][None]), NONE, NONE]
    assert [len(p) for p in Uvc().masks(inputs_of(IMAGES, found))] == [0, 0, 0, 0]


def test_the_label_names_mode_and_features() -> None:
    assert Uvc().label == "ZS-UVC (features: the network's finest pyramid level)"
    assert Uvc(one_shot=True, name="colours").label == "OS-UVC (features: colours)"


def test_carry_weighs_the_five_nearest_by_softmax() -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    source = torch.stack([angles.cos(), angles.sin()])[:, None]  # (2, 1, 6)
    labels = torch.eye(6)[:, None]  # (6, 1, 6): each position has its own label
    carried = uvc.carry(source, labels, source[:, :, :1])[:, 0, 0]
    weights = np.exp(np.cos([0.0, 0.1, 0.2, 0.3, 0.4]) / 0.07)
    np.testing.assert_allclose(carried[:5], weights / weights.sum(), rtol=1e-4)
    assert carried[5] == 0


def test_to_cells_are_shares_and_to_masks_their_inverse() -> None:
    mask = np.zeros((4, 8), bool)
    mask[:, 1:4] = True
    cells = uvc.to_cells(mask[None], torch.zeros(3, 2, 4))
    assert cells[1].tolist() == [[0.5, 1.0, 0.0, 0.0]] * 2
    assert cells[0].tolist() == [[0.5, 0.0, 1.0, 1.0]] * 2
    whole = torch.zeros(2, 2, 4)
    whole[1, :, :2] = 0.2  # scaled to [0, 1]: a label that got weak is still the highest
    whole[0, :, 2:] = 0.9
    assert uvc.to_masks(whole, (2, 4)).tolist() == [[[True, True, False, False]] * 2]
