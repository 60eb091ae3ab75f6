"""Pretraining: batches, ignore regions, the schedule, backbones, checkpoints, the command."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support.networks import CPU, write_bomb
from support.pretraining import SIZES, SMALL, make_coco
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.rpn import RegionProposalNetwork

from gbopt_ros.cli.main import main
from gbopt_ros.cli.pretrain import NETWORKS, _join_processes
from gbopt_ros.config import AugmentConfig, PretrainConfig, load_config
from gbopt_ros.config.load import bundled_profile
from gbopt_ros.config.pretrain import milestone_steps
from gbopt_ros.io.datasets.coco import load_coco_dir, write_coco
from gbopt_ros.learning.data.datasets import InstanceDataset
from gbopt_ros.learning.data.loader import Batch, Batches
from gbopt_ros.learning.training import pretraining as pretrain
from gbopt_ros.learning.training.checkpoint import Checkpoint
from gbopt_ros.learning.training.ignore_regions import with_ignore_regions
from gbopt_ros.learning.training.pretrained_backbone import (
    freeze_beginning,
    freeze_statistics,
    start_from,
)
from gbopt_ros.learning.training.pretraining import (
    collate_semantic,
    pretrain_background,
    pretrain_proposals,
)
from gbopt_ros.learning.training.trainer import TrainingLog, rate_at
from gbopt_ros.masks import encode_all
from gbopt_ros.models.background_fpn import build_background
from gbopt_ros.models.catalogue import IMAGENET_MEAN
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.models.weights import WeightsInfo, read_weights, save_weights
from gbopt_ros.structures import GboptError, LabelledImage

pytestmark = pytest.mark.usefixtures("small_networks")
PLAIN = AugmentConfig(
    scale_min=1.0, scale_max=1.0, copy_paste=0.0, flip=0.0, colour=0.0, blur=0.0, noise=0.0
)


class Numbered:
    """Image i is all of the value i, of size i modulo 3, with one instance of 10 x 10 pixels."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> LabelledImage:
        if index >= self.count:
            raise GboptError(f"{index}.jpg: missing")
        size = SIZES[index % 3]
        mask = np.zeros((1, *size), bool)
        mask[0, 5:15, 10:20] = True
        return LabelledImage(np.full((*size, 3), index, np.uint8), encode_all(mask))


def config(**changes: object) -> PretrainConfig:
    values = {
        "iterations": 3, "background_iterations": 3, "batch_size": 2, "warmup": 1, "augment": PLAIN,
        "proposal_architecture": "slim18-fpn", "background_architecture": "slim18-semantic-fpn",
    }  # fmt: skip
    return PretrainConfig(**(values | changes))


# ------------------------------------------------------------------------------ background batches


SLIM = build_background("slim18-semantic-fpn")  # enlarges small images


