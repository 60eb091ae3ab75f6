"""`gbopt davis`: replays and label images against DAVIS folders, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.recordings import write_selection

from gbopt_ros import masks as mask_ops
from gbopt_ros.cli.main import main
from gbopt_ros.io.datasets.davis import read_label_image

SIZE, FRAMES = (48, 64), 5


def disc(t: int, y: int = 20, step: int = 4, scale: int = 1) -> np.ndarray:
    """A disc that moves to the right, (H, W) bool."""
    grid_y, grid_x = np.mgrid[: SIZE[0] * scale, : SIZE[1] * scale] / scale + 0.5 / scale
    return (grid_y - y) ** 2 + (grid_x - 15 - step * t) ** 2 < 81


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Two sequences; `two` has a second object, which rests."""
    root = tmp_path / "DAVIS"
    rng = np.random.default_rng(0)
    table = rng.integers(20, 60, (*SIZE, 3), dtype=np.uint8)
    coat = rng.integers(120, 250, (*SIZE, 3), dtype=np.uint8)
    for name in ("one", "two"):
        for folder in ("JPEGImages", "Annotations_unsupervised"):
            (root / folder / "480p" / name).mkdir(parents=True)
        for t in range(FRAMES):
            labels = disc(t).astype(np.uint8)
            if name == "two":
                labels[36:46, 40:60] = 2
            image = table.copy()
            image[labels == 1] = np.roll(coat, 4 * t, axis=1)[labels == 1]
            image[labels == 2] = coat[labels == 2]
            cv2.imwrite(str(root / f"JPEGImages/480p/{name}/{t:05d}.jpg"), image)
            path = root / f"Annotations_unsupervised/480p/{name}/{t:05d}.png"
            Image.fromarray(labels).save(path)
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("one\ntwo\n")
    return root


def labels_of(davis: Path, name: str, t: int) -> np.ndarray:
    return read_label_image(davis / f"Annotations_unsupervised/480p/{name}/{t:05d}.png")


def replay_of(
    davis: Path, name: str, out: Path, stride: int = 1, masks: list[list[np.ndarray]] | None = None
) -> Path:
    """A replay's output with the true masks, in another order on every other frame."""
    frames = {}
    for t in range(0, FRAMES, stride):
        labels = labels_of(davis, name, t)
        found = [labels == k for k in range(1, int(labels.max()) + 1)]
        found = found[:: -1 if t % 2 else 1] if masks is None else masks[t]
        frame = cv2.imread(str(davis / f"JPEGImages/480p/{name}/{t:05d}.jpg"))
        image = cv2.resize(frame, found[0].shape[::-1])
        frames[t] = image, [mask_ops.encode(mask) for mask in found]
    return write_selection(out, name, frames)


def test_davis_of_true_masks_is_perfect(
    davis: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replays = [str(replay_of(davis, name, tmp_path / f"r-{name}")) for name in ("one", "two")]
    out = tmp_path / "out"
    command = ["davis", str(davis), "--replay", *replays, "--set", "tracks.min_iou=0.2"]
    assert main([*command, "--out", str(out)]) == 0
    header, one, two, everything = capsys.readouterr().out.splitlines()
    assert header.split() == [
        "J&F",
        "J",
        "J",
        "recall",
        "J",
        "decay",
        "F",
        "F",
        "recall",
        "F",
        "decay",
    ]
    assert one.split() == ["one", "100.0", "100.0", "100.0", "0.0", "100.0", "100.0", "0.0"]
    assert two.split()[1:] == one.split()[1:] == everything.split()[2:]
    summary = json.loads((out / "metrics.json").read_text())
    assert summary["metrics"]["JF"] == 100
    assert set(summary["sequences"]) == {"one", "two"}
    assert [(o["sequence"], o["object"]) for o in summary["objects"]] == [
        ("one", 1), ("two", 1), ("two", 2)
    ]  # fmt: skip
    for t in range(FRAMES):
        written = read_label_image(out / "tracks" / "two" / f"{t:05d}.png")
        np.testing.assert_array_equal(written > 0, labels_of(davis, "two", t) > 0)
    # What it wrote can be measured again.
    assert main(["davis", str(davis), "--results", str(out / "tracks")]) == 0
    assert capsys.readouterr().out.splitlines()[3] == everything


def test_davis_does_not_shift_masks_of_another_size(
    davis: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Masks at three times the size come back exactly: each pixel takes that of its centre."""
    masks = [[disc(t, scale=3)] for t in range(FRAMES)]
    replay = replay_of(davis, "one", tmp_path / "r", masks=masks)
    out = tmp_path / "out"
    command = ["davis", str(davis), "--sequences", "one", "--replay", str(replay)]
    assert main([*command, "--out", str(out)]) == 0
    for t in range(FRAMES):
        written = read_label_image(out / "tracks" / "one" / f"{t:05d}.png")
        np.testing.assert_array_equal(written, labels_of(davis, "one", t))


def test_davis_reads_a_folder_of_pairs(
    davis: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "any-name"
    pairs.mkdir()
    for t in range(FRAMES):
        for folder, suffix in (("JPEGImages", "jpg"), ("Annotations_unsupervised", "png")):
            name = f"{t:05d}.{suffix}"
            (pairs / name).write_bytes((davis / folder / "480p/two" / name).read_bytes())
    replay = replay_of(davis, "two", tmp_path / "r")
    command = ["davis", str(pairs), "--replay", str(replay), "--set", "tracks.max_tracks=1"]
    assert main(command) == 0
    _, _, everything = capsys.readouterr().out.splitlines()
    assert everything.split()[3] == "50.0"  # one of two objects


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["davis", *map(str, arguments)]) == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_davis_refuses_bad_input(
    davis: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = replay_of(davis, "one", tmp_path / "one")
    every_other = replay_of(davis, "one", tmp_path / "strided", stride=2)
    assert "no replay of two; the replays are of one" in failure(capsys, davis, "--replay", one)
    assert "has no sequence cat; it has one, two" in failure(
        capsys, davis, "--replay", one, "--sequences", "cat"
    )
    text = failure(capsys, davis, "--sequences", "one", "--replay", every_other)
    assert "2 of 5 labelled frames of one were not replayed, the first is frame 1" in text
    assert "a second replay of one" in failure(capsys, davis, "--replay", one, every_other)
    assert "expected the output of `gbopt replay`" in failure(capsys, davis, "--replay", tmp_path)
    assert "no such folder" in failure(capsys, davis, "--results", tmp_path / "nowhere")
    assert "00000.png: label image is missing" in failure(capsys, davis, "--results", tmp_path)
    assert "no such folder; give the folder of DAVIS" in failure(
        capsys, tmp_path / "nowhere", "--results", tmp_path
    )
    content = json.loads((one / "selected.json").read_text())
    content["annotations"][0]["segmentation"]["counts"] = "9"
    (one / "selected.json").write_text(json.dumps(content))
    assert "annotations[0]: bad segmentation: mask 0: run lengths do not fill" in failure(
        capsys, davis, "--replay", one, "--sequences", "one"
    )
    content["annotations"], content["images"][0]["height"] = [], 9
    (one / "selected.json").write_text(json.dumps(content))
    assert "frames of sizes" in failure(capsys, davis, "--replay", one)
    content["images"] = []
    (one / "selected.json").write_text(json.dumps(content))
    assert "a replay without frames" in failure(capsys, davis, "--replay", one)
