"""Appearance descriptors of masks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from support.networks import CPU, SIDE, tiny_mask_rcnn

from gbopt_ros.config import ProposalConfig
from gbopt_ros.learning.confidence import appearance
from gbopt_ros.learning.confidence.appearance import COLOURS, LEVELS, AppearanceExtractor
from gbopt_ros.masks import encode_all, iou_matrix
from gbopt_ros.models.mask_rcnn import build_mask_rcnn

CONFIG = ProposalConfig(max_proposals=4)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def boxes(*corners: tuple[int, int, int, int]) -> tuple:
    """RLEs of rectangles, from row, column to row, column."""
    masks = np.zeros((len(corners), SIDE, SIDE), bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return encode_all(masks)


@pytest.mark.parametrize("scale", [1, 2])
def test_extract_averages_features_below_the_masks(scale: int) -> None:
    """At the size that the network sees, and the colours of the image."""
    network = tiny_mask_rcnn()
    network.transform.min_size, network.transform.max_size = (scale * SIDE,), 4 * SIDE
    image = picture(0)
    image[16:48, 32:64] = (255, 0, 0)
    rles = boxes((16, 32, 48, 64), (0, 0, 16, 16))
    found = AppearanceExtractor(network, CONFIG, CPU).extract("clip", image, rles)
    tensor = torch.from_numpy(image).permute(2, 0, 1) / 255
    with torch.inference_mode():
        pyramid = network.backbone(network.transform([tensor])[0].tensors)
    levels = np.split(found.masks.inside[:, :-COLOURS], LEVELS, axis=1)
    for (name, cell), means in zip((("1", 8), ("2", 16)), levels, strict=True):
        features = pyramid[name][0].numpy()
        top, left, bottom, right = (scale * pixels // cell for pixels in (16, 32, 48, 64))
        middle, corner = features[:, top:bottom, left:right], features[:, :top, :top]
        np.testing.assert_allclose(means[0], middle.mean((1, 2)), atol=1e-5)
        np.testing.assert_allclose(means[1], corner.mean((1, 2)), atol=1e-5)
    colours = found.masks.inside[:, -COLOURS:]
    assert np.count_nonzero(colours[0]) == 1 and colours[0].max() == 1.0
    np.testing.assert_allclose((colours**2).sum(axis=1), 1.0, rtol=1e-5)
    assert len(found.proposals) == len(found.agreement) <= 4
    assert found.proposals.inside.shape[1] == found.masks.inside.shape[1]


@pytest.mark.parametrize("stride", [8, 16])
def test_describe_takes_features_where_the_mask_is(stride: int) -> None:
    """Features that are the coordinates of their cells give the centre of a mask, in pixels."""
    rows, columns = np.indices((256 // stride, 320 // stride), np.float32)
    features = [np.stack([rows, columns]) * stride + stride / 2]
    image, masks = np.zeros((256, 320, 3), np.uint8), np.zeros((3, 256, 320), bool)
    masks[0, 48:80, 96:224] = masks[1, 32:64, 4:140] = masks[2, 100, 200] = True
    found = appearance._describe(image, features, encode_all(masks)).inside[:, :2]
    np.testing.assert_allclose(found[:2], [(64, 160), (48, 72)], atol=stride / 8)
    np.testing.assert_allclose(found[2], (100, 200), atol=stride / 2)


def test_describe_context_begins_beyond_the_outline() -> None:
    """A red square of 40 x 40 pixels in a green one, with black beyond."""
    image = np.zeros((200, 200, 3), np.uint8)
    image[60:140, 60:140] = (0, 255, 0)
    image[78:122, 78:122] = (255, 0, 0)  # the mask is 2 pixels smaller
    everything = np.zeros((2, 200, 200), bool)
    everything[0, 80:120, 80:120] = everything[1] = True
    features = [np.ones((1, 12, 12), np.float32)]
    found = appearance._describe(image, features, encode_all(everything))
    red, green = (
        cv2.calcHist(
            [cv2.cvtColor(np.uint8([[colour]]), cv2.COLOR_RGB2LAB)], [0, 1, 2], None,
            appearance._BINS, [0, 256] * 3,
        ).ravel()
        for colour in ((255, 0, 0), (0, 255, 0))
    )  # fmt: skip
    np.testing.assert_allclose(found.inside[0, 1:], red, atol=1e-6)
    np.testing.assert_allclose(found.context[0], green, atol=1e-6)  # 17 pixels, all of them green
    assert found.context[0] @ found.inside[0, 1:] == 0
    assert not found.context[1].any()
    corner = np.zeros((1, 200, 200), bool)
    corner[0, :40, :40] = True  # half of its context is beyond the image
    image[:] = (0, 255, 0)
    found = appearance._describe(image, features, encode_all(corner))
    np.testing.assert_allclose(found.context[0], green, atol=1e-6)


def test_extract_leaves_out_padding() -> None:
    network = tiny_mask_rcnn()
    image = picture(1)[:, :40]  # the network sees it 64 wide and 102 high, padded to 128
    whole = np.zeros((1, SIDE, SIDE), bool)[:, :, :40] | True
    found = AppearanceExtractor(network, CONFIG, CPU).extract(0, image, encode_all(whole))
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1) / 255
    network.transform.min_size, network.transform.max_size = (SIDE,), 2 * SIDE
    with torch.inference_mode():
        images, _ = network.transform([tensor])
        pyramid = network.backbone(images.tensors)
    assert images.image_sizes == [(102, 64)] and pyramid["2"].shape[2:] == (8, 4)
    fine, coarse = np.split(found.masks.inside[0, :-COLOURS], LEVELS)
    np.testing.assert_allclose(fine, pyramid["1"][0, :, :13].mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(coarse, pyramid["2"][0, :, :6].mean((1, 2)), atol=1e-5)


def test_extract_describes_images_that_the_network_does_not_enlarge() -> None:
    """`lite0-fpn` keeps a shorter side of 240 to 320 pixels; its input is padded to 256 x 320."""
    network = build_mask_rcnn("lite0-fpn").eval()
    image = np.random.default_rng(4).integers(0, 256, (240, 320, 3), np.uint8)
    lower = np.zeros((1, 240, 320), bool)
    lower[0, 192:, 160:] = True
    found = AppearanceExtractor(network, CONFIG, CPU).extract(0, image, encode_all(lower))
    with torch.inference_mode():
        images, _ = network.transform([torch.from_numpy(image).permute(2, 0, 1) / 255])
        pyramid = network.backbone(images.tensors)
    assert images.image_sizes == [(240, 320)] and pyramid["2"].shape[2:] == (16, 20)
    fine, coarse = np.split(found.masks.inside[0, :-COLOURS], LEVELS)
    np.testing.assert_allclose(fine, pyramid["1"][0, :, 24:30, 20:].mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(coarse, pyramid["2"][0, :, 12:15, 10:].mean((1, 2)), atol=1e-5)


def test_extract_agreement_is_the_iou_with_selected_masks() -> None:
    network = tiny_mask_rcnn()
    extractor = AppearanceExtractor(network, CONFIG, CPU)
    image = picture(2)
    (proposals,) = extractor._proposer.propose([image])
    chosen = proposals.rles[1:2]
    found = extractor.extract(0, image, chosen)
    np.testing.assert_allclose(found.agreement, iou_matrix(proposals.rles, chosen)[:, 0], rtol=1e-6)
    assert found.agreement[1] == 1.0
    np.testing.assert_array_equal(found.proposals.inside[1], found.masks.inside[0])
    assert extractor.extract(0, image, ()).masks.inside.shape == (0, found.masks.inside.shape[1])
    assert len(extractor.extract(0, image, chosen, with_proposals=False).proposals) == 0


def test_extract_leaves_no_hook_on_the_network() -> None:
    network = tiny_mask_rcnn()
    AppearanceExtractor(network, CONFIG, CPU).extract(0, picture(0), ())
    assert not network.backbone._forward_hooks and not network.transform._forward_hooks
