"""`gbopt demo SOURCE`: the whole loop on a recording of the user's own."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.networks import save_random_weights
from support.recordings import disc_frames, noise_frames, write_images

from gbopt_ros.cli.main import main
from gbopt_ros.demo import data as demo_data
from gbopt_ros.io.sources import open_source
from gbopt_ros.learning.store.store import Store
from gbopt_ros.masks import decode
from gbopt_ros.models.weights import BACKGROUND, PROPOSALS, sha256_of

pytestmark = pytest.mark.usefixtures("small_networks")
FRAMES = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def few_stills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_data, "QUICK_STILLS", 2)


def demo(source: Path, out: Path, weights: dict[str, Path], *extra: str) -> int:
    """A demo whose gate nothing fails."""
    settings = (
        f"background.weights={weights[BACKGROUND]}", "clip.length=3", "selection.k=3",
        "proposal.max_proposals=4", "learning.iterations=1", "learning.batch_size=2",
        "learning.gate_worst=100", "learning.gate_margin=100",
    )  # fmt: skip
    options = [option for each in settings for option in ("--set", each)]
    network = ["--weights", str(weights[PROPOSALS])]
    return main(["demo", str(source), "--out", str(out), "--quick", *network, *options, *extra])


def masks_by_frame(folder: Path) -> dict[int, list[np.ndarray]]:
    """The masks of a replay, read without the package's own reader."""
    content = json.loads((folder / "selected.json").read_text())
    masks: dict[int, list[np.ndarray]] = {i["frame_index"]: [] for i in content["images"]}
    frames = {image["id"]: image["frame_index"] for image in content["images"]}
    for annotation in content["annotations"]:
        masks[frames[annotation["image_id"]]].append(decode(annotation["segmentation"]))
    return masks


def without_counterpart(
    masks: dict[int, list[np.ndarray]], others: dict[int, list[np.ndarray]]
) -> dict[int, int]:
    """Number of masks of each frame with an IoU below 0.5 with all others; frames without none."""
    counts = {
        index: sum(
            all((mask & other).sum() < 0.5 * (mask | other).sum() for other in others[index])
            for mask in of_frame
        )
        for index, of_frame in masks.items()
    }
    return {index: count for index, count in counts.items() if count}