def sample(height: int, width: int, value: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Foreground is the left half; the top row is not known."""
    foreground, known = torch.zeros(height, width), torch.ones(height, width)
    foreground[:, : width // 2] = 1
    known[0] = 0
    return torch.full((3, height, width), value), {"foreground": foreground, "known": known}


def test_collate_semantic_pads_images_by_hand() -> None:
    images, targets, known = collate_semantic(
        [sample(8, 12, 0.5), sample(10, 8, 0.25)], [8, 8], SLIM
    )
    assert images.shape == (2, 3, 10, 12)
    assert torch.all(images[0, :, :8] == 0.5)
    assert torch.all(images[1, :, :, :8] == 0.25)
    mean = torch.tensor(IMAGENET_MEAN)
    assert torch.equal(images[0, :, 8:], mean[:, None, None].expand(3, 2, 12))
    assert torch.equal(images[1, :, :, 8:], mean[:, None, None].expand(3, 10, 4))
    expected = torch.zeros(2, 10, 12)
    expected[0, :8, :6] = expected[1, :, :4] = 1
    assert torch.equal(targets, expected)
    expected = torch.zeros(2, 10, 12)
    expected[0, 1:8], expected[1, 1:, :8] = 1, 1
    assert torch.equal(known, expected)


def test_collate_semantic_keeps_sizes_for_a_network_that_does() -> None:
    network = build_background("lite0-semantic-fpn")
    samples = [sample(300, 340, 0.5), sample(250, 250, 0.5)]
    images, _, _ = collate_semantic(samples, [320, 320], network)
    assert images.shape[2:] == (300, 340)
    assert torch.equal(images[1], torch.full((3, 300, 340), 0.5))  # padded with its mean, grey
    images, _, _ = collate_semantic(samples, [192, 192], network)
    assert images.shape[2:] == (192, 218)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [((48, 64), 24, (24, 32)), ((64, 48), 24, (32, 24)), ((20, 200), 24, (4, 40)),
     ((12, 20), 24, (24, 40))],
)  # fmt: skip
def test_collate_semantic_scales_images_by_hand(
    size: tuple[int, int], short_side: int, expected: tuple[int, int]
) -> None:
    images, targets, known = collate_semantic([sample(*size, 0.5)], [short_side], SLIM)
    assert images.shape[2:] == targets.shape[1:] == known.shape[1:] == expected
    assert targets[0, :, : expected[1] // 2].all() and not targets[0, :, expected[1] // 2 :].any()


BOXES = torch.tensor(
    [
        [0, 0, 20, 20],  # the object itself
        [2, 2, 22, 22],  # one that matches it, inside of the crowd
        [60, 10, 70, 20],  # deep in the crowd
        [95, 0, 105, 10],  # half in the crowd: not more
        [120, 0, 140, 20],  # outside
        [0, 0, 100, 50],  # the crowd's own box
    ]
).float()


def test_ignore_regions_leave_boxes_in_a_crowd_unknown() -> None:
    network = build_mask_rcnn("slim18-fpn")
    with_ignore_regions(network)
    boxes, labels = BOXES[[0, 5]], torch.tensor([1, -1])
    _, assigned = network.roi_heads.assign_targets_to_proposals([BOXES], [boxes], [labels])
    assert assigned[0].tolist() == [1, 1, -1, 0, 0, -1]
    target = {"boxes": boxes, "labels": labels}
    anchors, matched = network.rpn.assign_targets_to_anchors([BOXES], [target])
    # 1: its IoU with the object, 0.68, is between torchvision's thresholds for anchors.
    assert anchors[0].tolist() == [1, -1, -1, 0, 0, -1]
    assert matched[0][0].tolist() == [0, 0, 20, 20]


def test_ignore_regions_of_an_image_with_a_crowd_only() -> None:
    network = build_mask_rcnn("slim18-fpn")
    with_ignore_regions(network)
    target = {"boxes": BOXES[5:], "labels": torch.tensor([-1])}
    anchors, _ = network.rpn.assign_targets_to_anchors([BOXES], [target])
    assert anchors[0].tolist() == [-1, -1, -1, 0, 0, -1]
    _, assigned = network.roi_heads.assign_targets_to_proposals(
        [BOXES], [target["boxes"]], [target["labels"]]
    )
    assert assigned[0].tolist() == [-1, -1, -1, 0, 0, -1]


def test_a_batch_of_unknown_regions_alone_teaches_the_heads_nothing() -> None:
    """A crop that shows nothing but a crowd: the mean loss of no region is not a number."""
    torch.manual_seed(0)
    network = with_ignore_regions(build_mask_rcnn("slim18-fpn")).train()
    target = {
        "boxes": torch.tensor([[0.0, 0, 64, 64]]),
        "labels": torch.tensor([-1]),
        "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
    }
    losses = network([torch.rand(3, 64, 64)], [target])
    assert losses["loss_classifier"] == losses["loss_box_reg"] == losses["loss_mask"] == 0
    assert losses["loss_objectness"] > 0  # large anchors lie outside of the image
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    copy.deepcopy(network)  # as a next round does
    unknown, regions = torch.full((3,), -1.0), torch.zeros(3, 4, requires_grad=True)
    objectness = torch.zeros(3, 1, requires_grad=True)
    nothing = network.rpn.compute_loss(objectness, regions, [unknown], [torch.zeros(3, 4)])
    sum(nothing).backward()
    assert nothing == (0, 0)
    assert not objectness.grad.any() and not regions.grad.any()


def sure_of(network: MaskRCNN, probabilities: list[float]) -> None:
    """Make the box head give these object probabilities, whatever it sees."""
    odds = torch.tensor([[0.0, math.log(p / (1 - p))] for p in probabilities])
    deltas = torch.zeros(len(probabilities), 8)
    network.roi_heads.box_predictor.forward = lambda _: (
        odds.clone().requires_grad_(),
        deltas.clone().requires_grad_(),
    )


@pytest.mark.parametrize("complete", [True, False])
def test_partial_labels_leave_out_regions_that_the_head_is_sure_of(complete: bool) -> None:
    """An object and two regions without a label, of which the network is sure of the first."""
    network = with_ignore_regions(build_mask_rcnn("slim18-fpn")).train()
    heads = network.roi_heads
    heads.mask_roi_pool = None  # no mask loss
    regions = [torch.tensor([[0.0, 0, 20, 20], [30, 0, 50, 20], [30, 30, 50, 50]])]
    sure_of(network, [0.9, 0.8, 0.6, 0.5])  # the labelled box is added to the regions
    target = {
        "boxes": torch.tensor([[0.0, 0, 20, 20]]),
        "labels": torch.tensor([1]),
        "complete": torch.tensor(complete),
    }
    features = {str(i): torch.zeros(1, 128, 16 >> i, 16 >> i) for i in range(4)}
    _, losses = heads(features, regions, [(64, 64)], [target])
    objects = [-math.log(0.9), -math.log(0.5)]
    background = [-math.log(1 - 0.6)] + [-math.log(1 - 0.8)] * complete
    expected = sum(objects + background) / len(objects + background)
    assert losses["loss_classifier"].item() == pytest.approx(expected, rel=1e-5)
    assert not heads.box_predictor._forward_hooks


@pytest.mark.parametrize(("complete", "expected"), [(True, [1, 0, 0]), (False, [1, -1, 0])])
def test_partial_labels_leave_out_anchors_that_the_network_is_sure_of(
    monkeypatch: pytest.MonkeyPatch, complete: bool, expected: list[int]
) -> None:
    rpn = with_ignore_regions(build_mask_rcnn("slim18-fpn")).rpn
    anchors = [torch.tensor([[0.0, 0, 20, 20], [30, 0, 50, 20], [30, 30, 50, 50]])]
    target = {
        "boxes": anchors[0][:1],
        "labels": torch.tensor([1]),
        "complete": torch.tensor(complete),
    }
    labels, _ = rpn.assign_targets_to_anchors(anchors, [target])
    seen: list[list[float]] = []
    monkeypatch.setattr(
        RegionProposalNetwork,
        "compute_loss",
        lambda self, objectness, deltas, labels, targets: seen.append(labels[0].tolist()),
    )
    rpn.compute_loss(torch.tensor([[3.0], [3.0], [0.8]]), None, labels, None)  # 0.8: 69 %
    assert seen == [expected]


def test_rejected_regions_are_background_however_sure_the_network_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One object, one region that a person rejected, and one without a label; all are sure."""
    network = with_ignore_regions(build_mask_rcnn("slim18-fpn")).train()
    boxes = torch.tensor([[0.0, 0, 20, 20], [30, 0, 50, 20], [30, 30, 50, 50]])
    target = {
        "boxes": boxes[:2], "labels": torch.tensor([1, 0]), "complete": torch.tensor(False)
    }  # fmt: skip
    seen: list[list[float]] = []
    monkeypatch.setattr(
        RegionProposalNetwork,
        "compute_loss",
        lambda self, objectness, deltas, labels, targets: seen.append(labels[0].tolist()),
    )
    labels, _ = network.rpn.assign_targets_to_anchors([boxes], [target])
    network.rpn.compute_loss(torch.full((3, 1), 3.0), None, labels, None)
    assert seen == [[1, 0, -1]]
    heads = network.roi_heads
    heads.mask_roi_pool = None  # no mask loss
    sure_of(network, [0.9, 0.8, 0.75, 0.9, 0.8])  # the labelled boxes are added
    features = {str(i): torch.zeros(1, 128, 16 >> i, 16 >> i) for i in range(4)}
    _, losses = heads(features, [boxes], [(64, 64)], [target])
    objects, background = [-math.log(0.9)] * 2, [-math.log(1 - 0.8)] * 2
    expected = sum(objects + background) / 4
    assert losses["loss_classifier"].item() == pytest.approx(expected, rel=1e-5)


def test_pretrain_takes_a_share_of_partial_images(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[list[int]] = []

    class Stopped(BaseException):
        """The command reports all others."""

    def stop(datasets: list[tuple[object, int]], *_: object, **__: object) -> None:
        shares.append([count for _, count in datasets])
        raise Stopped

    monkeypatch.setattr(pretrain, "Batches", stop)
    for share, partial in ((0.25, Numbered(3)), (0.5, Numbered(3)), (0.5, None)):
        with pytest.raises(Stopped):
            pretrain_background(
                Numbered(3), config(batch_size=4, partial_share=share), CPU, partial=partial
            )
    assert shares == [[3, 1], [2, 2], [4]]


def test_pretraining_passes_images_one_by_one_if_statistics_are_frozen() -> None:
    batch = Batch(0, [sample(8, 12, 0.5), sample(10, 8, 0.25)])
    network = build_mask_rcnn("slim18-fpn").train()
    assert [len(samples) for samples in pretrain._split(batch, network, CPU)] == [2]
    freeze_beginning(network)
    freeze_statistics(network)
    assert [len(samples) for samples in pretrain._split(batch, network, CPU)] == [1, 1]


# --------------------------------------------------------------------------------------- schedule


def test_rate_at_is_the_papers_schedule() -> None:
    paper = load_config(bundled_profile("paper")).pretrain
    milestones = milestone_steps(paper.lr_milestones)

    def rate(step: int) -> float:
        return paper.learning_rate * rate_at(
            step, paper.iterations, paper.warmup, milestones, paper.warmup_start
        )

    # maskrcnn-benchmark: 500 steps from a third.
    assert [rate(s) for s in (0, 250, 500, 59_999)] == pytest.approx(
        [0.02 / 3, 0.04 / 3, 0.02, 0.02], rel=1e-3
    )
    assert [rate(s) for s in (60_000, 79_999, 80_000, 89_999)] == pytest.approx(
        [2e-3, 2e-3, 2e-4, 2e-4]
    )
    assert (paper.iterations, paper.batch_size, paper.optimizer) == (90_000, 16, "sgd")
    assert (paper.momentum, paper.weight_decay) == (0.9, 1e-4)
    assert (paper.bias_rate, paper.max_gradient_norm) == (2.0, 0.0)
    assert pretrain._sizes(800, paper.min_scale) == [800]
    assert pretrain._sizes(800, paper.background_min_scale)[0] == 640
    assert milestone_steps(paper.background_lr_milestones) == (240_000, 255_000)


@pytest.mark.parametrize("steps", ["5,5", "0", "8,3", "a", "3,", "1.5", "-1"])
def test_lr_milestones_must_increase(steps: str) -> None:
    with pytest.raises(ValueError, match=r"PretrainConfig\.lr_milestones: expected increasing"):
        PretrainConfig(lr_milestones=steps)


def test_pretrain_proposals_trains_on_several_image_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretrain._sizes(800, 0.8) == [640, 672, 704, 736, 768, 800]
    assert pretrain._sizes(240, 1.0) == [240]
    heads = build_mask_rcnn("resnet50-fpn").roi_heads
    assert heads.fg_bg_sampler.batch_size_per_image == 512
    assert heads.fg_bg_sampler.positive_fraction == 0.25
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        pretrain,
        "_train",
        lambda network, *_, **__: (network, seen.append(network.transform.min_size)),
    )
    network, _ = pretrain_proposals(
        Numbered(3), config(min_scale=0.5, proposal_architecture="lite0-fpn"), CPU
    )
    assert seen == [(160, 192, 224, 256, 288, 320)]
    assert network.transform.min_size == (320,)


def test_pretraining_refuses_a_batch_that_processes_cannot_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pretrain, "processes_and_rank", lambda: (2, 0))
    with pytest.raises(GboptError, match="batch_size 3 cannot be shared by 2"):
        pretrain_background(Numbered(3), config(batch_size=3), CPU)


