"""`gbopt replay`, `learn`, `models` as a user runs them, and what they say when they cannot."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from support.networks import save_random_weights
from support.recordings import disc_frames, disc_picture

from gbopt_ros.cli.main import main
from gbopt_ros.config import load_config
from gbopt_ros.evaluation.coco_metrics import InstanceMetrics
from gbopt_ros.io.datasets.coco import CocoImage, load_coco, load_coco_dir, write_coco
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.io.selection_format import read_selection
from gbopt_ros.io.sources import open_source
from gbopt_ros.learning import round as rounds
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.learning.store import gate_checks, validation_results
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.learning.store.store import Store
from gbopt_ros.learning.store.validation_results import ValidationResults
from gbopt_ros.masks import boxes_xyxy, decode, encode
from gbopt_ros.models.weights import BACKGROUND, PROPOSALS

FRAMES = 6


@pytest.fixture(scope="module")
def weights(small_networks: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "disc"
    write_rosbag(disc_frames(FRAMES), path, topic="/camera/image_raw")
    return path


def replay(source: Path, out: Path, weights: dict[str, Path], *extra: str) -> int:
    return main(
        [
            "replay",
            str(source),
            "--out",
            str(out),
            "--weights",
            str(weights[PROPOSALS]),
            "--set",
            f"background.weights={weights[BACKGROUND]}",
            "--set",
            "clip.length=4",
            "--set",
            "selection.k=4",
            *extra,
        ]
    )


@pytest.fixture(scope="module")
def replayed(bag: Path, weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("replays") / "disc"
    assert replay(bag, out, weights) == 0
    return out


def test_replay_writes_the_selection_format(replayed: Path, bag: Path) -> None:
    names = {path.name for path in replayed.iterdir()}
    assert names == {"selected.json", "frames", "overlay.mp4", "run.json"}
    content = json.loads((replayed / "selected.json").read_text())
    stamps = [frame.stamp_ns for frame in open_source(bag)]
    assert [image["stamp_ns"] for image in content["images"]] == stamps
    assert [image["frame_index"] for image in content["images"]] == list(range(FRAMES))
    assert [image["clip_id"] for image in content["images"]] == [0, 0, 0, 0, 1, 1]
    for image in content["images"]:
        assert (replayed / "frames" / image["file_name"]).is_file()
        assert set(image["energy"]) == {"background", "flow", "regularization"}
    run = json.loads((replayed / "run.json").read_text())
    assert run["counts"]["frames"] == FRAMES
    assert run["counts"]["masks"] == len(content["annotations"]) > 0
    assert run["config"]["selection"]["k"] == 4
    assert run["peak_memory_bytes"] > 0
    assert {"proposals", "background", "flow", "selection"} <= run["seconds"].keys()
    energies = [sum(sum(i["energy"].values()) for i in content["images"] if i["clip_id"] == c)
                for c in (0, 1)]  # fmt: skip
    np.testing.assert_allclose(energies, [clip["energy"] for clip in run["clips"]], atol=1e-9)


def test_replay_annotations_are_consistent(replayed: Path) -> None:
    content = json.loads((replayed / "selected.json").read_text())
    covered: dict[int, np.ndarray] = {}
    for annotation in content["annotations"]:
        rle = annotation["segmentation"]
        mask = decode(rle)
        assert annotation["area"] == mask.sum()
        x, y, w, h = annotation["bbox"]
        np.testing.assert_array_equal(boxes_xyxy([rle])[0], [x, y, x + w, y + h])
        assert annotation["iscrowd"] == 0
        assert annotation["category_id"] == 1
        assert 0 <= annotation["score"] <= 1
        assert 0 <= annotation["confidence"] <= 1
        before = covered.setdefault(annotation["image_id"], np.zeros_like(mask))
        assert not (before & mask).any(), "masks of one frame overlap"
        before |= mask


def test_replay_overlay_has_every_frame(replayed: Path) -> None:
    overlay = list(open_source(replayed / "overlay.mp4"))
    assert len(overlay) == FRAMES
    assert overlay[0].size == (96, 128)


def test_replay_is_deterministic_with_frames_and_overlay_and_without(
    replayed: Path, bag: Path, weights: dict[str, Path], tmp_path: Path
) -> None:
    assert replay(bag, tmp_path / "again", weights, "--no-frames", "--no-overlay") == 0
    assert {path.name for path in (tmp_path / "again").iterdir()} == {"selected.json", "run.json"}
    first = json.loads((replayed / "selected.json").read_text())
    again = json.loads((tmp_path / "again" / "selected.json").read_text())
    assert first == again


def expect_failure(
    capsys: pytest.CaptureFixture[str], status: int, folder: Path, *words: str
) -> None:
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 1
    assert message.startswith("gbopt: error: ")
    for word in words:
        assert word in message
    assert not list(folder.iterdir()), "something half-written was left behind"


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("missing source", ["no such file"]),
        ("no such topic", ["/nowhere", "/camera/image_raw"]),
        ("truncated", ["bag"]),
        ("missing weights", ["no such weights file"]),
        ("corrupt weights", ["not a readable safetensors file"]),
        ("pickle", ["not a readable safetensors file", "ends with .pth"]),
        ("wrong network", ["expected weights of the proposals network"]),
        ("unknown key", ["selection"]),
    ],
)
def test_replay_refuses_bad_input(
    case: str,
    words: list[str],
    bag: Path,
    weights: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    source, extra, used = bag, [], dict(weights)
    if case == "missing source":
        source = tmp_path / "nothing.mcap"
    elif case == "no such topic":
        extra = ["--topic", "/nowhere"]
    elif case == "truncated":
        (mcap,) = bag.glob("*.mcap")
        source = tmp_path / "cut_bag.mcap"
        source.write_bytes(mcap.read_bytes()[: mcap.stat().st_size // 2])
    elif case == "missing weights":
        used[PROPOSALS] = tmp_path / "none.safetensors"
    elif case == "corrupt weights":
        used[PROPOSALS] = tmp_path / "cut.safetensors"
        used[PROPOSALS].write_bytes(weights[PROPOSALS].read_bytes()[:5000])
    elif case == "pickle":
        used[PROPOSALS] = tmp_path / "model.safetensors"
        used[PROPOSALS].write_bytes(pickle.dumps({"a": 1}))
    elif case == "wrong network":
        used[PROPOSALS] = weights[BACKGROUND]
    elif case == "unknown key":
        extra = ["--set", "selection.wrong=1"]
    status = replay(source, results / "out", used, *extra)
    expect_failure(capsys, status, results, *words)


def test_replay_reports_an_unwritable_output(
    bag: Path, weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert replay(bag, tmp_path / "file" / "out", weights) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_replay_keeps_an_existing_output(
    bag: Path, weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    assert replay(bag, tmp_path, weights) == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_replay_without_proposals_and_learn_from_it(
    bag: Path, weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["--set", "proposal.score_threshold=0.999"]
    assert replay(bag, tmp_path / "out", weights, *extra) == 0
    content = json.loads((tmp_path / "out" / "selected.json").read_text())
    assert len(content["images"]) == FRAMES
    assert content["annotations"] == []
    status = main(["learn", str(tmp_path / "out"), "--out", str(tmp_path / "store")])
    assert status == 1
    assert "no selected mask to learn from" in capsys.readouterr().err


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rehearsal")
    (folder / "images").mkdir()
    images, rles = [], {}
    for t in range(2):
        cv2.imwrite(str(folder / "images" / f"{t}.png"), disc_picture(t))
        disc = (disc_picture(t)[:, :, 0] > 200).astype(bool)
        images.append(CocoImage(t + 1, f"{t}.png", 96, 128))
        rles[t + 1] = (encode(disc),)
    write_coco(folder / "annotations.json", images, rles)
    return folder


def learn(replayed: Path, store: Path, weights: dict[str, Path], *extra: str) -> int:
    return main(
        [
            "learn", str(replayed), "--out", str(store), "--weights", str(weights[PROPOSALS]),
            "--set", "learning.iterations=2", "--set", "learning.batch_size=2",
            "--set", "learning.gate_agreement=0",  # what random weights propose, JPEG changes
            *extra,
        ]
    )  # fmt: skip


def test_learn_publishes_and_models_rolls_back(
    replayed: Path,
    rehearsal: Path,
    weights: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = Mock(wraps=validation_results.evaluate_network)
    monkeypatch.setattr(validation_results, "evaluate_network", measured)
    store = tmp_path / "store"
    with_data = ["--rehearse", str(rehearsal), "--validation", str(rehearsal)]
    generous = [*with_data, "--set", "learning.gate_margin=100"]
    assert learn(replayed, store, weights, *generous) == 0
    assert learn(replayed, store, weights, *generous) == 0
    assert measured.call_count == 3  # the first network and two versions, each of them once
    versions = ModelStore(store).versions()
    assert [(v.version, v.manifest["parent"]) for v in versions] == [
        ("v0001", "random"),
        ("v0002", "v0001"),
    ]
    first, second = (version.manifest["gate"] for version in versions)
    assert first["passed"] and first["first_ap"] is None
    assert second["passed"] and second["first_ap"] == first["parent_ap"]
    assert load_coco(replayed / "selected.json").images  # the replay is only read
    capsys.readouterr()
    assert main(["models", "rollback", str(store)]) == 0
    current = ModelStore(store).current()
    assert current is not None
    assert current.version == "v0001"
    assert main(["models", "list", str(store)]) == 0
    listing = capsys.readouterr().out
    assert "* v0001" in listing
    assert "  v0002" in listing
    versions[0].path.write_bytes(b"damaged")
    assert main(["models", "verify", str(store)]) == 1
    assert "SHA-256" in capsys.readouterr().err


def test_learn_takes_masks_of_anybody(
    rehearsal: Path, weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks, store = rehearsal / "annotations.json", tmp_path / "store"
    options = [
        "--out", str(store), "--weights", str(weights[PROPOSALS]), "--masks", str(masks),
        "--set", "learning.iterations=1", "--set", "learning.batch_size=2",
        "--set", "learning.gate_agreement=0",
    ]  # fmt: skip
    assert main(["learn", *options]) == 1
    assert "--masks and --images: expected both" in capsys.readouterr().err
    whole = [*options, "--images", str(rehearsal / "images")]
    assert main(["learn", *whole, "--only", str(masks)]) == 1
    assert "--only: there is no replay" in capsys.readouterr().err
    assert main(["learn", *whole]) == 0
    with Store(store).training_set() as training_set:
        entries = training_set.labelled_images().entries
    truth = load_coco(masks)
    assert [e.rles for e in entries] == [truth.rles_by_image[i.id] for i in truth.images]
    assert {(e.recording, e.confidences) for e in entries} == {
        (f"{rehearsal.name}/annotations", (1.0,))
    }


def test_learn_only_from_labelled_frames(
    replayed: Path, weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = next(read_selection(replayed)).recording.rpartition("/")[2]
    labels = tmp_path / "annotations.json"
    extra = {"video": recording, "frame_index": 4}
    write_coco(labels, [CocoImage(1, "4.jpg", 96, 128, extra)], {1: ()})
    assert learn(replayed, tmp_path / "store", weights, "--only", str(labels)) == 0
    with Store(tmp_path / "store").training_set() as training_set:
        assert [e.stamp_ns for e in training_set.labelled_images().entries] == [
            frame.stamp_ns for frame in read_selection(replayed) if frame.frame_index == 4
        ]
    write_coco(labels, [CocoImage(1, "4.jpg", 96, 128, extra | {"video": "other"})], {1: ()})
    assert learn(replayed, tmp_path / "other", weights, "--only", str(labels)) == 1
    assert "none of its frames is among those to learn from" in capsys.readouterr().err


def judge_by(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """AP of the networks that the gate judges, one after the other."""
    found = iter(scores)
    monkeypatch.setattr(
        ValidationResults,
        "evaluate",
        lambda *_: (InstanceMetrics(next(found), 0, 0, 0, 0, 0), []),
    )


def test_learn_gate_refuses_a_worse_version(
    replayed: Path,
    rehearsal: Path,
    weights: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge_by(monkeypatch, 40.0, 50.0)  # the new version and its parent
    status = learn(replayed, tmp_path / "store", weights, "--validation", str(rehearsal))
    assert status == 1
    assert "seen AP 40.00 against 50.00" in capsys.readouterr().err
    assert ModelStore(tmp_path / "store").current() is None


def test_learn_gate_compares_with_the_first_network(
    replayed: Path,
    rehearsal: Path,
    weights: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each new version, its parent and, from the second round on, the network before the first.
    judge_by(monkeypatch, 49.2, 50.0, 48.4, 49.2, 50.0)
    monkeypatch.setattr(gate_checks, "paired_difference", lambda *_: (0.0, 0.3))
    store = tmp_path / "store"
    assert learn(replayed, store, weights, "--validation", str(rehearsal)) == 0
    assert learn(replayed, store, weights, "--validation", str(rehearsal)) == 1
    told = capsys.readouterr().err
    assert "48.40 against 50.00 of the network that learning began with" in told
    current = ModelStore(store).current()
    assert current is not None and current.version == "v0001"


def test_learn_stops_in_the_gate_too(
    replayed: Path, rehearsal: Path, weights: dict[str, Path], tmp_path: Path
) -> None:
    """It is asked before each of two networks is judged, and before the version is published."""
    config = load_config(
        None,
        [
            f"proposal.weights={weights[PROPOSALS]}", "device=cpu", "learning.iterations=1",
            "learning.batch_size=2", "learning.gate_agreement=0", "learning.gate_margin=100",
        ],
    )  # fmt: skip
    validation = load_coco_dir(rehearsal)
    with TrainingSet(tmp_path / "training", 10**9) as training_set:
        training_set.add(read_selection(replayed))
        asked: list[int] = []
        for allowed in range(3):

            def on_step(step: int, loss: float, allowed: int = allowed) -> None:
                if step == 1 and math.isnan(loss):
                    asked.append(allowed)
                    if asked.count(allowed) > allowed:
                        raise KeyboardInterrupt

            store = ModelStore(tmp_path / "store")
            with pytest.raises(KeyboardInterrupt):
                rounds.learn(training_set, store, config, validation=validation, on_step=on_step)
            assert store.current() is None
    assert asked == [0, 1, 1, 2, 2, 2]


def test_learn_needs_a_replay_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["learn", str(tmp_path), "--out", str(tmp_path / "store")]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1  # no warning before it
    assert "selected.json: not found; expected the output of `gbopt replay`" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("setting", ["proposal.weights", "learning.student"])
def test_learn_looks_for_its_networks_before_a_store_is_made(
    setting: str, replayed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, store = tmp_path / "yolo.onnx", tmp_path / "store"
    options = ["--set", f"{setting}={missing}", "--out", str(store)]
    assert main(["learn", str(replayed), *options]) == 1
    assert capsys.readouterr().err == f"gbopt: error: {missing}: no such weights file\n"
    assert list(tmp_path.iterdir()) == []


def test_verbs_say_that_a_replay_has_no_frames(
    bag: Path, weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    assert replay(bag, bare, weights, "--no-frames", "--no-overlay") == 0
    for verb in (
        ["learn", str(bare), "--out", str(tmp_path / "store")],
        ["export", str(bare), "--out", str(tmp_path / "labels")],
    ):
        capsys.readouterr()
        assert main(verb) == 1
        assert capsys.readouterr().err == (
            f"gbopt: error: {bare}: it has masks, but no frames; select them again without "
            "--no-frames\n"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]


def test_learn_says_which_image_of_masks_is_missing(
    rehearsal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks, images = rehearsal / "annotations.json", tmp_path / "images"
    options = ["--masks", str(masks), "--images", str(images), "--out", str(tmp_path / "store")]
    first = load_coco(masks).images[0].file_name
    assert main(["learn", *options]) == 1
    told = f"--images {images}: has no {first}, which {masks} has masks of\n"
    assert capsys.readouterr().err == f"gbopt: error: {told}"
    assert list(tmp_path.iterdir()) == []


def test_replay_says_that_weights_are_a_folder(
    bag: Path, weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = tmp_path / "store" / "models" / "v0001" / "model.safetensors"
    version.parent.mkdir(parents=True)
    version.touch()
    for folder, hint in (("store", f", such as {version}"), ("store/models", "")):
        wrong = {**weights, PROPOSALS: tmp_path / folder}
        assert replay(bag, tmp_path / "out", wrong) == 1
        expected = f"gbopt: error: {tmp_path / folder}: a folder; expected a weights file{hint}\n"
        assert capsys.readouterr().err == expected


def test_learn_checks_its_folders_before_it_forgets(
    replayed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "store")
    (added,) = store.add(replayed)
    arguments = ["learn", str(tmp_path / "typo"), "--forget", "disc/disc"]
    assert main([*arguments, "--out", str(store.root)]) == 1
    assert "typo/selected.json: not found" in capsys.readouterr().err
    assert store.forget("disc/disc") == [added]
