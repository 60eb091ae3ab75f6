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
from gbopt_ros.demo.run import demo_config, run_demo
from gbopt_ros.evaluation.coco_metrics import METRICS
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


@pytest.mark.parametrize("options", [[], ["--quick"]])
def test_demo_verb_tells_what_came_out(
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    asked: list[Any] = []

    def run(out: Path, config: object, *, quick: bool) -> dict[str, Any]:
        asked.append((out, quick))
        return RESULTS

    monkeypatch.setattr(demo_run, "run_demo", run)
    assert main(["demo", "--out", str(tmp_path), *options]) == 0
    assert asked == [(tmp_path, "--quick" in options)]
    told = capsys.readouterr().out
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
    data = DemoData.load(True)
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
    data, config = DemoData.load(True), demo_config(True, seed=0)
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


def test_demo_data_is_the_whole_bundled_environment_or_a_part_of_it() -> None:
    """24 clips of 10 frames, each with an instance; the stills are of the same objects."""
    whole, quick = DemoData.load(False), DemoData.load(True)
    assert len(whole.recording_truth.images) == sum(1 for _ in whole.open()) == 240
    assert all(whole.recording_truth.rles_by_image.values())
    assert (len(whole.unseen), len(whole.seen)) == (100, 100)
    assert (len(quick.unseen), len(quick.seen)) == (30, 30)
    assert sum(1 for _ in quick.open()) == 50
    assert quick.rehearsal == whole.rehearsal
    shown = [
        {name for names in dataset.names_by_image.values() for name in names}
        for dataset in (whole.recording_truth, whole.unseen)
    ]
    assert shown[0] == shown[1] and len(shown[0]) == 8
