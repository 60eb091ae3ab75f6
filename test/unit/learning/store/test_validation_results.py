"""Results on a validation set: measured once, and anew where anything else is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import cv2
import pytest
import torch
from support.networks import random_images, tiny_mask_rcnn

from gbopt_ros.config import Config, ProposalConfig
from gbopt_ros.io.datasets.coco import CocoDataset, CocoImage
from gbopt_ros.learning.store import validation_results
from gbopt_ros.learning.store.validation_results import ValidationResults
from gbopt_ros.models.detection import DetectionNetwork
from gbopt_ros.perception.proposals import MaskRcnnProposals

CONFIG = Config(device="cpu")


@pytest.fixture(scope="module")
def network() -> DetectionNetwork:
    return tiny_mask_rcnn()


@pytest.fixture
def labels(network: DetectionNetwork, tmp_path: Path) -> CocoDataset:
    """Two images whose objects are the first three proposals of the network."""
    images, rles = [], {}
    proposer = MaskRcnnProposals(network, "", CONFIG.proposal, torch.device("cpu"))
    for number, image in enumerate(random_images(2), start=1):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image[..., ::-1])
        images.append(CocoImage(number, f"{number}.png", *image.shape[:2]))
        rles[number] = proposer.propose([image])[0].rles[:3]
    return CocoDataset(tuple(images), rles, tmp_path)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Counts how often a network looks at the images."""
    spy = Mock(wraps=validation_results.evaluate_network)
    monkeypatch.setattr(validation_results, "evaluate_network", spy)
    return spy


def test_second_round_reads_what_the_first_measured(
    network: DetectionNetwork, labels: CocoDataset, measured: Mock, tmp_path: Path
) -> None:
    kept = tmp_path / "store" / "validation"
    first = ValidationResults(kept, labels, CONFIG).evaluate(network, False)
    second = ValidationResults(kept, labels, CONFIG).evaluate(tiny_mask_rcnn(), False)
    assert measured.call_count == 1
    assert second == first
    assert first[0].AP > 0


def test_damaged_file_is_measured_and_written_anew(
    network: DetectionNetwork, labels: CocoDataset, measured: Mock, tmp_path: Path
) -> None:
    results = ValidationResults(tmp_path / "kept", labels, CONFIG)
    first = results.evaluate(network, False)
    (path,) = (tmp_path / "kept").iterdir()
    path.write_text(path.read_text()[:100])
    assert results.evaluate(network, False) == first
    assert results.evaluate(network, False) == first
    assert measured.call_count == 2


def test_anything_else_is_measured(
    network: DetectionNetwork, labels: CocoDataset, measured: Mock, tmp_path: Path
) -> None:
    def evaluate(labels: CocoDataset, config: Config, network: DetectionNetwork) -> None:
        ValidationResults(tmp_path / "kept", labels, config).evaluate(network, False)

    fewer = replace(labels, rles_by_image=labels.rles_by_image | {1: ()})
    larger = replace(CONFIG, proposal=ProposalConfig(short_side=96))
    evaluate(labels, CONFIG, network)
    evaluate(fewer, CONFIG, network)
    evaluate(labels, larger, network)
    evaluate(labels, CONFIG, tiny_mask_rcnn(seed=1))
    cv2.imwrite(str(tmp_path / "1.png"), random_images(3)[2])
    evaluate(labels, CONFIG, network)
    assert measured.call_count == 5


def test_what_was_not_asked_for_is_removed(
    network: DetectionNetwork, labels: CocoDataset, measured: Mock, tmp_path: Path
) -> None:
    other = tiny_mask_rcnn(seed=1)
    before = ValidationResults(tmp_path / "kept", labels, CONFIG)
    before.evaluate(network, False)
    before.evaluate(other, False)
    now = ValidationResults(tmp_path / "kept", labels, CONFIG)
    now.evaluate(other, False)
    now.remove_others()
    assert len(list((tmp_path / "kept").iterdir())) == 1
    now.evaluate(other, False)
    assert measured.call_count == 2


def test_results_that_cannot_be_kept_are_given(
    network: DetectionNetwork,
    labels: CocoDataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "kept").write_text("a file")
    metrics, _ = ValidationResults(tmp_path / "kept", labels, CONFIG).evaluate(network, False)
    assert metrics.AP > 0
    assert "results on the validation set are not kept" in caplog.text
