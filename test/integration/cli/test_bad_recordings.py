"""`gbopt` on recordings with bad frames or none, and on a disk that is full."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.networks import SIDE, save_random_weights
from support.recordings import (
    PERIOD_NS,
    compressed_message,
    disc_frames,
    image_message,
    noise_frames,
    string_message,
    write_images,
    write_messages,
)

from gbopt_ros import pipeline
from gbopt_ros.cli.main import main
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.io.sources import open_source
from gbopt_ros.io.sources.images import COMPRESSED_TYPE, IMAGE_TYPE, encode_image
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.masks import decode
from gbopt_ros.models.weights import BACKGROUND, PROPOSALS
from gbopt_ros.structures import Frame

TOPIC = "/camera/image_raw"
SMALL = (SIDE, SIDE)  # (height, width)
WIDE, NARROW = (96, 128), (96, 96)
ADVICE = "free some space or choose another output folder"
FULL = Path("/dev/full")  # the kernel answers every write to it with ENOSPC

needs_full = pytest.mark.skipif(not FULL.is_char_device(), reason=f"this system has no {FULL}")


@pytest.fixture(scope="module", autouse=True)
def networks_are_loaded_once(small_networks: None) -> Iterator[None]:
    """Loading takes longer than running on a few small images."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("load_proposal_network", "load_background_network"):
            patch.setattr(pipeline, name, lru_cache(getattr(pipeline, name)))
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "disc"
    write_rosbag(disc_frames(3), path, topic=TOPIC)
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """An empty folder that outputs go into."""
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def replay(source: Path, out: Path, weights: dict[str, Path], *extra: str, length: int = 4) -> int:
    return main(
        [
            "replay", str(source), "--out", str(out), "--weights", str(weights[PROPOSALS]),
            "--set", f"background.weights={weights[BACKGROUND]}",
            "--set", f"clip.length={length}", "--set", "selection.k=3",
            "--set", "proposal.max_proposals=8",
            "--set", "selection.detect_cuts=false",  # random masks would all be cuts
            *extra,
        ]
    )  # fmt: skip


