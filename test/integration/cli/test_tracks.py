"""`gbopt tracks`: ids of replays against labelled objects, and bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.recordings import write_selection

from gbopt_ros import masks as mask_ops
from gbopt_ros.cli.main import main
from gbopt_ros.io.datasets.coco import CocoImage, write_coco
from gbopt_ros.structures import Rle

SIZE, FRAMES = (48, 64), 6
PERIOD = 100_000_000


def square(x: int) -> Rle:
    mask = np.zeros(SIZE, bool)
    mask[10:20, x : x + 10] = True
    return mask_ops.encode(mask)


def squares(t: int) -> list[Rle]:
    """The one on the left moves, the one on the right rests."""
    return [square(5 + t), square(45)]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Frames with a label image beside each."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for t in range(FRAMES):
        labels = sum(
            (value * mask_ops.decode(rle) for value, rle in enumerate(squares(t), start=1)),
            np.zeros(SIZE, np.uint8),
        )
        cv2.imwrite(str(folder / f"{t:05d}.jpg"), np.zeros((*SIZE, 3), np.uint8))
        Image.fromarray(labels.astype(np.uint8)).save(folder / f"{t:05d}.png")
    return folder


def replay_of(out: Path, ids: dict[int, tuple[int, ...]] | None) -> Path:
    frames = {t: (np.zeros((*SIZE, 3), np.uint8), squares(t)) for t in range(FRAMES)}
    return write_selection(out, "squares", frames, ids)


def metrics_of(out: Path, *arguments: str | Path) -> dict[str, dict[str, float]]:
    assert main(["tracks", *map(str, arguments), "--out", str(out)]) == 0
    content: dict[str, dict[str, float]] = json.loads((out / "metrics.json").read_text())
    return content


def test_tracks_measures_the_ids_of_replays(
    tmp_path: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = replay_of(tmp_path / "right", dict.fromkeys(range(FRAMES), (3, 8)))
    swapped = replay_of(tmp_path / "swapped", {t: (1, 2) if t < 4 else (2, 1) for t in range(6)})
    found = metrics_of(tmp_path / "out", right, swapped, "--gt", pairs, pairs)
    assert found[str(right)] == {
        "IDF1": 100, "IDP": 100, "IDR": 100, "switches": 0, "instances": 12, "masks": 12,
    }  # fmt: skip
    assert (found[str(swapped)]["IDF1"], found[str(swapped)]["switches"]) == (100 * 8 / 12, 2)
    assert (found["all"]["IDF1"], found["all"]["switches"]) == (100 * 20 / 24, 2)
    assert "IDF1" in capsys.readouterr().out
    assert (tmp_path / "out" / "metrics.md").read_text().startswith("|")


def test_tracks_gives_new_ids_with_relink(tmp_path: Path, pairs: Path) -> None:
    replay = replay_of(tmp_path / "old", None)
    assert main(["tracks", str(replay), "--gt", str(pairs)]) == 1
    found = metrics_of(tmp_path / "out", replay, "--gt", pairs, "--relink")
    assert found[str(replay)]["IDF1"] == 100


def test_tracks_takes_names_for_one_object_within_a_scene(tmp_path: Path) -> None:
    """After a gap in the stream, an object of the same name is another one."""
    images = [
        CocoImage(t + 1, f"{t}.jpg", *SIZE, {"frame_index": t, "stamp_ns": stamp})
        for t, stamp in enumerate((0, PERIOD, 100 * PERIOD, 101 * PERIOD))
    ]
    labels, rles = tmp_path / "annotations.json", {t + 1: squares(t) for t in range(4)}
    write_coco(labels, images, rles, names_by_image={t + 1: ["duck 1", "mug 2"] for t in range(4)})
    replay = replay_of(tmp_path / "replay", dict.fromkeys(range(FRAMES), (1, 2)))
    found = metrics_of(tmp_path / "out", replay, "--gt", labels)[str(replay)]
    assert (found["IDF1"], found["switches"], found["masks"]) == (50, 0, 8)


def test_tracks_says_what_is_wrong(
    tmp_path: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replay = replay_of(tmp_path / "replay", dict.fromkeys(range(FRAMES), (1, 2)))
    unnamed, small = tmp_path / "unnamed.json", tmp_path / "small"
    image = CocoImage(1, "0.jpg", *SIZE, {"frame_index": 0, "stamp_ns": 0})
    write_coco(unnamed, [image], {1: squares(0)})
    again = tmp_path / "again.json"
    write_coco(again, [image, replace(image, id=2)], {1: squares(0), 2: squares(0)})
    small.mkdir()
    other = tmp_path / "other.json"
    other.write_text("{}")
    Image.fromarray(np.ones((24, 32), np.uint8)).save(small / "00000.png")
    for arguments, message in (
        (["--gt", pairs, pairs], "expected the labels of 1 replays, got 2"),
        (["--gt", unnamed], "expected a 'name' of its own for every object"),
        (["--gt", again], "another image is frame 0, too"),
        (["--gt", small], "masks and labels of sizes [(24, 32), (48, 64)]"),
        (["--gt", tmp_path / "nothing"], "/nothing: no such file or folder; expected `annotations"),
        (["--gt", tmp_path], f"{tmp_path}: neither DAVIS"),
        (
            ["--gt", other],
            "/other.json: expected 'images', it is not there; expected "
            "`annotations.json` of `gbopt world --environment`, or a folder",
        ),
    ):
        assert main(["tracks", str(replay), *map(str, arguments)]) == 1
        assert message in capsys.readouterr().err
