"""A store: replays in, versions out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.networks import SIDE, save_random_weights, tiny_mask_rcnn
from support.scenes import square_selection

from gbopt_ros.config import Config, LearningConfig, ProposalConfig
from gbopt_ros.learning.round import Learnt
from gbopt_ros.learning.store.gate import GateDecision
from gbopt_ros.learning.store.model_store import ModelVersion
from gbopt_ros.learning.store.store import Store
from gbopt_ros.learning.training.trainer import TrainingLog
from gbopt_ros.masks import encode_all
from gbopt_ros.models.weights import (
    PROPOSALS,
    WeightsInfo,
    read_weights,
    save_weights,
    sha256_of,
    write_calibration,
)
from gbopt_ros.structures import Calibration, GboptError, Selection


@pytest.fixture
def replay(tmp_path: Path) -> Path:
    """The output of a replay with two frames, the second without a mask."""
    folder = tmp_path / "monday"
    (folder / "frames").mkdir(parents=True)
    mask = np.zeros((1, SIDE, SIDE), bool)
    mask[:, 10:40, 20:50] = True
    image = {"height": SIDE, "width": SIDE, "clip_id": 0}
    content: dict[str, object] = {
        "info": {"recording": "cups.mp4"},
        "images": [],
        "annotations": [],
    }
    for i in (0, 1):
        picture = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        cv2.imwrite(str(folder / "frames" / f"{i}.png"), picture)
        names = {"id": i, "file_name": f"{i}.png", "frame_index": i, "stamp_ns": i}
        content["images"] += [image | names]
    (rle,) = encode_all(mask)
    annotation = {"id": 0, "image_id": 0, "segmentation": rle, "score": 0.8, "confidence": 0.9}
    content["annotations"] += [annotation]
    (folder / "selected.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_store_add_and_forget(replay: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.add(replay, str(replay)) == [1, 1]
    with store.training_set() as training_set:
        assert len(training_set) == training_set.instance_count == 1
    with pytest.raises(GboptError, match=r"no recording 'tuesday'; there are: monday/cups\.mp4"):
        store.forget("tuesday")
    assert store.forget("monday/cups.mp4") == [1]
    assert store.add(config=LearningConfig(policy="oldest")) == []


def test_store_add_of_a_missing_folder_changes_nothing(replay: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "x")
    for folders in (["nix"], [replay, "nix"]):
        with pytest.raises(GboptError, match=r"nix/selected\.json: not found; expected the output"):
            store.add(*folders)
        with pytest.raises(GboptError, match="x: no store, nothing to forget"):
            store.forget("monday/cups.mp4")
        assert not store.root.exists()


def test_store_add_selections_takes_what_the_pipeline_yields(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "store")
    selection = square_selection(3)
    assert store.add_selections(iter([selection]), "table") == 3
    assert store.add_selections([selection], "table") == 3  # replaces
    with store.training_set() as training_set:
        found = training_set.labelled_images()
        for entry, selected in zip(found.entries, selection.frames, strict=True):
            assert entry.rles == selected.rles
            assert entry.confidences == tuple(map(float, selected.confidences))
            assert (entry.recording, entry.clip_id) == ("table", selection.clip_id)
    assert [path.name for path in store.root.iterdir()] == ["training"]
    assert store.forget("table") == [3]


def test_store_add_selections_leaves_nothing_after_a_failure(tmp_path: Path) -> None:
    def breaks_off() -> Iterator[Selection]:
        yield square_selection(1)
        raise GboptError("the camera was unplugged")

    store = Store(tmp_path / "new" / "store")
    with pytest.raises(GboptError, match="the camera was unplugged"):
        store.add_selections(breaks_off(), "table")
    assert list(tmp_path.iterdir()) == []


def calibrated_copy(weights: Path, out: Path) -> Path:
    write_calibration(weights, Calibration(bias=-1.0, margin=0.5, score=1.0), out)
    return out


def test_store_learn_takes_a_calibrated_copy_of_the_first_network(
    replay: Path, tmp_path: Path
) -> None:
    weights = save_random_weights(tmp_path)[PROPOSALS]
    learning = LearningConfig(iterations=1, batch_size=1, gate_agreement=0.0)
    store = Store(tmp_path / "store")
    store.add(replay)

    def version_after(path: Path) -> ModelVersion:
        proposal = ProposalConfig(weights=str(path))
        version = store.learn(Config(learning=learning, proposal=proposal, device="cpu")).version
        assert version is not None
        return version

    first = version_after(weights)
    second = version_after(calibrated_copy(weights, tmp_path / "calibrated.safetensors"))
    third = version_after(calibrated_copy(first.path, tmp_path / "of-first.safetensors"))
    for version in (first, second, third):
        assert version.manifest["origin"] == sha256_of(weights)
        assert version.manifest["origin_tensors"] == first.manifest["origin_tensors"]
    other = tmp_path / "other.safetensors"
    save_weights(other, tiny_mask_rcnn(seed=1), WeightsInfo(PROPOSALS, "slim18-fpn", "other"))
    with pytest.raises(GboptError, match="learnt from another network; give each network a store"):
        version_after(other)


def test_learnt_repr_is_short(tmp_path: Path) -> None:
    version = ModelVersion("v0001", tmp_path, {"learning": "long"})
    learnt = Learnt(GateDecision(True, "good"), TrainingLog({"total": [1.0] * 90}), version)
    expected = f"version=ModelVersion(version='v0001', path={tmp_path!r}))"
    assert repr(learnt) == f"Learnt(decision={learnt.decision!r}, {expected}"


def test_store_learn_publishes_a_version(replay: Path, tmp_path: Path) -> None:
    weights = save_random_weights(tmp_path)[PROPOSALS]
    learning = LearningConfig(iterations=1, batch_size=1, gate_agreement=0.0)
    config = Config(learning=learning, proposal=ProposalConfig(weights=str(weights)), device="cpu")
    store = Store(tmp_path / "store")
    with pytest.raises(GboptError, match="the training set is empty"):
        store.learn(config)
    store.add(replay, config=learning)
    left = tmp_path / "store" / "training" / "images" / "evicted.png"
    left.write_bytes(b"")
    steps: list[int] = []
    learnt = store.learn(config, on_step=lambda step, _: steps.append(step))
    assert learnt.version == store.models.current()
    assert learnt.version is not None
    assert read_weights(learnt.version.path, PROPOSALS)[0].version == "v0001"
    assert learnt.version.manifest["instances"] == 1
    assert steps == sorted(steps) and set(steps) == {0, 1}
    assert not left.exists()