def summary(capfd: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """What a replay printed, and what it said on stderr."""
    captured = capfd.readouterr()
    return json.loads(captured.out), captured.err


def failure(capfd: pytest.CaptureFixture[str]) -> str:
    """The error that a command ended with: one line, the last, and nothing on stdout."""
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert captured.err.count("gbopt: error: ") == 1
    return captured.err.splitlines()[-1].removeprefix("gbopt: error: ")


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --------------------------------------------------------------------------------------- bad frames


def bag_with_a_cut_jpeg(path: Path) -> None:
    data = [encode_image(frame.image, "jpeg").tobytes() for frame in noise_frames(5, SMALL)]
    data[2] = data[2][: len(data[2]) // 2]
    stamps = [10**9 + i * PERIOD_NS for i in range(5)]
    messages = [
        (ns, compressed_message(jpeg, "jpeg", ns)) for ns, jpeg in zip(stamps, data, strict=True)
    ]
    write_messages(path, {TOPIC: (COMPRESSED_TYPE, messages)})


def bag_with_a_short_message(path: Path) -> None:
    messages = [(f.stamp_ns, image_message(f.image, "rgb8", f.stamp_ns)) for f in noise_frames(5)]
    messages[2][1].data = messages[2][1].data[:-1]
    write_messages(path, {TOPIC: (IMAGE_TYPE, messages)})


def folder_with_an_empty_file(path: Path) -> None:
    write_images(path, noise_frames(5, SMALL))
    (path / "2.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (bag_with_a_cut_jpeg, "the JPEG is cut off"),
        (bag_with_a_short_message, "bytes of data: expected a step of at least"),
        (folder_with_an_empty_file, "2.png: the image is empty (0 bytes)"),
    ],
)
def test_replay_skips_and_counts_an_undecodable_frame(
    record: Callable[[Path], None],
    reason: str,
    weights: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    record(tmp_path / "recording")
    out = tmp_path / "out"
    assert replay(tmp_path / "recording", out, weights) == 0
    printed, log = summary(capfd)
    assert (printed["frames"], printed["skipped"]) == (4, 1)
    (warning,) = (line for line in log.splitlines() if "skipped:" in line)
    assert "frame 2 (stamp " in warning
    assert reason in warning
    run = json.loads((out / "run.json").read_text())
    assert run["skipped_frames"] == 1
    assert run["counts"]["frames"] == 4
    content = json.loads((out / "selected.json").read_text())
    assert [image["frame_index"] for image in content["images"]] == [0, 1, 3, 4]
    assert [image["clip_id"] for image in content["images"]] == [0] * 4  # the hole cuts no clip
    names = [f"{index:06d}.jpg" for index in (0, 1, 3, 4)]
    assert sorted(path.name for path in (out / "frames").iterdir()) == names


def test_replay_refuses_a_recording_of_undecodable_frames(
    weights: dict[str, Path], tmp_path: Path, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    messages = [(i + 1, compressed_message(b"no image", "jpeg", i + 1)) for i in range(3)]
    write_messages(tmp_path / "bag", {TOPIC: (COMPRESSED_TYPE, messages)})
    assert replay(tmp_path / "bag", results / "out", weights) == 1
    assert "none of 3 images can be decoded; frame 0: the 8 bytes are no" in failure(capfd)
    assert left_in(results) == []


# ------------------------------------------------------------------------------------ changing size


def two_sizes() -> list[Frame]:
    """Three frames of one size and two of another, at one rate."""
    frames = disc_frames(5)
    cut = [replace(frame, image=frame.image[:, : NARROW[1]].copy()) for frame in frames[3:]]
    return frames[:3] + cut


@pytest.mark.parametrize(("kind", "overlap"), [("bag", 0), ("folder", 1)])
def test_replay_starts_a_clip_at_another_size(
    kind: str,
    overlap: int,
    weights: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    recording, out = tmp_path / "recording", tmp_path / "out"
    if kind == "bag":
        write_rosbag(two_sizes(), recording, topic=TOPIC)
    else:
        write_images(recording, two_sizes())
    assert replay(recording, out, weights, "--set", f"clip.overlap={overlap}") == 0
    assert summary(capfd)[0]["frames"] == 5
    content = json.loads((out / "selected.json").read_text())
    got = [(i["clip_id"], i["height"], i["width"]) for i in content["images"]]
    assert got == [(0, *WIDE)] * 3 + [(1, *NARROW)] * 2
    frames = [frame.size for frame in open_source(out / "frames")]
    assert frames == [WIDE] * 3 + [NARROW] * 2
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    assert {sizes[a["image_id"]] for a in content["annotations"]} == {WIDE, NARROW}
    for annotation in content["annotations"]:
        assert decode(annotation["segmentation"]).shape == sizes[annotation["image_id"]]
    run = json.loads((out / "run.json").read_text())
    assert [(c["clip_id"], c["frames"]) for c in run["clips"]] == [(0, 3), (1, 2)]
    assert run["skipped_frames"] == 0
    # The video keeps the size that it began with.
    assert [frame.size for frame in open_source(out / "overlay.mp4")] == [WIDE] * 5


# ----------------------------------------------------------------------------- nothing to replay


def silent(path: Path) -> None:
    write_messages(path, {TOPIC: (IMAGE_TYPE, [])})


def chatter_beside(path: Path) -> None:
    frames = {TOPIC: (IMAGE_TYPE, [(1, image_message(np.zeros((*SMALL, 3), np.uint8), "rgb8", 1))])}
    write_messages(path, frames | {"/chatter": ("std_msgs/msg/String", [(2, string_message("x"))])})


def encodings(first: int, then: str) -> Callable[[Path], None]:
    """A bag of four frames, of which those after the `first` ones have another encoding."""

    def record(path: Path) -> None:
        messages = [
            (f.stamp_ns, image_message(f.image, "rgb8" if f.index < first else then, f.stamp_ns))
            for f in noise_frames(4, SMALL)
        ]
        write_messages(path, {TOPIC: (IMAGE_TYPE, messages)})

    return record


@pytest.mark.parametrize(
    ("record", "extra", "words"),
    [
        (silent, [], "recording: empty, it holds no image"),
        (
            chatter_beside,
            ["--topic", "/chatter"],
            f"topic /chatter is of type std_msgs/msg/String, expected {IMAGE_TYPE} or "
            f"{COMPRESSED_TYPE}; image topics are: {TOPIC} ({IMAGE_TYPE}, 1 messages)",
        ),
        (encodings(0, "hsv8"), [], "unknown image encoding 'hsv8': supported are mono8,"),
        (encodings(0, "16UC1"), [], "'16UC1' is depth, not colour: name a colour image topic"),
        # A whole clip is on disk by then.
        (encodings(3, "hsv8"), [], "unknown image encoding 'hsv8': supported are mono8,"),
    ],
    ids=["silent", "no-images", "unknown-encoding", "depth", "encoding-changes"],
)
def test_replay_refuses_a_bag_without_usable_images(
    record: Callable[[Path], None],
    extra: list[str],
    words: str,
    weights: dict[str, Path],
    tmp_path: Path,
    results: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    record(tmp_path / "recording")
    assert replay(tmp_path / "recording", results / "out", weights, *extra, length=2) == 1
    assert words in failure(capfd)
    assert left_in(results) == []


# ---------------------------------------------------------------------------------------- full disk


def fill_disk(monkeypatch: pytest.MonkeyPatch, matches: Callable[[Path], bool]) -> list[Path]:
    """Let every write to the matching files fail as on a full disk; returns those opened.

    A file appears under its name and stays empty, which is what a full disk leaves. It is no link
    to `FULL`: who reads that gets zeros without end, and copying them would fill the real disk.
    """
    opened: list[Path] = []
    path_open = Path.open

    def open_full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = path_open(path, mode, *args, **kwargs)
        if not set(mode) & set("wxa") or not matches(path):
            return file
        file.close()
        opened.append(path)
        return path_open(FULL, mode.replace("x", "w"), *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_full)
    return opened


def fill_database(monkeypatch: pytest.MonkeyPatch, pages: int) -> None:
    """SQLite may write this many pages to a new file, then finds the disk full."""
    connect = sqlite3.connect

    def connect_full(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.execute(f"PRAGMA max_page_count={pages}")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_full)


@needs_full
@pytest.mark.parametrize(
    "name",
    ["000002.jpg", "images.part", "annotations.part", "selected.json", "run.json"],
)
def test_replay_on_a_full_disk(
    name: str,
    bag: Path,
    weights: dict[str, Path],
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    opened = fill_disk(monkeypatch, lambda path: path.name == name)
    out = results / "out"
    assert replay(bag, out, weights, length=2) == 1
    assert [path.name for path in opened] == [name]
    assert failure(capfd) == f"{out}: cannot be written: No space left on device; {ADVICE}"
    assert left_in(results) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("overlay.mp4", "/overlay.mp4: cannot be written: No space left on device"),
        ("out", ": cannot be written: No space left on device"),
    ],
)
def test_replay_on_a_full_disk_while_a_file_gets_its_name(
    name: str,
    words: str,
    bag: Path,
    weights: dict[str, Path],
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A folder has to grow for a new name, too."""
    rename = os.replace

    def rename_full(source: Path, target: Path) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device", source, None, target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", rename_full)
    assert replay(bag, results / "out", weights) == 1
    assert failure(capfd) == f"{results / 'out'}{words}; {ADVICE}"
    assert left_in(results) == []


@needs_full
@pytest.mark.parametrize("size", [(4, 4), (256, 256)], ids=["at-closing", "while-writing"])
@pytest.mark.parametrize("name", ["out.mcap", "metadata.yaml.tmp"])
def test_bag_on_a_full_disk(
    name: str,
    size: tuple[int, int],
    tmp_path: Path,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    images = write_images(tmp_path / "images", noise_frames(3, size))
    opened = fill_disk(monkeypatch, lambda path: path.name == name)
    out = results / "new" / "out"
    assert main(["bag", str(images), str(out)]) == 1
    assert [path.name for path in opened] == [name]
    assert failure(capfd) == f"{out}: cannot be written: No space left on device; {ADVICE}"
    assert left_in(results) == []


@pytest.mark.parametrize("pages", [2, 50], ids=["schema", "messages"])
def test_bag_in_sqlite_on_a_full_disk(
    pages: int,
    tmp_path: Path,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    images = write_images(tmp_path / "images", noise_frames(3, (256, 256)))
    fill_database(monkeypatch, pages)
    out = results / "out"
    assert main(["bag", str(images), str(out), "--storage", "sqlite3"]) == 1
    assert failure(capfd) == f"{out}: cannot be written: database or disk is full; {ADVICE}"
    assert left_in(results) == []


@pytest.fixture(scope="module")
def replayed(bag: Path, weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("replays") / "disc"
    assert replay(bag, out, weights) == 0
    return out


def learn(replayed: Path, store: Path, weights: dict[str, Path]) -> int:
    return main(
        [
            "learn", str(replayed), "--out", str(store), "--weights", str(weights[PROPOSALS]),
            "--set", "learning.iterations=1", "--set", "learning.batch_size=1",
            "--set", "learning.gate_agreement=0",  # what random weights propose, JPEG changes
        ]
    )  # fmt: skip


def test_learn_forgets_a_recording(
    replayed: Path,
    weights: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = tmp_path / "store"
    assert learn(replayed, store, weights) == 0
    with TrainingSet(store / "training", 10**9) as training_set:
        selected = training_set.labelled_images()
        (name,) = selected.recordings(range(len(selected)))
    capfd.readouterr()
    assert main(["learn", "--out", str(store)]) == 1
    assert "nothing to do" in failure(capfd)
    assert main(["learn", "--out", str(store), "--forget", "another"]) == 1
    assert f"no recording 'another'; there are: {name}" in failure(capfd)
    assert main(["learn", "--out", str(store), "--forget", name]) == 0
    with TrainingSet(store / "training", 10**9) as training_set:
        assert len(training_set) == 0
    assert len(ModelStore(store).versions()) == 1  # nothing was learnt beside


@needs_full
def test_learn_on_a_full_disk_while_frames_enter_the_training_set(
    replayed: Path,
    weights: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store, written = tmp_path / "store", []

    def is_third_image(path: Path) -> bool:
        if path.parent.parent.name == "images":
            written.append(path)
        return len(written) == 3

    with monkeypatch.context() as patch:
        opened = fill_disk(patch, is_third_image)
        assert learn(replayed, store, weights) == 1
    assert len(opened) == 1
    message = failure(capfd)
    assert message.startswith(f"{store / 'training' / 'images'}")
    assert message.endswith(f"cannot be written: No space left on device; {ADVICE}")
    # Of the two images before it nothing is left either: they would fill the disk for good.
    catalogue = ["training", "training/catalogue.sqlite", "training/images"]
    assert left_in(store) == ["lock", *catalogue]
    with TrainingSet(store / "training", 10**9) as training_set:
        assert len(training_set) == 0


@pytest.mark.parametrize(
    ("pages", "what"), [(2, "is unusable"), (20, "failed")], ids=["schema", "frames"]
)
def test_learn_on_a_full_disk_while_the_catalogue_is_written(
    pages: int,
    what: str,
    replayed: Path,
    weights: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    crowded, store = tmp_path / "crowded", tmp_path / "store"
    shutil.copytree(replayed, crowded)
    content = json.loads((crowded / "selected.json").read_text())
    content["annotations"] *= 500
    (crowded / "selected.json").write_text(json.dumps(content))
    with monkeypatch.context() as patch:
        fill_database(patch, pages)
        assert learn(crowded, store, weights) == 1
    assert failure(capfd) == (
        f"{store / 'training'}: training set catalogue {what}: the disk is full; {ADVICE}"
    )
    catalogue = ["training", "training/catalogue.sqlite", "training/images"]
    assert left_in(store) == ["lock", *catalogue]


@needs_full
def test_learn_on_a_full_disk_while_a_version_is_published(
    replayed: Path,
    weights: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = tmp_path / "store"
    fill_disk(monkeypatch, lambda path: path.suffix == ".safetensors")
    assert learn(replayed, store, weights) == 1
    message = failure(capfd)
    assert message.startswith(f"{store / 'models'}")
    assert message.endswith(f"No space left on device; {ADVICE}")
    assert left_in(store / "models") == []
