"""Heads for two classes made of heads for classes: exact where it can be, close where not."""

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
from gbopt_ros.io.datasets.coco import load_coco_dir
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.learning import round as rounds
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.learning.training.class_agnostic_conversion import (
    _logistic,
    _Normal,
    to_class_agnostic,
)
from gbopt_ros.masks import encode, iou_matrix
from gbopt_ros.models.class_agnostic import ClassAgnosticHeads, class_count
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.models.weights import PROPOSALS, WeightsInfo
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import Proposals

CLASSES = 6


def with_classes(seed: int = 0, subsample: float = 0.2) -> MaskRCNN:
    """A random network with five classes of objects."""
    network = tiny_mask_rcnn(seed)
    heads = network.roi_heads
    heads.box_predictor = FastRCNNPredictor(heads.box_predictor.cls_score.in_features, CLASSES)
    channels = heads.mask_predictor.mask_fcn_logits.in_channels
    heads.mask_predictor.mask_fcn_logits = nn.Conv2d(channels, CLASSES, 1)
    nn.init.normal_(heads.box_predictor.cls_score.weight, std=subsample)
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


def test_the_state_dict_is_that_of_an_ordinary_network() -> None:
    network = with_classes()
    before = copy.deepcopy(network.state_dict())
    made = to_class_agnostic(network, pictures(1), CPU)
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


def test_a_network_of_two_classes_stays_as_it_is() -> None:
    network = tiny_mask_rcnn()
    made = to_class_agnostic(network, [], CPU)
    assert made is not network
    for name, value in network.state_dict().items():
        assert torch.equal(made.state_dict()[name], value), name


def test_rows_without_images_are_means() -> None:
    network = with_classes()
    made, heads = to_class_agnostic(network, [], CPU).roi_heads, network.roi_heads
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


@pytest.mark.parametrize("images", [0, 2])
def test_equal_classes_give_equal_proposals(images: int) -> None:
    """Where all classes have the same rows the log-odds are linear: nothing is lost.

    The best class has a fifth of the probability of an object, which the two-class head has whole.
    """
    network = with_classes()
    predictor = network.roi_heads.box_predictor
    masks = network.roi_heads.mask_predictor.mask_fcn_logits
    with torch.no_grad():
        for layer, rows in ((predictor.cls_score, 1), (predictor.bbox_pred, 4), (masks, 1)):
            for parameter in (layer.weight, layer.bias):
                by_class = parameter.view(CLASSES, rows, -1)
                by_class[1:] = by_class[1:2].clone()
    made = to_class_agnostic(network, pictures(images), CPU)
    for image in pictures(2):
        found, expected = propose(made, image), propose(network, image)
        assert len(found) == len(expected) > 3
        odds = 5 * expected.scores / (1 - 5 * expected.scores)
        np.testing.assert_allclose(found.scores, odds / (1 + odds), atol=2e-3)
        assert iou_matrix(found.rles, expected.rles).max(axis=1).min() > 0.9


def agreement(network: MaskRCNN, made: MaskRCNN, images: list[np.ndarray]) -> tuple[float, float]:
    """Of the best proposals the mean IoU with the best partner, of all regions rank correlation."""
    overlaps, ranks = [], []
    for image in images:
        found, expected = propose(made, image), propose(network, image)
        overlaps.append(iou_matrix(expected.rles, found.rles).max(axis=1, initial=0).mean())
        ranks.append(np.corrcoef(*(rank(objectness(n, image)) for n in (network, made)))[0, 1])
    return float(np.mean(overlaps)), float(np.mean(ranks))


def objectness(network: MaskRCNN, image: np.ndarray) -> np.ndarray:
    """(R,): probability of each region to be no background."""
    seen = []
    hook = network.roi_heads.box_predictor.register_forward_hook(
        lambda module, inputs, outputs: seen.append(outputs[0].softmax(-1)[:, 0])
    )
    with torch.no_grad():
        network([torch.from_numpy(image).permute(2, 0, 1).float() / 255])
    hook.remove()
    return 1 - seen[0].numpy()


def rank(values: np.ndarray) -> np.ndarray:
    return values.argsort().argsort()


def test_fitted_heads_agree_better_than_means() -> None:
    """On images that they were not fitted on."""
    network, images = with_classes(), pictures(9)
    by_mean = agreement(network, to_class_agnostic(network, [], CPU), images[7:])
    fitted = agreement(network, to_class_agnostic(network, images[:7], CPU), images[7:])
    assert fitted[0] > by_mean[0] + 0.1
    assert fitted[1] > by_mean[1]
    assert fitted[1] > 0.95


# --------------------------------------------------------------------------------------- solvers


def test_weighted_regression_of_a_known_line() -> None:
    """y = 2 x + 1; a row of weight 0 that says otherwise counts nothing."""
    normal = _Normal(torch.zeros(1, 2, dtype=torch.float64))
    normal.add(torch.tensor([[0.0], [1]]), torch.tensor([[1.0], [3]]), torch.ones(2))
    normal.add(torch.tensor([[5.0]]), torch.tensor([[-9.0]]), torch.zeros(1))
    torch.testing.assert_close(
        normal.solve(), torch.tensor([[2.0, 1.0]], dtype=torch.float64), atol=0.01, rtol=0
    )


def test_regression_without_data_is_its_prior() -> None:
    prior = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(_Normal(prior).solve(), prior)


def test_logistic_regression_of_known_odds() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, 3, generator=generator)
    row = torch.tensor([2.0, -1.0, 0.5, -1.0], dtype=torch.float64)
    odds = features.double() @ row[:3] + row[3]
    found = _logistic(features, odds, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(found, row, atol=0.02, rtol=0)


# -------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("fewest", [2, 3])
def test_learning_from_a_network_with_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fewest: int
) -> None:
    """An ordinary version with two classes comes out; the gate measures the parent as it served.

    The training set has two images, which may be enough to fit the heads on, or not.
    """
    monkeypatch.setattr(rounds, "FEWEST_INITIAL_IMAGES", fewest)
    fitted_on = []

    def remember(network: MaskRCNN, images: list[np.ndarray], device: torch.device) -> MaskRCNN:
        fitted_on.append(len(images))
        return to_class_agnostic(network, images, device)

    monkeypatch.setattr(rounds, "to_class_agnostic", remember)
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

    monkeypatch.setattr(rounds, "evaluate_network", evaluate)
    config = Config(
        learning=LearningConfig(iterations=1, batch_size=2, gate_agreement=0.0), device="cpu"
    )
    with TrainingSet(tmp_path / "training", 10**9) as collected:
        collected.add(selected)
        learnt = rounds.learn(
            collected,
            ModelStore(tmp_path),
            config,
            validation=load_coco_dir(find_resource("demo/validation")),
            on_step=lambda step, loss: None,
        )
    assert fitted_on == [2 if fewest == 2 else 0]
    assert measured == [2, CLASSES]  # the new version, and its parent as it was
    assert learnt.version is not None
    assert learnt.version.manifest["parent"] == "coco-0a1b2c3d"
    network, info = load_mask_rcnn(learnt.version.path)
    assert info == WeightsInfo(PROPOSALS, "slim18-fpn", "v0001")
    assert class_count(network) == 2
