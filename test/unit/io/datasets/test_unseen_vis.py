"""Unseen-VIS out of a synthetic YouTube-VIS: counts, classes, no leak, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gbopt_ros.cli.main import main
from gbopt_ros.io.datasets.coco import CocoDataset, load_coco, load_coco_dir
from gbopt_ros.io.datasets.unseen_vis import (
    SEEN,
    UNSEEN,
    UnseenVisConfig,
    build_unseen_vis,
    class_name,
    split_videos,
)
from gbopt_ros.io.datasets.youtube_vis import load_youtube_vis
from gbopt_ros.io.sources import open_source
from gbopt_ros.structures import GboptError

HEIGHT, WIDTH, FRAMES = 12, 16, 3
# One video of each unseen class, two mixed ones, one of seen classes, one with no object at all.
VIDEOS: list[tuple[str, list[str]]] = [
    *((f"u{i:02d}", [name]) for i, name in enumerate(UNSEEN)),
    ("u99", ["fox", "fox", "deer"]),
    ("m0", ["fish", "person"]),
    ("m1", ["dog", "snake"]),
    ("s0", ["horse"]),
    ("e0", []),
]
CONFIG = UnseenVisConfig(train_videos=10, test_videos=5)


def runs(column: int) -> dict[str, Any]:
    """A full column of the image."""
    return {
        "size": [HEIGHT, WIDTH],
        "counts": [column * HEIGHT, HEIGHT, (WIDTH - 1 - column) * HEIGHT],
    }


def youtube_vis(
    folder: Path,
    videos: Sequence[tuple[str, list[str]]] = VIDEOS,
    step: int = 5,
    frames: int = FRAMES,
) -> Path:
    """Object k of a video is column k of each frame; the first is gone from the third frame."""
    categories = [*SEEN, *UNSEEN]
    content: dict[str, Any] = {
        "videos": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(categories, 1)],
        "annotations": [],
    }
    for number, (name, classes) in enumerate(videos, 1):
        names = [f"{name}/{t * step:05d}.jpg" for t in range(frames)]
        content["videos"].append(
            {"id": number, "height": HEIGHT, "width": WIDTH, "file_names": names}
        )
        for k, kind in enumerate(classes):
            masks = [None if k == 0 and t == FRAMES - 1 else runs(k) for t in range(frames)]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1, "video_id": number,
                    "category_id": categories.index(kind) + 1, "segmentations": masks,
                }
            )  # fmt: skip
        (folder / "JPEGImages" / name).mkdir(parents=True)
        for file_name in names:
            write_frame(folder / "JPEGImages" / file_name, number % 256)
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def write_frame(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), grey, np.uint8))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return youtube_vis(tmp_path / "source")


def names_of(split: CocoDataset) -> set[str]:
    return {image.extra["video"] for image in split.images}


def test_unseen_vis_has_the_classes_of_the_paper() -> None:
    assert (len(UNSEEN), len(SEEN), len({*UNSEEN, *SEEN})) == (16, 24, 40)
    paper = "panda lizard seal shark mouse frog tiger leopard fox deer ape snake monkey rabbit fish"
    assert {class_name(name) for name in f"{paper} turtle".split()} == set(UNSEEN)
    assert class_name("earless seal") == "earless_seal"
    assert (UnseenVisConfig().train_videos, UnseenVisConfig().test_videos) == (595, 200)


def test_build_unseen_vis_counts_and_disjoint_splits(source: Path, tmp_path: Path) -> None:
    manifest = build_unseen_vis(source, tmp_path / "out", CONFIG)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    splits = {name: load_coco_dir(tmp_path / "out" / name) for name in ("train", "test")}
    for name, split in splits.items():
        told = manifest["splits"][name]
        assert names_of(split) <= set(told["video_names"])
        assert told["annotated_frames"] == FRAMES * told["videos"]
        assert told["labelled_images"] == len(split)
        assert told["instances"] == sum(len(rles) for rles in split.rles_by_image.values())
        assert not any(split.crowd_by_image.values())
    assert [len(manifest["splits"][name]["video_names"]) for name in ("train", "test")] == [10, 5]
    videos = {name: set(manifest["splits"][name]["video_names"]) for name in splits}
    assert not videos["train"] & videos["test"]
    assert not {i.id for i in splits["train"].images} & {i.id for i in splits["test"].images}
    unseen = {name for name, _ in VIDEOS if name.startswith("u")}
    assert videos["train"] | videos["test"] | set(manifest["unused_videos"]) == unseen
    assert len(manifest["unused_videos"]) == 2
    assert manifest["source"]["videos_by_kind"] == {
        "mixed": 2, "seen or none": 2, "unseen": 17
    }  # fmt: skip
    assert (manifest["seed"], manifest["annotated_frame_step"]) == (0, 5)


def test_build_unseen_vis_has_the_numbers_of_the_paper(tmp_path: Path) -> None:
    videos = [(f"v{i:03d}", [UNSEEN[i % 16]]) for i in range(800)]
    videos += [(f"w{i:03d}", [SEEN[i % 24]]) for i in range(50)]
    source = youtube_vis(tmp_path / "source", videos, frames=1)
    manifest = build_unseen_vis(source, tmp_path / "out", UnseenVisConfig())
    train, test = (set(manifest["splits"][name]["video_names"]) for name in ("train", "test"))
    assert (len(train), len(test), len(train | test)) == (595, 200, 795)
    assert (train | test).isdisjoint(manifest["unused_videos"])
    assert len(manifest["unused_videos"]) == 5
    for name, expected in (("train", train), ("test", test)):
        split = load_coco_dir(tmp_path / "out" / name)
        assert names_of(split) == expected
        assert {p.name for p in (tmp_path / "out" / name / "images").iterdir()} == expected


def test_build_unseen_vis_keeps_the_labels_of_the_source(source: Path, tmp_path: Path) -> None:
    manifest = build_unseen_vis(source, tmp_path / "out", UnseenVisConfig(16, 1))
    train = load_coco_dir(tmp_path / "out" / "train")
    objects = dict(VIDEOS)
    for image in train.images:
        kinds = objects[image.extra["video"]]
        expected = len(kinds) - (image.extra["frame_index"] == FRAMES - 1)
        assert len(train.rles_by_image[image.id]) == expected > 0
        number = [name for name, _ in VIDEOS].index(image.extra["video"]) + 1
        assert abs(int(train.load_image(image)[0, 0, 0]) - number) <= 1
    # The object of a video with one object is gone from the last of its three frames.
    many = "u99" in names_of(train)
    assert manifest["splits"]["train"]["labelled_images"] == 16 * 2 + many
    assert manifest["splits"]["train"]["instances"] == (15 * 2 + 8 if many else 16 * 2)
    assert manifest["splits"]["train"]["objects"] == 16 + 2 * many
    both = [manifest["splits"][name]["videos_by_class"] for name in ("train", "test")]
    assert {k: sum(b.get(k, 0) for b in both) for k in UNSEEN} == {
        name: 2 if name in ("fox", "deer") else 1 for name in UNSEEN
    }


def test_build_unseen_vis_gives_recordings_to_replay_and_stills_to_evaluate(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["dataset", "unseen-vis", str(source), "--out", str(out),
                 "--train-videos", "10", "--test-videos", "5"]) == 0  # fmt: skip
    assert "10 videos" in capsys.readouterr().out
    recordings = sorted((out / "train" / "images").iterdir())
    assert len(recordings) == 10
    assert open_source(recordings[0]).count == FRAMES
    assert open_source(recordings[0]).name == recordings[0].name
    gt = load_coco(out / "test" / "annotations.json")
    perfect = [
        {"image_id": key, "segmentation": rle, "score": 1.0}
        for key, rles in gt.rles_by_image.items()
        for rle in rles
    ]
    (tmp_path / "r.json").write_text(json.dumps(perfect))
    command = ["evaluate", "--gt", str(out / "test" / "annotations.json")]
    assert main([*command, "--results", str(tmp_path / "r.json")]) == 0
    _, row = capsys.readouterr().out.splitlines()[:2]
    assert row.split()[:2] == ["r", "100.0"]


def test_split_videos_depends_on_seed_and_names_alone(source: Path) -> None:
    videos = [v for v in load_youtube_vis(source).videos if v.name.startswith("u")]
    split = split_videos(videos, CONFIG)
    assert split_videos(videos[::-1], CONFIG) == split
    assert split_videos(videos, UnseenVisConfig(10, 5, seed=1)) != split
    assert [v.name for v in split["test"]] == ["u00", "u03", "u04", "u06", "u12"]


def test_build_unseen_vis_turns_seen_objects_of_mixed_videos_into_ignore_regions(
    source: Path, tmp_path: Path
) -> None:
    build_unseen_vis(source, tmp_path / "out", UnseenVisConfig(18, 1, mixed=True))
    splits = [load_coco_dir(tmp_path / "out" / name) for name in ("train", "test")]
    found = {
        (image.extra["video"], image.extra["frame_index"]): (
            len(split.rles_by_image[image.id]),
            len(split.crowd_by_image.get(image.id, ())),
        )
        for split in splits
        for image in split.images
    }
    # The fish of m0 is gone from the last frame, which is left out; the dog of m1 is.
    assert {key: n for key, n in found.items() if key[0] == "m0"} == {
        ("m0", 0): (1, 1), ("m0", 1): (1, 1)
    }  # fmt: skip
    assert [found["m1", t] for t in range(FRAMES)] == [(1, 1), (1, 1), (1, 0)]


def test_build_unseen_vis_with_all_frames_for_training(source: Path, tmp_path: Path) -> None:
    every = tmp_path / "all"
    for name, _ in VIDEOS:
        for t in range(11):
            write_frame(every / name / f"{t:05d}.jpg", t)
    config = UnseenVisConfig(10, 5, all_frames=every)
    build_unseen_vis(source, tmp_path / "out", config)
    train = load_coco_dir(tmp_path / "out" / "train")
    assert {image.extra["frame_index"] for image in train.images} <= {0, 5, 10}
    video = tmp_path / "out" / "train" / "images" / train.images[0].extra["video"]
    assert open_source(video).count == 11
    test = load_coco_dir(tmp_path / "out" / "test")
    assert open_source(tmp_path / "out/test/images" / test.images[0].extra["video"]).count == FRAMES


@pytest.mark.parametrize("copy", [False, True])
def test_build_unseen_vis_links_or_copies_images(source: Path, tmp_path: Path, copy: bool) -> None:
    build_unseen_vis(source, tmp_path / "out", UnseenVisConfig(10, 5, copy=copy))
    for video in (tmp_path / "out").glob("t*/images/*"):
        assert video.is_symlink() != copy
        assert len(list(video.iterdir())) == FRAMES


def test_build_unseen_vis_warns_of_an_unusual_frame_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = youtube_vis(tmp_path / "source", step=1)
    assert build_unseen_vis(source, tmp_path / "out", CONFIG)["annotated_frame_step"] == 1
    assert "one frame in 1 is annotated" in caplog.text


def renamed(source: Path, old: str, new: str) -> None:
    path = source / "instances.json"
    path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))


def failure(source: Path, tmp_path: Path, config: UnseenVisConfig = CONFIG) -> str:
    """What a build says; nothing may be left of it."""
    out = tmp_path / "made" / "out"
    with pytest.raises(GboptError) as caught:
        build_unseen_vis(source, out, config)
    assert not out.exists() and not list((tmp_path / "made").glob("*"))
    return str(caught.value)


def test_build_unseen_vis_leaves_nothing_after_a_failure(source: Path, tmp_path: Path) -> None:
    assert "17 videos show unseen classes and no seen class, 795 are needed" in failure(
        source, tmp_path, UnseenVisConfig()
    )
    assert "19 videos show unseen classes at all, 795" in failure(
        source, tmp_path, UnseenVisConfig(mixed=True)
    )
    assert "train_all/u" in failure(
        source, tmp_path, UnseenVisConfig(10, 5, all_frames=tmp_path / "train_all")
    )
    assert "no such folder" in failure(tmp_path / "nowhere", tmp_path)
    (source / "JPEGImages/u03/00005.jpg").unlink()
    (source / "JPEGImages/u03/00010.jpg").unlink()
    text = failure(source, tmp_path, UnseenVisConfig(16, 1))
    assert "u03/00005.jpg: no such frame; 2 of the 48 annotated frames are missing" in text
    renamed(source, "fox", "whale")
    assert "unknown category whale; Unseen-VIS is defined on the 40" in failure(source, tmp_path)
    renamed(source, "whale", "person2")
    renamed(source, "person2", "parrot2")
    assert "unknown category parrot2" in failure(source, tmp_path)
    (source / "instances.json").unlink()
    assert "none of instances.json" in failure(source, tmp_path)
    with pytest.raises(GboptError, match="train_videos: expected at least 1, got 0"):
        UnseenVisConfig(train_videos=0)


def test_build_unseen_vis_refuses_an_undeclared_class(source: Path, tmp_path: Path) -> None:
    path = source / "instances.json"
    content = json.loads(path.read_text())
    content["categories"] = [c for c in content["categories"] if c["name"] != "ape"]
    ape = next(n for n, (_, kinds) in enumerate(VIDEOS, 1) if kinds == ["ape"])
    content["annotations"] = [a for a in content["annotations"] if a["video_id"] != ape]
    path.write_text(json.dumps(content))
    assert "declares no category ape" in failure(source, tmp_path)


def test_build_unseen_vis_keeps_an_existing_output(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(GboptError, match="exists already; remove it, or write elsewhere"):
        build_unseen_vis(source, tmp_path / "out", CONFIG)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    with pytest.raises(GboptError, match="cannot be written"):
        build_unseen_vis(source, tmp_path / "out" / "mine" / "below", CONFIG)
