"""The network's pyramid and its heads on given boxes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from support.moving_squares import GREEN, RED, SIZE, SquaresNetwork, picture, place

from experiments.methods.features import masks_in, pyramid_of, regress
from gbopt_ros.structures import GboptError

RED_AT, GREEN_AT = place(4, 8), place(30, 40)
IMAGE = picture({RED: RED_AT, GREEN: GREEN_AT})
NETWORK = SquaresNetwork()


def test_finest_is_without_the_padding() -> None:
    pyramid = pyramid_of(NETWORK, IMAGE)
    assert pyramid.inputs.tensors.shape[-2:] == (64, 64)  # the image has 48 rows
    assert tuple(pyramid.finest.shape) == (3, SIZE[0] // 2, SIZE[1] // 2)
    block = IMAGE[4:6, 8:10].mean(axis=(0, 1)) / 255
    np.testing.assert_allclose(pyramid.finest[:, 2, 4].numpy(), block, atol=1e-5)


def test_means_are_of_the_mask_alone_and_of_length_one_a_level() -> None:
    means = pyramid_of(NETWORK, IMAGE).means([RED_AT, GREEN_AT])
    colour = IMAGE[RED_AT].mean(axis=0)
    expected = np.tile(colour / np.linalg.norm(colour), 2)
    np.testing.assert_allclose(means[0], expected, atol=1e-4)
    assert means[0] @ means[1] < 1.5  # of 2: they look different
    assert pyramid_of(NETWORK, IMAGE).means(np.zeros((0, *SIZE), bool)).shape == (0, 6)


def test_regress_moves_a_box_onto_the_object_and_scores_it() -> None:
    boxes = np.array([[4, 2, 18, 18], [48, 4, 60, 16]], np.float32)
    moved, scores = regress(NETWORK, pyramid_of(NETWORK, IMAGE), boxes)
    np.testing.assert_allclose(moved[0], [8, 4, 20, 16], atol=1e-3)
    assert scores == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(5))], abs=1e-4)


def test_masks_in_segments_boxes() -> None:
    pyramid = pyramid_of(NETWORK, IMAGE)
    boxes = np.array([[6, 2, 22, 18], [40, 30, 52, 42]], np.float32)
    masks = masks_in(NETWORK, pyramid, boxes)
    for mask, truth in zip(masks, (RED_AT, GREEN_AT), strict=True):
        assert (mask & truth).sum() / (mask | truth).sum() > 0.75  # pasting widens by half a pixel
    assert masks_in(NETWORK, pyramid, boxes[:0]).shape == (0, *SIZE)


def test_other_backends_are_one_clear_error() -> None:
    class Other:
        roi_heads = object()

    with pytest.raises(GboptError, match=r"torchvision's Mask R-CNN \(RoIHeads\), got object; set"):
        pyramid_of(Other(), IMAGE)
