"""Proposals of a random Mask R-CNN: order, number, sizes and what a batch may change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.networks import CPU, SIDE, tiny_mask_rcnn
from torch import nn

from gbopt_ros.config import ProposalConfig
from gbopt_ros.masks import boxes_xyxy, decode_all, iou_matrix
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.models.weights import PROPOSALS, WeightsInfo, save_weights
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import Proposals


def image(height: int = SIDE, width: int = SIDE, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: bright rectangles on a dark ground."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    for _ in range(4):
        top, left = rng.integers(0, height), rng.integers(0, width)
        picture[top : top + height // 3 + 1, left : left + width // 3 + 1] = rng.integers(100, 256)
    return picture


def make(seed: int = 0, **config: float) -> MaskRcnnProposals:
    settings = {"max_proposals": 6} | config
    return MaskRcnnProposals(tiny_mask_rcnn(seed), "v1", ProposalConfig(**settings), CPU)


def assert_equal(a: Proposals, b: Proposals) -> None:
    assert a.rles == b.rles
    np.testing.assert_array_equal(a.scores, b.scores)
    np.testing.assert_array_equal(a.boxes, b.boxes)


@pytest.mark.parametrize("n", [1, 6, 15])
def test_propose_gives_the_n_best_in_order(n: int) -> None:
    (all_of_them,) = make(max_proposals=1000).propose([image()])
    (found,) = make(max_proposals=n).propose([image()])
    assert len(found) == n < len(all_of_them)
    assert np.all(np.diff(found.scores) <= 0)
    np.testing.assert_allclose(found.scores, all_of_them.scores[:n], atol=1e-6)
    assert found.scores.dtype == found.boxes.dtype == np.float32
    assert np.all((found.scores > 0) & (found.scores <= 1))


def test_propose_keeps_masks_and_boxes_within_the_image() -> None:
    (found,) = make(max_proposals=15).propose([image(48, 80)])
    assert found.size == (48, 80)
    masks = decode_all(found.rles, found.size)
    assert masks.shape == (15, 48, 80)
    assert masks.any(axis=(1, 2)).all()
    assert found.boxes.min() >= 0
    assert np.all(found.boxes <= [80, 48, 80, 48])
    tight = boxes_xyxy(found.rles)
    assert np.all(tight[:, :2] >= found.boxes[:, :2] - 2)  # a mask stays in its predicted box
    assert np.all(tight[:, 2:] <= found.boxes[:, 2:] + 2)


def test_propose_with_threshold_zero_keeps_the_faintest() -> None:
    def faint(threshold: float) -> MaskRcnnProposals:
        network = tiny_mask_rcnn()
        nn.init.zeros_(network.roi_heads.box_predictor.cls_score.weight)
        with torch.no_grad():
            network.roi_heads.box_predictor.cls_score.bias.copy_(torch.tensor([5.0, -5.0]))
        config = ProposalConfig(max_proposals=6, score_threshold=threshold)
        return MaskRcnnProposals(network, "", config, CPU)

    (found,) = faint(0.0).propose([image()])
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp(10)), rtol=1e-4)
    assert len(found) == 6
    (nothing,) = faint(0.01).propose([image()])
    assert len(nothing) == 0
    assert nothing.boxes.shape == (0, 4)
    assert nothing.size == (SIDE, SIDE)


@pytest.mark.parametrize(("bias", "share"), [(-50.0, 0.0), (50.0, 1.0)])
def test_propose_with_masks_of_a_known_value(bias: float, share: float) -> None:
    """A mask that is nowhere above the threshold is no candidate; else it fills its box."""
    network = tiny_mask_rcnn()
    nn.init.zeros_(network.roi_heads.mask_predictor.mask_fcn_logits.weight)
    nn.init.constant_(network.roi_heads.mask_predictor.mask_fcn_logits.bias, bias)
    (found,) = MaskRcnnProposals(network, "", ProposalConfig(), CPU).propose([image()])
    if share == 0:
        assert len(found) == 0
        return
    assert len(found) == ProposalConfig().max_proposals
    boxes = boxes_xyxy(found.rles)
    masks = decode_all(found.rles, found.size)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        assert mask[top:bottom, left:right].mean() > 0.95  # its corners are rounded
    assert np.abs(boxes - found.boxes).max() < 2


def test_propose_removes_what_overlaps_by_nms() -> None:
    (found,) = make(nms_iou=0.1, max_proposals=30).propose([image()])
    left, top = found.boxes[:, None, :2], found.boxes[None, :, :2]
    inner = np.minimum(found.boxes[:, None, 2:], found.boxes[None, :, 2:]) - np.maximum(left, top)
    shared = np.prod(np.clip(inner, 0, None), axis=2)
    area = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
    iou = shared / (area[:, None] + area - shared)
    assert len(found) > 1
    assert np.triu(iou, 1).max() <= 0.1 + 1e-5


def test_propose_on_images_of_different_sizes() -> None:
    images = [image(64, 64), image(40, 90, 1), image(90, 40, 2)]
    found = make().propose(images)
    assert [p.size for p in found] == [(64, 64), (40, 90), (90, 40)]
    assert [decode_all(p.rles, p.size).shape[1:] for p in found] == [p.size for p in found]


def test_propose_does_not_depend_on_earlier_images() -> None:
    """Of 40 rows a pyramid has 2 at stride 32: nearer to a sixteenth than to a thirty-second."""
    proposer = make()
    proposer.propose([image(40, 2 * SIDE)])
    assert_equal(proposer.propose([image()])[0], make().propose([image()])[0])


def test_propose_on_no_images() -> None:
    assert make().propose([]) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (64, 4)])
def test_propose_on_tiny_images(size: tuple[int, int]) -> None:
    (found,) = make().propose([image(*size)])
    assert found.size == size
    masks = decode_all(found.rles, size)
    assert masks.any(axis=(1, 2)).all()


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_propose_on_views_and_read_only_images() -> None:
    picture = image()
    mirrored = picture[:, ::-1]
    picture.setflags(write=False)
    network = make()
    (plain,) = network.propose([picture.copy()])
    (frozen,) = network.propose([picture])
    (view,) = network.propose([mirrored])
    (copy,) = network.propose([mirrored.copy()])
    assert_equal(plain, frozen)
    assert_equal(view, copy)


def test_propose_is_deterministic() -> None:
    images = [image(seed=seed) for seed in range(2)]
    for a, b in zip(make().propose(images), make().propose(images), strict=True):
        assert_equal(a, b)


def test_propose_in_a_batch_changes_only_rounding() -> None:
    """Images of one size; convolutions of a batch may sum in another order.

    Scores agree to 1e-4 and masks to an IoU of 0.98, best partner of each.
    """
    images = [image(seed=seed) for seed in range(3)]
    together, apart = make(batch_size=3).propose(images), make(batch_size=1).propose(images)
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
        assert iou_matrix(a.rles, b.rles).max(axis=1).min() > 0.98


def test_mask_rcnn_proposals_from_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "proposals.safetensors"
    save_weights(path, build_mask_rcnn("slim18-fpn"), WeightsInfo(PROPOSALS, "slim18-fpn", "v0042"))
    network = MaskRcnnProposals.from_file(path, ProposalConfig(max_proposals=3), CPU)
    assert network.version == "v0042"
    (found,) = network.propose([image()])
    assert len(found) == 3


@pytest.mark.parametrize(
    ("architecture", "setting", "size", "expected"),
    [
        ("slim18-fpn", 0, (120, 160), (240, 320)),
        ("slim18-fpn", 96, (120, 160), (96, 128)),
        ("slim18-fpn", 96, (60, 240), (40, 160)),  # the longer side is 5/3 of it at most
        ("lite0-fpn", 0, (120, 160), (240, 320)),
        ("lite0-fpn", 0, (260, 340), (260, 340)),  # keeps its size
        ("lite0-fpn", 0, (480, 640), (320, 427)),
        ("lite0-fpn", 480, (480, 640), (480, 640)),
    ],
)
def test_proposals_scale_the_shorter_side_of_an_image(
    architecture: str, setting: int, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    network = build_mask_rcnn(architecture)
    MaskRcnnProposals(network, "", ProposalConfig(short_side=setting), CPU)
    scaled, _ = network.transform([torch.zeros(3, *size)])
    (found,) = scaled.image_sizes
    assert abs(found[0] - expected[0]) <= 1 and abs(found[1] - expected[1]) <= 1
