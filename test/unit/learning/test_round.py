"""Training rounds on masks on which a person has spoken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.networks import save_random_weights

from gbopt_ros.config import Config, LearningConfig, ProposalConfig
from gbopt_ros.io.datasets.coco import CocoDataset, CocoImage
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.learning import round as learning_round
from gbopt_ros.learning.data.verdicts import Verdict
from gbopt_ros.learning.round import Learnt, config_of_round
from gbopt_ros.learning.store.store import Store
from gbopt_ros.masks import encode
from gbopt_ros.models.weights import PROPOSALS

pytestmark = pytest.mark.usefixtures("small_networks")
SIDE = 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two clips of two frames, each with a mask of two corners that no network proposes."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:12, :12] = mask[-12:, -12:] = True
    frames = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        cv2.imwrite(str(path), pixels)
        frames.append(
            SelectedFrame("hall", number // 2, number, number, path, (SIDE, SIDE),
                          (encode(mask),), (0.9,), (0.1,))
        )  # fmt: skip
    made = Store(tmp_path / "store")
    with made.training_set() as training_set:
        training_set.add(frames)
    return made


def learn(store: Store, folder: Path, **learning: Any) -> Learnt:
    weights = save_random_weights(folder)
    config = Config(
        proposal=ProposalConfig(weights=str(weights[PROPOSALS])),
        learning=LearningConfig(iterations=2, batch_size=3, warmup=0, **learning),
        device="cpu",
    )
    return store.learn(config, on_step=lambda step, loss: None)


def test_config_of_round_has_a_seed_of_its_own() -> None:
    config = Config(learning=LearningConfig(seed=3, iterations=7))
    rounds = [config_of_round(config, number).learning for number in range(3)]
    assert [learning.seed for learning in rounds] == [3, 1003, 2003]
    assert {learning.iterations for learning in rounds} == {7}


def test_learn_warns_of_validation_images_that_are_rehearsed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [CocoImage(number, f"{number}.png", SIDE, SIDE) for number in range(3)]
    everything = CocoDataset(tuple(images), {}, tmp_path / "x" / ".." / "images")
    learning_round._warn_of_shared_images(
        CocoDataset(tuple(images[:2]), {}, tmp_path / "images"), everything
    )
    assert "2 of 3 validation images are rehearsed, too" in caplog.text
    caplog.clear()
    elsewhere = CocoDataset(tuple(images), {}, tmp_path / "others")
    learning_round._warn_of_shared_images(elsewhere, everything)
    learning_round._warn_of_shared_images(None, everything)
    assert not caplog.text


def say(store: Store, index: int, verdict: Verdict) -> None:
    with store.training_set() as training_set:
        (frame,) = (f for f in training_set.frames() if f.frame_index == index)
    store.judge(frame.path.name, frame.masks[0].rle["counts"], verdict)


def test_verified_masks_pass_the_gate_and_rejected_ones_are_not_learnt(
    store: Store, tmp_path: Path
) -> None:
    refused = learn(store, tmp_path)
    assert refused.version is None and refused.decision.agreement == 0
    for index in (0, 2):
        say(store, index, Verdict.VERIFIED)
    for index in (1, 3):
        say(store, index, Verdict.REJECTED)
    learnt = learn(store, tmp_path)
    assert learnt.version is not None
    manifest = learnt.version.manifest
    assert (manifest["frames"], manifest["instances"]) == (4, 2)
    clip = {"frames": 2, "masks": 1, "verified": 1}
    assert manifest["data"] == [
        {"recording": "hall", "clips": [{"clip": 0} | clip, {"clip": 1} | clip]}
    ]
    assert manifest["origin_licence"] == "that of the seed network: ask its publisher"
    assert "| hall | 1 | 2 | 1 | 1 |" in learnt.version.path.with_name("card.md").read_text()


def test_rounds_keep_the_first_version_and_as_many_of_the_newest_as_set(
    store: Store, tmp_path: Path
) -> None:
    for index in range(4):
        say(store, index, Verdict.VERIFIED)
    published = [learn(store, tmp_path, keep_versions=2).version for _ in range(4)]
    assert [each and each.version for each in published] == ["v0001", "v0002", "v0003", "v0004"]
    assert [each.version for each in store.models.versions()] == ["v0001", "v0003", "v0004"]
