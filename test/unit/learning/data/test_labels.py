"""Masks to annotation tools and back: what is written, what comes back, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gbopt_ros.cli.main import main
from gbopt_ros.io.datasets.coco import load_coco_dir
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.learning.data.labels import Labels, export_labels, read_labels
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.learning.data.verdicts import StoredFrame, StoredMask, Verdict
from gbopt_ros.learning.store import store as stores
from gbopt_ros.learning.store.store import Reviewed, Store
from gbopt_ros.masks import decode, encode, encode_all
from gbopt_ros.structures import GboptError

SIZE = (24, 32)


def blobs(number: int) -> np.ndarray:
    """(2, 24, 32) bool: a ring, and two parts."""
    masks = np.zeros((2, *SIZE), bool)
    masks[0, 2:12, 3 + number : 13 + number] = True
    masks[0, 5:8, 6 + number : 9 + number] = False
    masks[1, 14:20, 4:9] = masks[1, 14:20, 20:26] = True
    return masks


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with three frames of two masks; two frames have equal images."""
    frames = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        pixels = np.random.default_rng(min(number, 1)).integers(0, 255, (*SIZE, 3), np.uint8)
        cv2.imwrite(str(path), pixels)
        frames.append(
            SelectedFrame("kitchen", 4, number, 10**9 * number, path, SIZE,
                          encode_all(blobs(number)), (0.9, 0.8), (0.7, 0.25), "v0003", (5, None))
        )  # fmt: skip
    made = Store(tmp_path / "store")
    with made.training_set() as training_set:
        training_set.add(frames)
    return made


def frames_of(store: Store) -> list[list[tuple[np.ndarray, Verdict]]]:
    with store.training_set() as training_set:
        return [[(decode(m.rle), m.verdict) for m in f.masks] for f in training_set.frames()]


def same(found: list[tuple[np.ndarray, Verdict]], *expected: tuple[np.ndarray, int]) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(v == w and np.array_equal(m, n) for (m, v), (n, w) in pairs)


def coco_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "annotations.json").read_text())
    return content


def test_export_keeps_masks_and_what_is_known_of_them(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["export", str(store.root), "--out", str(out)]) == 0
    content = coco_of(out)
    assert [image["frame_index"] for image in content["images"]] == [0, 2]  # 1 looks like 2
    image, annotation = content["images"][0], content["annotations"][0]
    name = image.pop("file_name")
    assert name.startswith("000000-") and len(name) == len("000000-.png") + 32
    assert image == {
        "id": 1, "height": 24, "width": 32, "recording": "kitchen", "clip_id": 4,
        "frame_index": 0, "stamp_ns": 0, "model_version": "v0003",
    }  # fmt: skip
    told = "score", "confidence", "track_id", "verified", "iscrowd", "bbox", "area"
    assert [annotation[key] for key in told] == [0.9, 0.7, 5, False, 0, [3, 2, 10, 10], 91]
    assert "track_id" not in content["annotations"][1]
    dataset = load_coco_dir(out)
    assert dataset.rles_by_image[2] == encode_all(blobs(2))
    assert (out / "images" / name).read_bytes() == (tmp_path / "0.png").read_bytes()
    assert main(["export", str(store.root), "--out", str(out)]) == 1  # it holds something


def test_export_that_fails_leaves_nothing(store: Store, tmp_path: Path) -> None:
    next(iter((store.root / "training" / "images").iterdir())).unlink()
    with pytest.raises(GboptError, match="cannot be read: No such file"):
        store.export(tmp_path / "out")
    assert not any("out" in name for name in os.listdir(tmp_path))
    with pytest.raises(GboptError, match="there is no frame with masks to export"):
        export_labels([], tmp_path / "none", "coco")
    assert not (tmp_path / "none").exists()
    with pytest.raises(GboptError, match="no store with a training set"):
        Store(tmp_path / "none").export(tmp_path / "out")
    assert not (tmp_path / "none").exists()