# --------------------------------------------------------------------------------------- backbone


def test_start_from_imagenet_weights_freezes_a_part(tmp_path: Path) -> None:
    donor = build_mask_rcnn("slim18-fpn").backbone.body
    for value in donor.buffers():
        value.add_(1)
    tensors = {n: v for n, v in donor.state_dict().items() if "num_batches" not in n}
    torch.save(tensors | {"fc.weight": torch.zeros(10, 4)}, tmp_path / "resnet.pth")
    network = build_mask_rcnn("slim18-fpn")
    start_from(network.backbone.body, tmp_path / "resnet.pth")
    for name, value in tensors.items():
        assert torch.equal(network.backbone.body.state_dict()[name], value), name
    learns = {n for n, p in network.backbone.body.named_parameters() if p.requires_grad}
    assert "layer2.0.conv1.weight" in learns
    assert not any(n.startswith(("conv1", "layer1")) or ".bn" in n for n in learns)
    network.train()
    freeze_statistics(network)
    assert not any(m.training for m in network.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [({"conv1.weight": torch.zeros(1)}, "not the weights of this backbone"),
     ([torch.zeros(1)], "expected a state dict"), (None, "no such backbone weights file")],
)  # fmt: skip
def test_start_from_refuses_bad_weights(tmp_path: Path, tensors: object, message: str) -> None:
    path = tmp_path / "resnet.pth"
    if tensors is not None:
        torch.save(tensors, path)
    with pytest.raises(GboptError, match=message):
        start_from(build_mask_rcnn("slim18-fpn").backbone.body, path)