def test_demo_learns_from_a_recording_of_the_users_own(
    weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording, out = write_images(tmp_path / "disc", disc_frames(FRAMES)), tmp_path / "out"
    assert demo(recording, out, weights, "--rounds", "1") == 0
    captured = capsys.readouterr()
    assert "this takes about" in captured.err
    assert captured.out.splitlines()[-1] == (
        f"report: {out / 'report.html'}   overlay: {out / 'overlay.mp4'}"
    )
    results = json.loads((out / "results.json").read_text())
    assert [each["model_version"] for each in results["rounds"]] == ["v0001"]
    assert results["model_version"] == "v0001"
    assert "unseen" not in results and "selected_masks" not in results["rounds"][0]

    before, after = (masks_by_frame(out / f"replay-{number}") for number in (1, 2))
    assert list(before) == list(after) == list(range(FRAMES))
    counted = {
        name: sum(map(len, masks.values()))
        for name, masks in (("before", before), ("after", after))
    }
    assert results["counts"] == {"frames": FRAMES, "masks": counted, "seen_stills": 2}
    found, lost = without_counterpart(after, before), without_counterpart(before, after)
    assert results["found_new"] == {
        "masks": sum(found.values()),
        "frames": len(found),
        "lost_masks": sum(lost.values()),
        "lost_frames": len(lost),
    }
    runs = [json.loads((out / f"replay-{n}" / "run.json").read_text())["clips"] for n in (1, 2)]
    assert results["energies"] == [
        {
            "clip_id": number,
            "frames": frames,
            "before": {key: runs[0][number][key] for key in ("energy", "optimal")},
            "after": {key: runs[1][number][key] for key in ("energy", "optimal")},
        }
        for number, frames in enumerate((3, 1))
    ]
    gain = results["seen"]["after"]["AP"] - results["seen"]["before"]["AP"]
    assert results["ap_change"]["seen"]["difference"] == pytest.approx(gain)
    assert {"evaluate the seed network", "after learning: select masks in the recording",
            "total"} <= results["seconds"].keys()  # fmt: skip

    overlay = list(open_source(out / "overlay.mp4"))
    assert [frame.size for frame in overlay] == [(96 + 28, 2 * 128)] * FRAMES
    report = (out / "report.html").read_text()
    current = Store(out / "store").models.current()
    assert current is not None
    told = (
        f" in {len(found)} of {FRAMES} frames. Conversely, ",
        "v0001, learnt from random", current.manifest["sha256"], sha256_of(weights[PROPOSALS]),
        f"gbopt replay {recording} --weights {current.path} --out replay-learnt",
        f"gbopt run --camera /camera/color/image_raw --no-learner --set proposal.weights="
        f"{current.path}",
        "selection.k", "Gate, round 1", "that of the seed network: ask its publisher",
        *captured.out.splitlines()[1:5],  # the sentences on the terminal
    )  # fmt: skip
    for words in told:
        assert html.escape(words) in report, words
    assert report.count("<img") >= 2 * FRAMES


@pytest.mark.parametrize(
    ("frames", "extra", "reason"),
    [
        (1, ("--set", "learning.batch_size=4"), "1 frame is too few to learn from"),
        (3, ("--set", "proposal.score_threshold=0.999"), "no mask was selected"),
    ],
)
def test_demo_reports_what_there_is_where_nothing_can_be_learnt(
    frames: int,
    extra: tuple[str, ...],
    reason: str,
    weights: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recording, out = write_images(tmp_path / "disc", disc_frames(frames)), tmp_path / "out"
    assert demo(recording, out, weights, *extra) == 0
    captured = capsys.readouterr()
    assert f"Nothing was learnt: {reason}" in captured.out
    assert reason in captured.err
    results = json.loads((out / "results.json").read_text())
    assert results["rounds"] == [] and results["found_new"] is None
    assert results["model_version"] is None and results["shortage"].startswith(reason)
    masks = sum(map(len, masks_by_frame(out / "replay-1").values()))
    assert results["counts"]["masks"] == {"before": masks}
    assert frames == 1 or masks == 0
    assert not (out / "replay-2").exists()
    overlay = (out / "overlay.mp4").read_bytes()
    assert overlay == (out / "replay-1" / "overlay.mp4").read_bytes()
    report = (out / "report.html").read_text()
    assert f"Nothing was learnt: {reason}" in report
    assert report.count("<img") == frames


def missing(folder: Path) -> Path:
    return folder / "nowhere.mp4"


def without_images(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def undecodable(folder: Path) -> Path:
    images = write_images(folder / "images", noise_frames(3))
    for path in images.iterdir():
        path.write_bytes(b"")
    return images


def not_a_video(folder: Path) -> Path:
    (folder / "noise.mp4").write_bytes(bytes(range(256)) * 9)
    return folder / "noise.mp4"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (missing, "nowhere.mp4: no such file or folder"),
        (without_images, "empty: no image in this folder"),
        (undecodable, "none of 3 images can be decoded"),
        (not_a_video, "noise.mp4: not a readable video"),
    ],
)
def test_demo_refuses_a_bad_recording_and_keeps_an_earlier_demo(
    record: Any,
    words: str,
    weights: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in (".gbopt-demo", "report.html"):
        (out / name).write_text("of the demo before")
    assert demo(record(tmp_path), out, weights) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("gbopt: error: ") and words in error
    assert (out / "report.html").read_text() == "of the demo before"


def test_demo_without_source_takes_no_options_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, value in (("--rounds", "3"), ("--topic", "/camera"), ("--resize", "64x48")):
        assert main(["demo", "--out", str(tmp_path / "out"), option, value]) == 1
        assert f"{option} is for a recording of your own" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
