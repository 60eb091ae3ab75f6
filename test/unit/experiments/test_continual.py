"""The stream of the continual experiment, and its poisoned rounds."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from support.labelled import labelled

from experiments import continual, tabletop
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.simulation.dataset import WorldConfig
from gbopt_ros.simulation.objects import UNSEEN


def test_groups_hold_every_unseen_kind_once() -> None:
    found = continual.groups(5)
    assert len(found) == 5
    assert sorted(name for group in found for name in group) == sorted(k.name for k in UNSEEN)
    assert {len(group) for group in found} <= {4, 5}


def test_environment_stream_adds_an_object_in_every_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, WorldConfig]] = []

    def generated(folder: Path, splits: list[str], config: WorldConfig) -> None:
        made.extend((f"{folder.name}/{split}", config) for split in splits)
        for split in splits:
            (folder / split).mkdir(parents=True)

    monkeypatch.setattr(tabletop, "generate", generated)
    monkeypatch.setattr(continual, "load_coco_dir", lambda folder: folder)
    rounds = continual.environment_stream(tmp_path, 7, 3)
    assert [len(each.shown) for each in rounds] == [6, 7, 8]
    videos = [config for name, config in made if name.endswith("unseen-train")]
    assert [(c.seed, c.environment, c.object_count, c.first, c.clips) for c in videos] == [
        (7, True, 6, 0, 8),
        (7, True, 7, 8, 8),
        (7, True, 8, 16, 8),
    ]
    count = len(made)
    assert len(continual.environment_stream(tmp_path, 7, 3)) == 3
    assert len(made) == count == 6  # what is there is not rendered again


def test_run_writes_its_report_from_the_stills_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = {"round": 1, "version": "v0001", "unseen": 40.0, "so_far": 41.0, "seen": 60.0,
              "bytes": 10**6, "frames_kept": {"round-1": 3}}  # fmt: skip
    found = (
        {"unseen": 38.0, "seen": 64.0, "so_far": [39.0]},
        [judged],
        {"round": {"passed": True, "reason": "r"}, "set": {"passed": False, "reason": "s"}},
    )
    monkeypatch.setattr(continual.Continual, "run", lambda self: found)
    monkeypatch.setattr(continual, "few_rounds", lambda stills: [])
    args = continual.parse_arguments(["--quick", "--out", str(tmp_path)])
    assert continual.run(args) == 0  # a smoke test does not judge the gate
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "continual.json", "continual.md", "continual.svg"
    ]  # fmt: skip
    assert "Poisoned round: PASSED; r." in capsys.readouterr().out


def test_shuffled_frames_bear_the_masks_of_another_scene() -> None:
    frames = [
        SelectedFrame("r", i // 2, i, i, Path(f"{i}.jpg"), (4, 6), labelled(0, i + 1).rles,
                      (0.1 * i,), (0.5,), track_ids=(i,))
        for i in range(4)
    ]  # fmt: skip
    poisoned = continual.shuffled(iter(frames))
    assert [f.image_path.name for f in poisoned] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert [f.rles for f in poisoned] == [frames[i].rles for i in (2, 3, 0, 1)]
    assert [f.scores for f in poisoned] == [frames[i].scores for i in (2, 3, 0, 1)]
    assert [f.track_ids for f in poisoned] == [(2,), (3,), (0,), (1,)]
    assert continual.shuffled([]) == []