def test_start_from_and_checkpoint_run_no_pickle(tmp_path: Path) -> None:
    for name in ("a.pth", "a.checkpoint"):
        write_bomb(tmp_path / name, tmp_path / "boom", as_checkpoint=True)
    with pytest.raises(GboptError, match="tensors only"):
        start_from(nn.Conv2d(1, 1, 1), tmp_path / "a.pth")
    with pytest.raises(GboptError, match="not a readable checkpoint"):
        Checkpoint(tmp_path / "a.checkpoint", {}, 1)
    assert not (tmp_path / "boom").exists()


# ----------------------------------------------------------------------------------- resumed runs


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


class Stop(Exception):
    """Ends a training in the middle, as a lost process would."""


@pytest.mark.parametrize(("network", "optimizer"), [("proposals", "sgd"), ("background", "adamw")])
def test_pretraining_resumed_equals_uninterrupted_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, optimizer: str
) -> None:
    settings = config(
        optimizer=optimizer, ema_decay=0.5, checkpoint_every=2, augment=AugmentConfig(),
        min_scale=0.8, lr_milestones="2", background_lr_milestones="2",
    )  # fmt: skip
    path = tmp_path / "a.checkpoint"

    def trained(checkpoint: Path | None) -> tuple[nn.Module, dict[str, list[float]]]:
        torch.manual_seed(os.getpid())  # what was drawn before does not matter
        if network == "proposals":
            made, log = pretrain_proposals(Numbered(5), settings, CPU, checkpoint)
        else:
            made, log = pretrain_background(Numbered(5), settings, CPU, checkpoint=checkpoint)
        return made, log.losses

    whole, losses = trained(None)
    original = Batches.__getitem__

    def lost(self: Batches, step: int) -> object:
        if step == 2:
            raise Stop
        return original(self, step)

    monkeypatch.setattr(Batches, "__getitem__", lost)
    with pytest.raises(Stop):
        trained(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.checkpoint"]
    met: list[int] = []
    monkeypatch.setattr(Batches, "__getitem__", lambda s, i: met.append(i) or original(s, i))
    resumed, resumed_losses = trained(path)
    assert met == [2]
    assert resumed_losses == losses
    for name, value in state(whole).items():
        assert torch.equal(value, state(resumed)[name]), name
    met.clear()
    again, _ = trained(path)  # of a training that is over, nothing is trained again
    assert met == []
    assert all(torch.equal(value, state(again)[name]) for name, value in state(whole).items())


def test_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.checkpoint"
    settings = config(background_iterations=1)
    pretrain_background(Numbered(3), settings, CPU, checkpoint=path)
    pretrain_background(
        Numbered(3), replace(settings, num_workers=1, checkpoint_every=7), CPU, checkpoint=path
    )
    with pytest.raises(GboptError, match=r"learning_rate was 0\.0006, now 0\.1"):
        pretrain_background(Numbered(3), replace(settings, learning_rate=0.1), CPU, None, path)
    with pytest.raises(GboptError, match=r"augment\.flip was 0\.0, now 1\.0"):
        flipping = replace(settings, augment=replace(PLAIN, flip=1.0))
        pretrain_background(Numbered(3), flipping, CPU, None, path)
    with pytest.raises(GboptError, match="images was 3, now 4"):
        pretrain_background(Numbered(4), settings, CPU, None, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(GboptError, match=r"not a readable checkpoint.*remove it"):
        pretrain_background(Numbered(3), settings, CPU, None, path)
    torch.save({"step": 1}, path)
    with pytest.raises(GboptError, match="not a checkpoint"):
        pretrain_background(Numbered(3), settings, CPU, None, path)


# ------------------------------------------------------------------------- trained further


def test_background_is_trained_further_and_its_frozen_parts_stay(tmp_path: Path) -> None:
    before = build_background("slim18-semantic-fpn")
    path = tmp_path / "background.safetensors"
    save_weights(path, before, WeightsInfo("background", "slim18-semantic-fpn", "seed-1"))
    settings = config(background_weights=str(path), background_frozen="layer2,layer4")
    trained, _ = pretrain_background(Numbered(3), settings, CPU)
    stayed = {
        name
        for name, value in trained.named_parameters()
        if torch.equal(value, before.get_parameter(name))
    }
    body = "backbone.body."
    frozen = tuple(f"{body}{part}." for part in ("conv1", "bn1", "layer1", "layer2", "layer4"))
    assert (
        stayed
        == {
            name
            for name in state(before)
            if name.startswith(frozen) or is_normalization(before, name)
        }
        & dict(before.named_parameters()).keys()
    )
    assert any(name.startswith(f"{body}layer3.") for name in state(before).keys() - stayed)
    quarter, _ = pretrain_background(
        Numbered(3), replace(settings, background_interpolation=0.25), CPU
    )
    old, new, mixed = state(before), state(trained), state(quarter)
    name = f"{body}layer3.0.conv1.weight"
    torch.testing.assert_close(mixed[name], 0.25 * old[name] + 0.75 * new[name])


def is_normalization(network: nn.Module, name: str) -> bool:
    return isinstance(network.get_submodule(name.rpartition(".")[0]), nn.BatchNorm2d)


def test_background_of_another_kind_or_without_the_part_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "background.safetensors"
    info = WeightsInfo("background", "resnet18-semantic-fpn", "seed-1")
    save_weights(path, build_background(info.architecture), info)
    with pytest.raises(GboptError, match=r"a resnet18-semantic-fpn; set pretrain\.background_arch"):
        pretrain_background(Numbered(3), config(background_weights=str(path)), CPU)
    with pytest.raises(ValueError, match="set background_weights, too"):
        config(background_interpolation=0.5)
    with pytest.raises(ValueError, match="it replaces background_backbone"):
        config(background_weights=str(path), background_backbone=str(path))
    with pytest.raises(GboptError, match=r"no part 'stage6', but conv1, bn1, .*layer4"):
        pretrain_background(Numbered(3), config(background_frozen="layer1,stage6"), CPU)


# --------------------------------------------------------------------------------------- commands


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return make_coco(tmp_path / "coco")


def test_pretrain_command_on_coco(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    few = ["--set", "pretrain.iterations=2", "--set", "pretrain.background_iterations=2"]
    assert main(["pretrain", "--coco", str(coco), "--out", str(out), *SMALL, *few]) == 0
    assert {p.name for p in out.iterdir()} == {
        f"{name}.{kind}" for name in ("proposals", "background") for kind in ("safetensors", "json")
    }
    curves = json.loads((out / "proposals.json").read_text())
    assert curves["config"]["optimizer"] == "sgd"  # the paper's setting, with no --config
    assert len(curves["losses"]["total"]) == 2
    versions = {read_weights(out / f"{name}.safetensors", name)[0].version for name in NETWORKS}
    assert len(versions) == 2
    assert all(re.fullmatch("seed-[0-9a-f]{8}", version) for version in versions)
    capsys.readouterr()
    assert main(["pretrain", "--coco", str(tmp_path), "--out", str(out), *SMALL]) == 1
    shown = capsys.readouterr().err
    assert "neither annotations.json nor annotations/instances_train2017.json" in shown
    assert main(["pretrain", "--out", str(out)]) == 1
    assert "nothing to learn from: name COCO folders" in capsys.readouterr().err


def test_pretrain_command_mixes_coco_with_the_masks_of_a_replay(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(BaseException):
        """The command reports all others."""

    def stop(dataset: InstanceDataset, *_: object) -> None:
        raise Stopped(len(dataset), dataset[len(dataset) - 1].rles)

    monkeypatch.setattr(pretrain, "pretrain_proposals", stop)
    labelled = load_coco_dir(coco)
    replay = tmp_path / "replay"
    shutil.copytree(labelled.image_dir, replay / "frames")
    last = labelled.images[-1]
    write_coco(replay / "selected.json", [last], {last.id: labelled.rles_by_image[last.id][:1]})
    with pytest.raises(Stopped) as stopped:
        main(["pretrain", "--coco", str(coco), str(replay), "--out", str(tmp_path / "out"), *SMALL])
    count, rles = stopped.value.args
    assert count == sum(bool(rles) for rles in labelled.rles_by_image.values()) + 1
    assert rles == labelled.rles_by_image[last.id][:1]


def test_pretrain_command_takes_photographs_for_the_background_alone(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, InstanceDataset | None] = {}

    class Stopped(BaseException):
        """The command reports all others."""

    def proposals(*arguments: Any) -> tuple[nn.Module, TrainingLog]:
        given["proposals"] = arguments[-1]
        return build_mask_rcnn("slim18-fpn"), TrainingLog({"total": [0.0]})

    def background(*arguments: Any) -> None:
        given["background"] = arguments[-1]
        raise Stopped

    monkeypatch.setattr(pretrain, "pretrain_proposals", proposals)
    monkeypatch.setattr(pretrain, "pretrain_background", background)
    teacher = tmp_path / "teacher.safetensors"
    info = WeightsInfo("background", "slim18-semantic-fpn", "seed-1")
    save_weights(teacher, build_background(info.architecture), info)
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    cv2.imwrite(str(photographs / "p.jpg"), np.full((40, 50, 3), 90, np.uint8))
    out = ["--out", str(tmp_path / "out")]
    command = ["pretrain", "--coco", str(coco), *out, *SMALL, "--photographs", str(photographs)]
    with pytest.raises(Stopped):
        main([*command, "--partial", str(coco), "--teacher", str(teacher)])
    assert given["proposals"] is not None and given["background"] is not None
    assert (len(given["proposals"]), len(given["background"])) == (3, 4)
    assert [given["background"][i].foreground is not None for i in (0, 3)] == [True, True]
    assert given["background"][3].image.shape == (40, 50, 3)
    assert given["proposals"][0].foreground is None
    for wrong in ([], ["--teacher", str(teacher), "--only", "proposals"]):
        assert main([*command, *wrong]) == 1
        assert "--photographs have no label" in capsys.readouterr().err
    (photographs / "p.jpg").unlink()
    assert main([*command, "--teacher", str(teacher)]) == 1
    assert "photographs: no image is in this folder" in capsys.readouterr().err


def test_pretrain_command_refuses_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(GboptError, match=r"more processes than the 1 GPUs.*--nproc-per-node"):
        _join_processes("cuda")
