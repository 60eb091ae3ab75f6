"""A store: replays in, versions out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.networks import SIDE, look_at_little, save_random_weights, tiny_mask_rcnn
from support.scenes import SquareNetworks, square_frames, square_selection

from gbopt_ros.config import ClipConfig, Config, LearningConfig, ProposalConfig
from gbopt_ros.learning import round as rounds
from gbopt_ros.learning.round import Learnt
from gbopt_ros.learning.store import teacher_gate
from gbopt_ros.learning.store.gate import GateDecision
from gbopt_ros.learning.store.model_store import ModelStore, ModelVersion
from gbopt_ros.learning.store.store import Store
from gbopt_ros.learning.training.trainer import TrainingLog
from gbopt_ros.masks import encode_all
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.weights import (
    PROPOSALS,
    WeightsInfo,
    read_weights,
    save_weights,
    sha256_of,
    write_calibration,
)
from gbopt_ros.perception.flow import DisFlow
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import Calibration, GboptError, Selection

pytestmark = pytest.mark.usefixtures("small_networks")


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


def test_store_add_of_a_damaged_image_adds_no_other_replay(replay: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(replay, tmp_path / "tuesday")
    for image in (damaged / "frames").iterdir():
        image.write_bytes(b"damaged")
    store = Store(tmp_path / "store")
    with pytest.raises(GboptError, match=r"tuesday/.* cannot be learnt from"):
        store.add(replay, damaged)
    with store.training_set() as training_set:
        assert len(training_set) == 0


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
    assert sorted(path.name for path in store.root.iterdir()) == ["lock", "training"]
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


def test_store_learn_refuses_a_version_of_another_store_that_was_changed(
    replay: Path, tmp_path: Path
) -> None:
    path = save_random_weights(tmp_path)[PROPOSALS]
    version = ModelStore(tmp_path / "other").publish(*load_mask_rcnn(path), {})
    version.path.write_bytes(path.read_bytes())
    store = Store(tmp_path / "store")
    store.add(replay)
    config = Config(proposal=ProposalConfig(weights=str(version.path)), device="cpu")
    with pytest.raises(GboptError, match=f"{version.path}: SHA-256 is .* its manifest says"):
        store.learn(config)


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


class Teacher(SquareNetworks):
    """A network that cannot be trained."""

    version = "yolo"


def square_store(folder: Path, clips: int) -> Store:
    """Clips of two frames, whose masks the teacher proposed."""
    store, teacher = Store(folder), Teacher()
    frames = square_frames(2 * clips)
    config = Config(clip=ClipConfig(length=2))
    pipeline = Pipeline(
        config, proposal_network=teacher, background_network=teacher, flow_network=DisFlow()
    )
    assert store.add_selections(pipeline.run(frames), "table") == 2 * clips
    return store


@pytest.fixture
def small_student(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network that learns sees images as they are, which takes less time."""

    def load(*arguments: Any) -> Any:
        network, info = load_mask_rcnn(*arguments)
        return look_at_little(network), info

    monkeypatch.setattr(rounds, "load_mask_rcnn", load)
    monkeypatch.setattr(teacher_gate, "load_background_network", lambda config: Teacher())


def student(folder: Path, **learning: Any) -> Config:
    weights = str(save_random_weights(folder)[PROPOSALS])
    settings = {"iterations": 1, "batch_size": 1, "min_confidence": 0.0} | learning
    return Config(
        learning=LearningConfig(student=weights, **settings),
        proposal=ProposalConfig(weights=weights),
        device="cpu",
    )


@pytest.mark.usefixtures("small_student")
def test_store_learn_keeps_a_student_that_is_not_as_good_as_its_teacher(tmp_path: Path) -> None:
    """The next round goes on from it, but it does not serve."""
    store, config = square_store(tmp_path / "store", clips=8), student(tmp_path, student_clips=4)
    learnt = store.learn(config, teacher=Teacher())
    version, comparison = learnt.version, learnt.comparison
    assert learnt.decision.agreement == 1.0  # the masks are the teacher's proposals
    assert version is not None and comparison is not None
    assert version.manifest["teachers"] == ["yolo"]
    assert version.manifest["parent"] == "random"
    assert version.manifest["origin"] == sha256_of(tmp_path / "proposals.safetensors")
    assert version.manifest["frames"] == 8  # of 16: four of eight clips were held out
    assert version.manifest["teacher_gate"] == comparison.to_dict()
    assert (comparison.passed, comparison.clips, comparison.held_out) == (False, 4, True)
    assert store.models.current() == version
    assert store.models.serving() is None


@pytest.mark.usefixtures("small_student")
def test_store_learn_serves_a_student_that_is_as_good_as_its_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "MaskRcnnProposals", lambda *_: Teacher())
    store, config = square_store(tmp_path / "store", clips=4), student(tmp_path, student_clips=4)
    learnt = store.learn(config, teacher=Teacher())
    assert learnt.comparison is not None and learnt.comparison.passed
    assert not learnt.comparison.held_out  # no clip would have remained
    assert learnt.version is not None and learnt.version.manifest["frames"] == 8
    assert store.models.serving() == learnt.version


@pytest.mark.usefixtures("small_student")
def test_store_learn_without_a_comparison(tmp_path: Path) -> None:
    store, config = square_store(tmp_path / "store", clips=1), student(tmp_path, student_clips=0)
    learnt = store.learn(config, teacher=Teacher())
    assert learnt.version is not None and learnt.comparison is None
    assert "teacher_gate" not in learnt.version.manifest
    assert store.models.serving() == learnt.version


@pytest.mark.usefixtures("small_student")
def test_store_learn_says_who_proposed_masks_that_the_parent_does_not(tmp_path: Path) -> None:
    store = square_store(tmp_path / "store", clips=1)
    learnt = store.learn(student(tmp_path, gate_agreement=1.0))
    assert learnt.version is None
    expected = "; or yolo proposed masks: then name that network, as --weights"
    assert learnt.decision.reason.endswith(expected)


def test_store_remembers_who_proposed_the_masks(tmp_path: Path) -> None:
    with square_store(tmp_path / "store", clips=1).training_set() as training_set:
        assert training_set.labelled_images().teachers() == ["yolo"]