def test_export_leaves_out_what_leaves_the_set_meanwhile(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = TrainingSet.frames

    def evicting(count: int) -> Callable[..., list[StoredFrame]]:
        """`frames`, after which the first frames and their images leave the set."""

        def frames(training_set: TrainingSet, image: str | None = None) -> list[StoredFrame]:
            held = read(training_set, image)
            if image is None:
                with TrainingSet(store.root / "training", 0) as robots:
                    robots._catalogue.execute("DELETE FROM frames WHERE frame_index < ?", (count,))
                    robots.collect_garbage()
            return held

        return frames

    monkeypatch.setattr(TrainingSet, "frames", evicting(1))
    assert store.export(tmp_path / "out").images == 1
    (image,) = coco_of(tmp_path / "out")["images"]
    assert [image["file_name"]] == os.listdir(tmp_path / "out" / "images")
    assert "1 frames left the training set meanwhile" in caplog.text
    monkeypatch.setattr(TrainingSet, "frames", evicting(9))
    with pytest.raises(GboptError, match="all frames left the training set meanwhile"):
        store.export(tmp_path / "later")
    assert not (tmp_path / "later").exists()


def test_export_for_fiftyone_calls_things_as_it_wants_them(store: Store, tmp_path: Path) -> None:
    assert store.export(tmp_path / "out", "fiftyone") == store.export(tmp_path / "coco")
    content = json.loads((tmp_path / "out" / "labels.json").read_text())
    usual = coco_of(tmp_path / "coco")
    for annotation in usual["annotations"]:
        annotation |= {"selection_confidence": annotation.pop("confidence"), "iscrowd": 1}
    assert content == usual
    assert {image["file_name"] for image in content["images"]} == set(
        os.listdir(tmp_path / "out" / "data")
    )
    assert store.import_labels(tmp_path / "out") == Reviewed(2, 4, 0)


def test_the_folder_of_a_tool_has_one_coco_file(store: Store, tmp_path: Path) -> None:
    store.export(tmp_path / "out")
    folder = tmp_path / "out" / "annotations"
    folder.mkdir()
    (tmp_path / "out" / "annotations.json").rename(folder / "instances_default.json")
    assert store.import_labels(tmp_path / "out") == Reviewed(2, 4, 0)
    (tmp_path / "out" / "more.json").write_text("{}")
    with pytest.raises(GboptError, match=r"there are: instances_default\.json, more\.json; name"):
        store.import_labels(tmp_path / "out")


@pytest.mark.parametrize("layout", ["coco", "yolo"])
def test_an_unchanged_export_verifies_every_mask(store: Store, tmp_path: Path, layout: str) -> None:
    store.export(tmp_path / "out", layout)
    if layout == "yolo":  # whatever a tool does not give back
        (tmp_path / "out" / "annotations.json").unlink()
    assert store.import_labels(tmp_path / "out") == Reviewed(2, 4, 0)
    first, second, third = frames_of(store)
    assert same(first, *((mask, 1) for mask in blobs(0)))
    # Frame 1 has the image of frame 2, and so its masks; its own first one was elsewhere.
    assert same(second, *((mask, 1) for mask in blobs(2))) and same(second, *third)
    with store.training_set() as training_set:
        masks = training_set.frames()[0].masks
    assert masks[0] == StoredMask(encode(blobs(0)[0]), 0.9, 0.7, Verdict.VERIFIED, 5)


def tool_file(content: dict[str, Any], path: Path) -> Path:
    """Frame 0 as CVAT gives it back: a brush makes run lengths with `iscrowd`; ids begin anew."""
    image = content["images"][0]
    columns = blobs(0)[0].T.ravel()  # COCO's order
    counts = [len(list(run)) for _, run in groupby(columns)]
    tool = {
        "info": {"contributor": "CVAT", "year": None}, "licenses": [{"id": 0, "name": ""}],
        "categories": [{"id": 7, "name": "thing", "supercategory": ""}],
        "images": [
            {"id": 900, "width": 32, "height": 24, "file_name": f"j/d4f9c2a1-{image['file_name']}",
             "license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0},
            {"id": 901, "width": 9, "height": 9, "file_name": "../../etc/passwd"},
        ],
        "annotations": [
            {"id": 31, "image_id": 900, "category_id": 7, "iscrowd": 1, "area": 91.0,
             "segmentation": {"counts": counts, "size": [24, 32]}, "bbox": [3.0, 2.0, 10.0, 10.0],
             "attributes": {"occluded": False, "rotation": 0.0}},
            {"id": 30, "image_id": 900, "category_id": 7, "iscrowd": 0, "area": 30.0,
             "segmentation": [[20.0, 14.0, 26.0, 14.0, 26.0, 20.0, 20.0, 20.0],
                              [28.0, 2.0, 31.0, 2.0, 31.0, 4.0, 28.0, 4.0]],
             "bbox": [20.0, 2.0, 11.0, 18.0], "attributes": {}},
        ],
    }  # fmt: skip
    path.write_text(json.dumps(tool))
    return path


def test_labels_of_a_tool_replace_the_masks_of_the_images_that_they_cover(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.export(tmp_path / "out")
    labels = tool_file(coco_of(tmp_path / "out"), tmp_path / "instances_default.json")
    assert main(["import", str(store.root), str(labels)]) == 0
    told = capsys.readouterr()
    assert "2 masks verified and 0 rejected in 1 images" in told.out
    assert "1 images are not in the training set and left out, such as ../../etc/passwd" in told.err
    drawn = np.zeros(SIZE, bool)
    drawn[14:20, 20:26] = drawn[2:4, 28:31] = True
    first, second, _ = frames_of(store)
    # The second label covers half of the mask that was there: it is the same thing, changed.
    assert same(first, (drawn, 1), (blobs(0)[0], 1))
    assert same(second, *((mask, 0) for mask in blobs(1)))


def test_labels_are_read_while_a_robot_writes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading may take longer than the learner can wait; a frame leaves and a mask comes."""
    store.export(tmp_path / "out")
    late = np.zeros(SIZE, bool)
    late[:, 28:] = True

    def read(*arguments: Any) -> Labels:
        with store.training_set() as training_set:
            training_set._catalogue.execute("PRAGMA busy_timeout=0")
            training_set._catalogue.execute("DELETE FROM frames WHERE frame_index = 0")
            training_set._catalogue.execute(
                "INSERT INTO instances (frame, counts, score, confidence) "
                "SELECT id, ?, 0.5, 0.5 FROM frames WHERE frame_index = 2",
                (encode(late)["counts"],),
            )
        return read_labels(*arguments)

    monkeypatch.setattr(stores, "read_labels", read)
    assert store.import_labels(tmp_path / "out") == Reviewed(1, 2, 1)
    assert [[v for _, v in frame] for frame in frames_of(store)] == [[1, 1], [1, 1, -1]]


def test_removed_masks_are_rejected(store: Store, tmp_path: Path) -> None:
    store.export(tmp_path / "out", "yolo")
    first, second = sorted((tmp_path / "out" / "labels").iterdir())
    first.write_text(first.read_text().splitlines()[1])  # the ring is removed
    second.unlink()  # nobody looked at this one
    assert store.import_labels(tmp_path / "out") == Reviewed(1, 1, 1)
    assert same(frames_of(store)[0], (blobs(0)[1], 1), (blobs(0)[0], -1))
    first.write_text("")
    assert store.import_labels(tmp_path / "out") == Reviewed(1, 0, 2)
    with store.training_set() as training_set:
        first_frame = training_set.labelled_images().entries[0]
    assert (first_frame.rles, len(first_frame.rejected)) == ((), 2)


def _scaled(content: dict[str, Any]) -> None:
    content["images"][1].update(height=48, width=64)
    for annotation in content["annotations"][2:]:
        annotation["segmentation"] = [[2, 2, 9, 2, 9, 9]]


def _twice(content: dict[str, Any]) -> None:
    content["images"].append({**content["images"][1], "id": 99})


def _malformed(content: dict[str, Any]) -> None:
    content["annotations"][3]["segmentation"]["counts"] = "zz"


def _box_alone(content: dict[str, Any]) -> None:
    content["annotations"][3]["segmentation"] = []


def _renamed(content: dict[str, Any]) -> None:
    for image in content["images"]:
        image["file_name"] = image["file_name"][:20] + ".png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_scaled, "48x64 .height x width., expected 24x32"),
        (_twice, "two entries for"),
        (_malformed, "bad segmentation"),
        (_box_alone, "expected a polygon of three points"),
        (_renamed, "none of its 2 images is in the training set"),
    ],
)
def test_bad_labels_change_nothing(
    store: Store, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    store.export(tmp_path / "out")
    content, before = coco_of(tmp_path / "out"), str(frames_of(store))
    change(content)
    (tmp_path / "out" / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(GboptError, match=message):
        store.import_labels(tmp_path / "out")
    assert str(frames_of(store)) == before


def test_labels_of_a_replay_find_their_images_in_the_store(tmp_path: Path) -> None:
    replay = tmp_path / "monday"
    (replay / "frames").mkdir(parents=True)
    cv2.imwrite(str(replay / "frames" / "000000.png"), np.full((*SIZE, 3), 90, np.uint8))
    image = {"id": 1, "file_name": "000000.png", "height": 24, "width": 32, "frame_index": 0,
             "stamp_ns": 5, "clip_id": 0, "model_version": "v0001"}  # fmt: skip
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "score": 0.5, "confidence": 0.25,
                  "segmentation": encode(blobs(0)[0]), "track_id": 12}  # fmt: skip
    content = {"info": {"recording": "bag"}, "images": [image], "annotations": [annotation]}
    (replay / "selected.json").write_text(json.dumps(content))
    assert main(["export", str(replay), "--format", "yolo", "--out", str(tmp_path / "out")]) == 0
    entry = coco_of(tmp_path / "out")["annotations"][0]
    assert (entry["track_id"], entry["confidence"], entry["score"]) == (12, 0.25, 0.5)
    store = Store(tmp_path / "store")
    store.add(replay)
    assert store.import_labels(tmp_path / "out") == Reviewed(1, 1, 0)
    with store.training_set() as training_set:
        (frame,) = training_set.frames()
    assert (frame.masks[0].track_id, frame.is_judged) == (12, True)


def test_read_labels_of_a_folder_without_labels(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match=r"annotations\.json"):
        read_labels(tmp_path, {})
