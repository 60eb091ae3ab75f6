"""`gbopt demo`: its data, its rounds, its report."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.recordings import write_selection

from gbopt_ros.cli.main import main
from gbopt_ros.config import Config
from gbopt_ros.demo import data as demo_data
from gbopt_ros.demo import rounds as demo_rounds
from gbopt_ros.demo import run as demo_run
from gbopt_ros.demo.data import DemoData
from gbopt_ros.demo.report import describe_rounds, join_losses
from gbopt_ros.demo.rounds import Clock, Replayed, learn_in_rounds
from gbopt_ros.demo.run import ENVIRONMENT_SEED, demo_config, prepare, run_demo
from gbopt_ros.evaluation.coco_metrics import METRICS
from gbopt_ros.io.datasets.coco import load_coco
from gbopt_ros.io.resources import find_resource
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.learning.round import Learnt, config_of_round
from gbopt_ros.learning.store import store as store_module
from gbopt_ros.learning.store.gate import GateDecision
from gbopt_ros.learning.store.store import Store
from gbopt_ros.learning.training.trainer import TrainingLog
from gbopt_ros.masks import encode_all
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.weights import sha256_of
from gbopt_ros.perception.load import proposal_weights
from gbopt_ros.simulation import simulator
from gbopt_ros.simulation.dataset import (
    ENVIRONMENT_SPLITS,
    RECORDING_NAME,
    SPLITS,
    environment_config,
)
from gbopt_ros.structures import Proposals, Rle

RESULTS = {
    "unseen": {when: dict.fromkeys(METRICS, 30.0) for when in ("before", "after")},
    "seen": {when: dict.fromkeys(METRICS, 50.0) for when in ("before", "after")},
    "ap_change": {s: {"difference": 1.0, "standard_error": 0.5} for s in ("unseen", "seen")},
    "rounds": [
        {
            "selected_masks": {
                "precision": 60.0,
                "recall": 50.0,
                "thresholded_precision_at_equal_recall": 40.0,
            },
            "masks": 50,
            "masks_learnt": learnt,
            "gate": {"passed": passed, "reason": "so it is"},
        }
        for passed, learnt in ((True, 40), (False, None))
    ],
}


@pytest.mark.parametrize(
    ("options", "has_simulator", "environment"),
    [
        ([], True, ENVIRONMENT_SEED),
        ([], False, None),
        (["--quick"], True, None),
        (["--quick", "--recording=environment"], True, ENVIRONMENT_SEED),
        (["--recording=bundled"], True, None),
        (["--recording=environment"], False, ENVIRONMENT_SEED),  # which ends with what to install
    ],
)
def test_demo_verb_chooses_the_recording(
    options: list[str],
    has_simulator: bool,
    environment: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    asked: list[Any] = []

    def run(out: Path, config: object, *, quick: bool, environment: int | None) -> dict[str, Any]:
        asked.append((out, quick, environment))
        return RESULTS

    monkeypatch.setattr(demo_run, "run_demo", run)
    monkeypatch.setattr(simulator, "has_pybullet", lambda: has_simulator)
    assert main(["demo", "--out", str(tmp_path), *options]) == 0
    assert asked == [(tmp_path, "--quick" in options, environment)]
    told = capsys.readouterr().out
    assert ("no simulator" in told) == (not options and not has_simulator)
    assert "unseen +1.0 ± 0.5" in told
    assert "Round 1: 50 masks selected, 40 learnt; precision 60.0 % at a recall of 50.0 %" in told
    assert "Round 2: 50 masks selected; precision" in told
    assert "Gate: refused; so it is." in told


@pytest.mark.parametrize(("refused", "empty"), [(None, None), (1, None), (2, None), (None, 2)])
def test_learn_in_rounds_selects_with_the_network_of_the_round_before(
    refused: int | None, empty: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A round that the gate refuses is the last, as is one before a round that selects nothing.

    What is in service stays so.
    """
    config = demo_config(False, seed=7)
    network, info = load_mask_rcnn(proposal_weights(config))
    data = DemoData.load(True, None)
    first = data.recording_truth.images[0]
    true = data.recording_truth.rles_by_image[first.id]
    nothing = Proposals((first.height, first.width), (), np.zeros(0), np.zeros((0, 4)))
    selected_with: list[tuple[str, str]] = []

    def select(out: Path, selecting: Config, *_: object) -> Replayed:
        selected_with.append((out.name, Path(selecting.proposal.weights).parent.name))
        index = first.extra["frame_index"]
        return Replayed({index: nothing}, {index: () if len(selected_with) == empty else true})

    def learn(replay: Path, store: Store, learning: Config, *_: object) -> Learnt:
        number = len(selected_with)
        assert replay.name == f"replay-{number}"
        assert learning == config_of_round(config, number - 1)
        decision = GateDecision(number != refused, "as the test says")
        log = TrainingLog({"total": [float(number)]})
        version = None
        if decision.passed:
            version = store.models.publish(network, info, {"instances": 5})
        return Learnt(decision, log, version)

    monkeypatch.setattr(demo_rounds, "_select", select)
    monkeypatch.setattr(demo_rounds, "_learn", learn)
    rounds = learn_in_rounds(tmp_path, config, data, Clock())
    told = [each.to_dict() for each in rounds]
    assert [each["model_version"] for each in told] == {
        (None, None): ["v0001", "v0002"],
        (1, None): [None],
        (2, None): ["v0001", None],
        (None, 2): ["v0001"],
    }[refused, empty]
    assert [each["masks_learnt"] for each in told] == [
        5 if each["model_version"] else None for each in told
    ]
    assert all(each["selected_masks"]["recall"] == 100 for each in told)
    assert selected_with == [("replay-1", ""), ("replay-2", "v0001")][: 1 if refused == 1 else 2]
    ended_empty = "Round 2: no mask was selected, nothing was learnt." in describe_rounds(told)
    assert ended_empty == (empty == 2)
    assert join_losses(each.learnt.log.losses for each in rounds) == {
        "total": [1.0, 2.0][: len(rounds)]
    }


