"""What `gbopt demo` learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gbopt_ros import demo
from gbopt_ros.cli.main import main
from gbopt_ros.demo import HOME_SEED, _Assets, _prepare
from gbopt_ros.evaluation.coco_metrics import METRICS
from gbopt_ros.resources import find_resource
from gbopt_ros.sources.coco import load_coco
from gbopt_ros.world import simulator
from gbopt_ros.world.dataset import HOME_SPLITS, RECORDING_NAME, SPLITS, home_config

RESULTS = {
    "unseen": {when: dict.fromkeys(METRICS, 30.0) for when in ("before", "after")},
    "seen": {when: dict.fromkeys(METRICS, 50.0) for when in ("before", "after")},
    "ap_change": {s: {"difference": 1.0, "standard_error": 0.5} for s in ("unseen", "seen")},
    "selected_masks": {
        "precision": 60.0,
        "recall": 50.0,
        "thresholded_precision_at_equal_recall": 40.0,
    },
    "gate": {"reason": "passed"},
}


@pytest.mark.parametrize(
    ("options", "has_simulator", "home"),
    [
        ([], True, HOME_SEED),
        ([], False, None),
        (["--quick"], True, None),
        (["--quick", "--recording=home"], True, HOME_SEED),
        (["--recording=bundled"], True, None),
        (["--recording=home"], False, HOME_SEED),  # which ends with what to install
    ],
)
def test_which_recording(
    options: list[str],
    has_simulator: bool,
    home: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    asked: list[Any] = []

    def run(out: Path, config: object, *, quick: bool, home: int | None) -> dict[str, Any]:
        asked.append((out, quick, home))
        return RESULTS

    monkeypatch.setattr(demo, "run_demo", run)
    monkeypatch.setattr(simulator, "has_pybullet", lambda: has_simulator)
    assert main(["demo", "--out", str(tmp_path), *options]) == 0
    assert asked == [(tmp_path, "--quick" in options, home)]
    told = capsys.readouterr().out
    assert ("no simulator" in told) == (not options and not has_simulator)
    assert "unseen +1.0 ± 0.5" in told


def test_a_home_without_simulator_replaces_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(simulator, "has_pybullet", lambda: False)
    _prepare(tmp_path)
    (tmp_path / "results.json").write_text("of the demo before")
    assert main(["demo", "--out", str(tmp_path), "--recording", "home"]) == 1
    assert "pip install 'gbopt_ros[sim]'" in capsys.readouterr().err
    assert (tmp_path / "results.json").exists()


def test_seen_data_is_the_bundled_one_in_a_home_too(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "unseen-train").mkdir(parents=True)
    for name, resource in (
        (f"unseen-train/{RECORDING_NAME}", "demo/recording"),
        ("unseen-train/annotations.json", "demo/recording.json"),
        ("unseen-test", "demo/unseen-test"),
    ):
        (home / name).symlink_to(find_resource(resource))
    bundled, rendered = _Assets.load(True, None), _Assets.load(False, home)
    assert (bundled.name, rendered.name) == ("bundled", "home")
    assert rendered.recording == home / "unseen-train" / RECORDING_NAME
    assert rendered.unseen.image_dir.is_relative_to(home)
    assert len(rendered.unseen.images) == 110
    assert len(bundled.unseen.images) == len(bundled.seen.images) == 30
    assert rendered.rehearsal.image_dir == bundled.rehearsal.image_dir
    assert rendered.recording_truth.rles_by_image == bundled.recording_truth.rles_by_image


def test_a_home_has_as_much_video_as_comes_with_the_demo() -> None:
    config = home_config(HOME_SEED, jobs=3)
    assert config.home and config.jobs == 3 and config.seed == HOME_SEED
    frames = load_coco(find_resource("demo/recording.json")).images
    assert config.clips * config.frames_per_clip == len(frames)
    assert not any(SPLITS[name].seen for name in HOME_SPLITS)
