"""Class-agnostic heads made of heads with classes."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.networks import CPU, SIDE, tiny_mask_rcnn
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

from gbopt_ros.config import Config, LearningConfig, ProposalConfig
from gbopt_ros.evaluation.coco_metrics import InstanceMetrics
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.learning import round as rounds
from gbopt_ros.learning.store import validation_results
from gbopt_ros.learning.store.store import Store
from gbopt_ros.learning.training.class_agnostic_conversion import (
    starting_network,
    to_class_agnostic,
)
from gbopt_ros.learning.training.fine_tuning import fine_tune
from gbopt_ros.masks import encode, iou_matrix
from gbopt_ros.models.class_agnostic import ClassAgnosticHeads, class_count
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.models.weights import PROPOSALS, WeightsInfo
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import LabelledImage, Proposals

CLASSES = 6


def with_classes(seed: int = 0) -> MaskRCNN:
    """A random network with five classes of objects."""
    network = tiny_mask_rcnn(seed)
    heads = network.roi_heads
    heads.box_predictor = FastRCNNPredictor(heads.box_predictor.cls_score.in_features, CLASSES)
    channels = heads.mask_predictor.mask_fcn_logits.in_channels
    heads.mask_predictor.mask_fcn_logits = nn.Conv2d(channels, CLASSES, 1)
    nn.init.normal_(heads.box_predictor.cls_score.weight, std=0.2)
    nn.init.normal_(heads.mask_predictor.mask_fcn_logits.weight, std=0.05)
    network.roi_heads = ClassAgnosticHeads(heads)
    return network.eval()


def pictures(count: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        image = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        for _ in range(4):
            top, left = rng.integers(0, SIDE, 2)
            image[top : top + 22, left : left + 22] = rng.integers(100, 256, 3)
        images.append(image)
    return images


def propose(network: MaskRCNN, image: np.ndarray, n: int = 12) -> Proposals:
    network = copy.deepcopy(network)
    (found,) = MaskRcnnProposals(network, "", ProposalConfig(max_proposals=n), CPU).propose([image])
    return found


def test_to_class_agnostic_gives_an_ordinary_state_dict() -> None:
    network = with_classes()
    before = copy.deepcopy(network.state_dict())
    made = to_class_agnostic(network)
    expected = build_mask_rcnn("slim18-fpn").state_dict()
    assert {k: v.shape for k, v in made.state_dict().items()} == {
        k: v.shape for k, v in expected.items()
    }
    assert class_count(made) == 2
    assert not made.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the given network changed"
        if "predictor" not in name:
            assert torch.equal(made.state_dict()[name], value), name


def test_starting_network_of_two_classes_is_the_parent() -> None:
    network = tiny_mask_rcnn()
    assert starting_network(network) is network
    assert class_count(starting_network(with_classes())) == 2


def test_fine_tune_makes_a_network_with_classes_class_agnostic() -> None:
    """Wherever it is called: with classes, all masks would be taught as the first class."""
    config = LearningConfig(iterations=1, batch_size=1, warmup=0, weight_interpolation=0.9)
    image = pictures(1)[0]
    dataset = [LabelledImage(image, (encode((image > 99).any(axis=2)),))]
    parent = with_classes()
    child, _ = fine_tune(parent, dataset, None, config, CPU)
    assert class_count(child) == 2 and class_count(parent) == CLASSES
    weight = child.roi_heads.box_predictor.cls_score.weight
    expected = to_class_agnostic(parent).roi_heads.box_predictor.cls_score.weight
    torch.testing.assert_close(weight, expected, atol=1e-3, rtol=0)


def test_to_class_agnostic_averages_the_class_rows() -> None:
    network = with_classes()
    made, heads = to_class_agnostic(network).roi_heads, network.roi_heads
    scores, boxes = heads.box_predictor.cls_score, heads.box_predictor.bbox_pred
    torch.testing.assert_close(made.box_predictor.cls_score.weight[0], scores.weight[0])
    torch.testing.assert_close(made.box_predictor.cls_score.weight[1], scores.weight[1:].mean(0))
    torch.testing.assert_close(
        made.box_predictor.cls_score.bias[1], scores.bias[1:].mean() + math.log(5)
    )
    torch.testing.assert_close(
        made.box_predictor.bbox_pred.weight[4:], boxes.weight.view(CLASSES, 4, -1)[1:].mean(0)
    )
    masks = heads.mask_predictor.mask_fcn_logits
    torch.testing.assert_close(
        made.mask_predictor.mask_fcn_logits.weight[1], masks.weight[1:].mean(0)
    )


def test_to_class_agnostic_of_equal_classes_gives_equal_proposals() -> None:
    """Where all classes have the same rows the log-odds are linear, and nothing is lost.

    The best class has a fifth of the probability of an object.
    """
    network = with_classes()
    predictor = network.roi_heads.box_predictor
    masks = network.roi_heads.mask_predictor.mask_fcn_logits
    with torch.no_grad():
        for layer, rows in ((predictor.cls_score, 1), (predictor.bbox_pred, 4), (masks, 1)):
            for parameter in (layer.weight, layer.bias):
                by_class = parameter.view(CLASSES, rows, -1)
                by_class[1:] = by_class[1:2].clone()
    made = to_class_agnostic(network)
    for image in pictures(2):
        found, expected = propose(made, image), propose(network, image)
        assert len(found) == len(expected) > 3
        odds = 5 * expected.scores / (1 - 5 * expected.scores)
        np.testing.assert_allclose(found.scores, odds / (1 + odds), atol=2e-3)
        assert iou_matrix(found.rles, expected.rles).max(axis=1).min() > 0.9


# -------------------------------------------------------------------------------------- learning


def test_learn_from_a_network_with_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It publishes a class-agnostic version; the gate evaluates the parent with its classes."""
    folder = tmp_path / "replay"
    (folder / "images").mkdir(parents=True)
    selected = []
    for number, image in enumerate(pictures(2)):
        path = folder / "images" / f"{number}.png"
        assert cv2.imwrite(str(path), image[..., ::-1])
        mask = np.zeros((SIDE, SIDE), bool)
        mask[10:40, 20:50] = True
        selected.append(
            SelectedFrame(
                recording="r", clip_id=0, frame_index=number, stamp_ns=number, image_path=path,
                size=(SIDE, SIDE), rles=(encode(mask),), scores=(0.9,), confidences=(0.9,),
            )
        )  # fmt: skip
    parent = with_classes()
    monkeypatch.setattr(
        rounds,
        "load_mask_rcnn",
        lambda path, detectron2_config: (
            parent,
            WeightsInfo(PROPOSALS, "slim18-fpn", "coco-0a1b2c3d"),
        ),
    )
    measured = []

    def evaluate(network: MaskRcnnProposals, *_: object, **__: object) -> object:
        measured.append(class_count(network._network))
        return InstanceMetrics(50, 0, 0, 0, 0, 0), []

    monkeypatch.setattr(validation_results, "evaluate_network", evaluate)
    config = Config(
        learning=LearningConfig(iterations=1, batch_size=2, gate_agreement=0.0), device="cpu"
    )
    store = Store(tmp_path)
    with store.training_set() as training_set:
        training_set.add(selected)
    learnt = store.learn(
        config, validation=find_resource("demo/validation"), on_step=lambda step, loss: None
    )
    assert measured == [2, CLASSES]  # the new version and its parent
    assert learnt.version is not None
    assert learnt.version.manifest["parent"] == "coco-0a1b2c3d"
    network, info = load_mask_rcnn(learnt.version.path)
    assert info == WeightsInfo(PROPOSALS, "slim18-fpn", "v0001")
    assert class_count(network) == 2