def test_run_demo_reports_both_rounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The report and `results.json` tell of both rounds, and the last version is in service."""
    monkeypatch.setattr(demo_data, "QUICK_STILLS", 2)
    monkeypatch.setattr(demo_data, "QUICK_SECONDS", 0.15)  # 2 frames
    small = (
        "clip.length=2", "learning.iterations=1", "learning.batch_size=2",
        "proposal.short_side=120", "background.short_side=120",
    )  # fmt: skip
    # Of two validation images none can exclude a loss.
    config = demo_config(True, 0, (*small, "learning.gate_worst=100", "learning.gate_margin=100"))
    results = run_demo(tmp_path, config, quick=True)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert results["counts"] == {"frames": 2, "unseen_stills": 2, "seen_stills": 2}
    assert [each["model_version"] for each in results["rounds"]] == ["v0001", "v0002"]
    for number, told in enumerate(results["rounds"], start=1):
        replay = json.loads((tmp_path / f"replay-{number}" / "selected.json").read_text())
        assert told["masks"] == len(replay["annotations"]) >= told["masks_learnt"] > 0
    store = Store(tmp_path / "store")
    current = store.models.current()
    assert current is not None and current.version == "v0002"
    assert current.manifest["parent"] == "v0001"
    with store.training_set() as training_set:
        entries = training_set.labelled_images().entries
        assert {entry.recording.split("/")[0] for entry in entries} == {"replay-2"}
    assert current.manifest["sha256"] != sha256_of(proposal_weights(config))
    for split, change in results["ap_change"].items():
        gain = results[split]["after"]["AP"] - results[split]["before"]["AP"]
        assert change["difference"] == pytest.approx(gain)
    overlay = (tmp_path / "overlay.mp4").read_bytes()
    assert overlay == (tmp_path / "replay-2" / "overlay.mp4").read_bytes()
    report = (tmp_path / "report.html").read_text()
    for sentence in describe_rounds(results["rounds"]):
        assert html.escape(sentence) in report
    assert "v0001, v0002" in report


def test_demo_learn_replaces_the_masks_of_an_earlier_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first frame has another mask in the second round, the second frame none any more."""
    mask = np.zeros((2, 20, 30), bool)
    mask[0, 5:15, 5:20] = mask[1, 8:18, 2:9] = True
    first, other = encode_all(mask)
    learnt: list[list[tuple[int, tuple[Rle, ...]]]] = []

    def fake_learn(training_set: TrainingSet, *_: object, **__: object) -> None:
        entries = training_set.labelled_images().entries
        learnt.append([(int(cv2.imread(str(e.path))[0, 0, 0]), e.rles) for e in entries])

    monkeypatch.setattr(store_module, "learn", fake_learn)
    data, config = DemoData.load(True, None), demo_config(True, seed=0)
    store = Store(tmp_path / "store")
    for number, annotated in ((1, {1: first, 2: first}), (2, {1: other})):
        folder = tmp_path / f"replay-{number}"
        frames = {
            i: (np.full((20, 30, 3), i, np.uint8), [annotated[i]] if i in annotated else [])
            for i in (1, 2)
        }
        write_selection(folder, "tabletop", frames)
        demo_rounds._learn(folder, store, config, data)
    assert learnt == [[(1, (first,)), (2, (first,))], [(1, (other,))]]


def test_run_demo_without_simulator_keeps_an_earlier_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(simulator, "has_pybullet", lambda: False)
    prepare(tmp_path)
    (tmp_path / "results.json").write_text("of the demo before")
    assert main(["demo", "--out", str(tmp_path), "--recording", "environment"]) == 1
    assert "pip install 'gbopt_ros[sim]'" in capsys.readouterr().err
    assert (tmp_path / "results.json").exists()


def test_demo_data_takes_the_bundled_seen_data_for_an_environment_too(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    (environment / "unseen-train").mkdir(parents=True)
    for name, resource in (
        (f"unseen-train/{RECORDING_NAME}", "demo/recording"),
        ("unseen-train/annotations.json", "demo/recording.json"),
        ("unseen-test", "demo/unseen-test"),
    ):
        (environment / name).symlink_to(find_resource(resource))
    bundled, rendered = DemoData.load(True, None), DemoData.load(False, environment)
    assert (bundled.name, rendered.name) == ("bundled", "environment")
    assert rendered.recording == environment / "unseen-train" / RECORDING_NAME
    assert rendered.unseen.image_dir.is_relative_to(environment)
    assert len(rendered.unseen.images) == 110
    assert len(bundled.unseen.images) == len(bundled.seen.images) == 30
    assert rendered.rehearsal.image_dir == bundled.rehearsal.image_dir
    assert rendered.recording_truth.rles_by_image == bundled.recording_truth.rles_by_image


def test_environment_config_has_as_many_frames_as_the_bundled_recording() -> None:
    config = environment_config(ENVIRONMENT_SEED, jobs=3)
    assert config.environment and config.jobs == 3 and config.seed == ENVIRONMENT_SEED
    frames = load_coco(find_resource("demo/recording.json")).images
    assert config.clips * config.frames_per_clip == len(frames)
    assert not any(SPLITS[name].seen for name in ENVIRONMENT_SPLITS)
