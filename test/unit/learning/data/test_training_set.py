"""The training set on disk: what enters, what leaves, and what a crash cannot break."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbopt_ros.io.datasets.coco import load_coco
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.learning.data.catalogue import Catalogue
from gbopt_ros.learning.data.training_set import TrainingSet, drop_images
from gbopt_ros.learning.data.verdicts import Verdict
from gbopt_ros.masks import boxes_xyxy, decode_all, encode_all
from gbopt_ros.structures import GboptError

SIZE = (12, 16)
PLENTY = 10**9


def masks(count: int) -> np.ndarray:
    """(count, 12, 16) bool, mask i covers the columns 3 i and 3 i + 1."""
    found = np.zeros((count, *SIZE), bool)
    for i, mask in enumerate(found):
        mask[2:10, 3 * i : 3 * i + 2] = True
    return found


def selected(
    folder: Path, index: int, *, clip: int = 0, instances: int = 2, value: int | None = None,
    recording: str = "cups", confidences: tuple[float, ...] | None = None, version: str = "",
) -> SelectedFrame:  # fmt: skip
    """A frame whose image is all of one grey value; as a BMP, all take equally many bytes."""
    value = 10 * index if value is None else value
    path = folder / f"{recording}-{index}-{value}.bmp"
    cv2.imwrite(str(path), np.full((*SIZE, 3), value, np.uint8))
    return SelectedFrame(
        recording=recording,
        clip_id=clip,
        frame_index=index,
        stamp_ns=1000 + index,
        image_path=path,
        size=SIZE,
        rles=encode_all(masks(instances)),
        scores=tuple(0.9 - 0.1 * i for i in range(instances)),
        confidences=confidences or tuple(0.5 + 0.1 * i for i in range(instances)),
        model_version=version,
    )


@pytest.fixture
def frames_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "set"


def values(training_set: TrainingSet) -> list[int]:
    """The grey values of all images, in order."""
    dataset = training_set.labelled_images()
    return [int(dataset[i].image[0, 0, 0]) for i in range(len(dataset))]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "images").iterdir())


def assert_consistent(folder: Path) -> None:
    """Every named image is there and no other, and every instance has its frame."""
    with sqlite3.connect(folder / "catalogue.sqlite") as database:
        named = {row[0] for row in database.execute("SELECT file_name FROM frames")}
        orphans = database.execute(
            "SELECT count(*) FROM instances WHERE frame NOT IN (SELECT id FROM frames)"
        ).fetchone()[0]
    database.close()
    assert orphans == 0
    assert sorted(named) == files(folder)


# --------------------------------------------------------------------------------- what is stored


def test_add_frames_to_learn_from(folder: Path, frames_dir: Path) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        assert len(training_set) == training_set.instance_count == training_set.bytes == 0
        frames = [selected(frames_dir, 0, instances=3), selected(frames_dir, 1)]
        assert training_set.add(frames) == 2
        assert len(training_set) == 2
        assert training_set.instance_count == 5
        assert training_set.bytes == sum(frame.image_path.stat().st_size for frame in frames)
        dataset = training_set.labelled_images()
        assert len(dataset) == 2
        np.testing.assert_array_equal(dataset[1].image, np.full((*SIZE, 3), 10, np.uint8))
        assert dataset[0].rles == frames[0].rles
        np.testing.assert_array_equal(decode_all(dataset[1].rles, SIZE), masks(2))
    assert_consistent(folder)


def test_add_copies_image_files_unchanged(folder: Path, frames_dir: Path) -> None:
    frame = selected(frames_dir, 0)
    cv2.imwrite(str(frame.image_path), np.full((*SIZE, 3), (30, 20, 10), np.uint8))  # BGR
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([frame])
        assert training_set.labelled_images()[0].image[0, 0].tolist() == [10, 20, 30]
    (name,) = files(folder)
    assert (folder / "images" / name).read_bytes() == frame.image_path.read_bytes()


def test_add_leaves_out_frames_without_instances(folder: Path, frames_dir: Path) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        empty = selected(frames_dir, 1, instances=0)
        assert training_set.add([selected(frames_dir, 0), empty]) == 1
        assert len(training_set) == 1
        assert training_set.add([]) == 0
    assert_consistent(folder)


def test_add_replaces_a_frame_of_the_same_recording_and_index(
    folder: Path, frames_dir: Path
) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, 0), selected(frames_dir, 1)])
        training_set.add([selected(frames_dir, 0, instances=1, value=77)])
        assert values(training_set) == [77, 10]
        assert training_set.instance_count == 3
        training_set.add([selected(frames_dir, 0, recording="blocks", value=5)])
        assert len(training_set) == 3  # the same index of another recording
        assert training_set.add([selected(frames_dir, 0, instances=0)]) == 0
        assert values(training_set) == [5, 10]  # what was selected before is not learnt any more
    assert_consistent(folder)


def test_add_replaces_frames_with_the_same_image(folder: Path, frames_dir: Path) -> None:
    """As a replay of the same recording into another folder adds them."""
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, i, value=i) for i in range(3)])
        again = [
            selected(frames_dir, 0, recording="replay-2", value=0, instances=3),
            selected(frames_dir, 1, recording="replay-2", value=1, instances=0),
        ]
        assert training_set.add(again) == 1
        dataset = training_set.labelled_images()
        assert [entry.recording for entry in dataset.entries] == ["cups", "replay-2"]
        assert values(training_set) == [2, 0]
        assert dataset[1].rles == again[0].rles
    assert_consistent(folder)


def test_remove_a_recording(folder: Path, frames_dir: Path) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, i, recording="bad", value=i) for i in range(2)])
        training_set.add([selected(frames_dir, 0, recording="good", value=7)])
        dataset = training_set.labelled_images()
        assert dataset.instance_count == 6
        assert dataset.recordings([0, 1]) == ["bad"]
        assert dataset.recordings([1, 2]) == ["bad", "good"]
        with pytest.raises(GboptError, match="no recording 'worse'; there are: bad, good"):
            training_set.remove("worse")
        assert training_set.remove("bad") == 2
        assert values(training_set) == [7]
    assert_consistent(folder)


def test_labelled_images_know_who_proposed_their_masks(folder: Path, frames_dir: Path) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        names = "yolo", "v0002", "yolo", ""
        training_set.add([selected(frames_dir, i, version=name) for i, name in enumerate(names)])
        dataset = training_set.labelled_images()
        assert [entry.model_version for entry in dataset.entries] == [*names]
        assert [entry.stamp_ns for entry in dataset.entries] == [1000, 1001, 1002, 1003]
        assert dataset.teachers() == ["v0002", "yolo"]
        training_set.add([selected(frames_dir, 1, version="v0003")])  # a later replay
        assert training_set.labelled_images().teachers() == ["v0003", "yolo"]


def test_training_set_of_an_older_release_is_read_and_extended(
    folder: Path, frames_dir: Path
) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, 0, version="lost")])
    database = sqlite3.connect(folder / "catalogue.sqlite")
    database.execute("ALTER TABLE frames DROP COLUMN model_version")
    database.execute("ALTER TABLE instances DROP COLUMN verdict")
    database.execute("ALTER TABLE instances DROP COLUMN track_id")
    database.close()
    with TrainingSet(folder, PLENTY) as training_set:
        (frame,) = training_set.frames()
        assert {(mask.verdict, mask.track_id) for mask in frame.masks} == {(Verdict.NONE, None)}
        training_set.add([selected(frames_dir, 1, version="yolo")])
        dataset = training_set.labelled_images()
        assert [entry.model_version for entry in dataset.entries] == ["", "yolo"]
        assert dataset.teachers() == ["yolo"]
    assert_consistent(folder)


def test_newest_clips_are_those_that_were_added_last(folder: Path, frames_dir: Path) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        assert training_set.newest_clips(3) == []
        for number, (recording, clip) in enumerate([("b", 0), ("b", 1), ("a", 0), ("a", 1)]):
            places = [(2 * clip + i, 2 * number + i) for i in (0, 1)]
            training_set.add(
                selected(frames_dir, index, clip=clip, recording=recording, value=value)
                for index, value in places
            )
        assert training_set.newest_clips(3) == [("a", 1), ("a", 0), ("b", 1)]
        training_set.add([selected(frames_dir, 9, clip=7, recording="c")])  # a single frame
        training_set.add(selected(frames_dir, i, recording="b", value=i) for i in (0, 1))  # again
        assert training_set.newest_clips(2) == [("b", 0), ("a", 1)]


def test_add_stores_equal_images_once(folder: Path, frames_dir: Path) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, i, value=50) for i in range(3)])
        assert values(training_set) == [50, 50, 50]
        assert len(files(folder)) == 1
        training_set.add([selected(frames_dir, 0, value=60)])
        assert values(training_set) == [60, 50, 50]
    assert_consistent(folder)


def test_training_set_persists(folder: Path, frames_dir: Path) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, i) for i in range(3)])
    with TrainingSet(folder, PLENTY) as training_set:
        assert values(training_set) == [0, 10, 20]
        assert training_set.instance_count == 6


def test_training_set_reader_sees_committed_frames(folder: Path, frames_dir: Path) -> None:
    with TrainingSet(folder, PLENTY) as writer, TrainingSet(folder, PLENTY) as reader:
        mode = sqlite3.connect(folder / "catalogue.sqlite")
        assert mode.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        mode.close()

        def watched() -> Iterator[SelectedFrame]:
            yield selected(frames_dir, 0)
            assert len(reader) == 0  # not committed yet, and the reader does not wait
            yield selected(frames_dir, 1)

        writer.add(watched())
        assert len(reader) == 2


def test_labelled_images_are_consistent_while_another_writes(
    folder: Path, frames_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the set is read, its last frame is replaced; SQLite gives the new one the old id."""
    writers: list[threading.Thread] = []

    def replace_last() -> None:
        with TrainingSet(folder, PLENTY) as writer:
            writer.add([selected(frames_dir, 2, instances=3, value=99)], may_collect=lambda: False)

    def disturbed(self: Catalogue, query: str, values: Any = ()) -> Any:
        if not writers and "FROM frames WHERE" in query.replace("SELECT id FROM frames", ""):
            writers.append(threading.Thread(target=replace_last))
            writers[0].start()
            writers[0].join(0.5)
        return original(self, query, values)

    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, i, instances=1) for i in range(3)])
        original = Catalogue.rows
        monkeypatch.setattr(Catalogue, "rows", disturbed)
        dataset = training_set.labelled_images()
        writers[0].join()
        found = [(int(dataset[i].image[0, 0, 0]), len(dataset[i].rles)) for i in range(3)]
        assert found == [(0, 1), (10, 1), (20, 1)]
        assert values(training_set) == [0, 10, 99]


# --------------------------------------------------------------------------------------- eviction


def test_policy_oldest_evicts_the_oldest_clips(folder: Path, frames_dir: Path) -> None:
    size = selected(frames_dir, 0).image_path.stat().st_size
    with TrainingSet(folder, 5 * size, "oldest") as training_set:
        for clip in range(4):  # clips of two frames; two of them fit
            training_set.add([selected(frames_dir, 2 * clip + i, clip=clip) for i in (0, 1)])
            assert training_set.bytes <= 5 * size
        assert values(training_set) == [40, 50, 60, 70]
        assert training_set.instance_count == 8
    assert_consistent(folder)


def test_what_leaves_a_full_set_is_logged_and_counted(
    folder: Path, frames_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = selected(frames_dir, 0).image_path.stat().st_size
    with TrainingSet(folder, 3 * size, "oldest") as training_set:
        training_set.add([selected(frames_dir, i) for i in (0, 1)])
        assert training_set.evicted == {} and not caplog.records
        training_set.add([selected(frames_dir, i, clip=1, recording="hall") for i in (2, 3)])
        assert training_set.evicted == {"cups": 2}
    (record,) = caplog.records
    assert (
        f"is full (learning.max_bytes {3 * size}): 2 frames leave it: 2 of cups" in record.message
    )
    with TrainingSet(folder, 3 * size, "oldest") as training_set:
        training_set.add([selected(frames_dir, i) for i in (4, 5)])
        assert training_set.evicted == {"cups": 2, "hall": 2}
        training_set.add([selected(frames_dir, i, clip=1) for i in (6, 7)])
        assert training_set.evicted == {"cups": 4, "hall": 2}


def test_max_bytes_0_is_no_limit(folder: Path, frames_dir: Path) -> None:
    with TrainingSet(folder, 0) as training_set:
        training_set.add([selected(frames_dir, i) for i in range(6)])
        assert len(training_set) == 6 and training_set.evicted == {}


def test_policy_oldest_keeps_a_clip_that_was_added_again(folder: Path, frames_dir: Path) -> None:
    size = selected(frames_dir, 0).image_path.stat().st_size
    with TrainingSet(folder, 2 * size, "oldest") as training_set:
        for clip in (0, 1, 0, 2):
            training_set.add([selected(frames_dir, clip, clip=clip)])
        assert values(training_set) == [0, 20]


def test_policy_oldest_separates_clips_of_two_recordings(folder: Path, frames_dir: Path) -> None:
    size = selected(frames_dir, 1).image_path.stat().st_size
    with TrainingSet(folder, 2 * size, "oldest") as training_set:
        for number, recording in enumerate(("a", "b", "c"), start=1):
            training_set.add([selected(frames_dir, 0, recording=recording, value=number)])
        assert values(training_set) == [2, 3]


def test_policy_oldest_refuses_a_clip_that_is_too_large(folder: Path, frames_dir: Path) -> None:
    size = selected(frames_dir, 0).image_path.stat().st_size
    with TrainingSet(folder, size, "oldest") as training_set:
        training_set.add([selected(frames_dir, 0)])
        with pytest.raises(GboptError, match=f"{2 * size} bytes.*{size}.*max_bytes"):
            training_set.add([selected(frames_dir, i, clip=1) for i in (1, 2)])
        assert values(training_set) == [0]
        training_set.collect_garbage()
    assert_consistent(folder)


def test_smaller_max_bytes_holds_from_the_next_addition(folder: Path, frames_dir: Path) -> None:
    size = selected(frames_dir, 0).image_path.stat().st_size
    with TrainingSet(folder, PLENTY, "oldest") as training_set:
        training_set.add([selected(frames_dir, i, clip=i) for i in range(3)])
    with TrainingSet(folder, 2 * size, "oldest") as training_set:
        assert len(training_set) == 3
        training_set.add([selected(frames_dir, 3, clip=3)])
        assert values(training_set) == [20, 30]


def frame_indices(training_set: TrainingSet, path: Path) -> dict[str, list[int]]:
    """The frame indices that each recording has left."""
    training_set.export_coco(path)
    left: dict[str, list[int]] = {}
    for image in load_coco(path).images:
        left.setdefault(image.extra["recording"], []).append(image.extra["frame_index"])
    return {recording: sorted(indices) for recording, indices in left.items()}


def test_policy_balanced_thins_out_the_longest_clip(
    folder: Path, frames_dir: Path, tmp_path: Path
) -> None:
    size = selected(frames_dir, 0).image_path.stat().st_size
    with TrainingSet(folder, 9 * size, "balanced") as training_set:
        training_set.add([selected(frames_dir, i, clip=0) for i in range(5)])
        training_set.add([selected(frames_dir, 10 + i, clip=1) for i in range(4)])
        assert len(training_set) == 9
        training_set.add([selected(frames_dir, 20, clip=2)])  # clip 0 is halved
        assert frame_indices(training_set, tmp_path / "a.json") == {
            "cups": [0, 2, 4, 10, 11, 12, 13, 20]
        }
        training_set.add([selected(frames_dir, 21 + i, clip=2) for i in range(2)])  # clip 1 is
        assert frame_indices(training_set, tmp_path / "b.json") == {
            "cups": [0, 2, 4, 10, 12, 20, 21, 22]
        }
    assert_consistent(folder)


def test_policy_balanced_keeps_every_recording_while_it_can(
    folder: Path, frames_dir: Path, tmp_path: Path
) -> None:
    size = selected(frames_dir, 0).image_path.stat().st_size
    with TrainingSet(folder, 3 * size, "balanced") as training_set:
        training_set.add([selected(frames_dir, i, clip=i, recording="a") for i in range(3)])
        training_set.add([selected(frames_dir, 7, recording="b")])  # one frame a clip: a is halved
        assert frame_indices(training_set, tmp_path / "a.json") == {"a": [0, 2], "b": [7]}
        training_set.add([selected(frames_dir, 8, recording="c")])
        assert frame_indices(training_set, tmp_path / "b.json") == {"a": [0], "b": [7], "c": [8]}
        training_set.add([selected(frames_dir, 9, recording="d")])  # the oldest recording goes
        assert frame_indices(training_set, tmp_path / "c.json") == {"b": [7], "c": [8], "d": [9]}


def test_policy_balanced_refuses_a_frame_that_is_too_large(folder: Path, frames_dir: Path) -> None:
    size = selected(frames_dir, 0).image_path.stat().st_size
    with (
        TrainingSet(folder, size - 1, "balanced") as training_set,
        pytest.raises(GboptError, match=r"one frame alone.*max_bytes"),
    ):
        training_set.add([selected(frames_dir, i) for i in range(3)])


@settings(max_examples=15, deadline=None)
@given(
    budget=st.integers(1, 12),
    clips=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 7)), min_size=2, max_size=7),
    policy=st.sampled_from(["oldest", "balanced"]),
)
def test_policies_never_exceed_max_bytes(
    budget: int, clips: list[tuple[int, int]], policy: str
) -> None:
    """Clips of some recordings arrive one after the other, each frame of as many bytes."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        size = selected(scratch, 0).image_path.stat().st_size
        with TrainingSet(scratch / "set", budget * size, policy) as training_set:
            before: set[str] = set()
            start = 0
            for clip, (recording, length) in enumerate(clips):
                frames = [
                    selected(
                        scratch, start + i, clip=clip, recording=str(recording), value=start + i
                    )
                    for i in range(length)
                ]
                start += length
                if policy == "oldest" and length > budget:
                    with pytest.raises(GboptError, match="one clip alone"):
                        training_set.add(frames)
                    continue
                training_set.add(frames)
                left = frame_indices(training_set, scratch / "set.json")
                assert training_set.bytes == len(training_set) * size <= budget * size
                if policy == "balanced" and not before | {str(recording)} <= set(left):
                    assert {len(indices) for indices in left.values()} == {1}
                before = set(left)


# ---------------------------------------------------------------------------------------- crashes


class Crash(BaseException):
    """Stands in for the end of the process: nothing catches it."""


def test_crash_in_add_between_image_and_transaction(
    folder: Path, frames_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, 0)])
        before = files(folder)

        def crashing() -> Iterator[SelectedFrame]:
            yield selected(frames_dir, 1)
            yield selected(frames_dir, 0, value=99)  # would replace the first
            raise Crash

        with pytest.raises(Crash):
            training_set.add(crashing())
    assert set(before) < set(files(folder))  # images that nothing names
    with TrainingSet(folder, PLENTY) as training_set:
        assert values(training_set) == [0]
        training_set.collect_garbage()
    assert files(folder) == before
    assert_consistent(folder)


def test_crash_in_add_while_an_image_is_written(
    folder: Path, frames_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, 0)])

        def crash(*_: object) -> None:
            raise Crash

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", crash)
            with pytest.raises(Crash):
                training_set.add([selected(frames_dir, 1)])
        training_set.add([selected(frames_dir, 2)])  # the connection goes on
        assert values(training_set) == [0, 20]
    assert_consistent(folder)


def test_add_from_a_failing_source_changes_nothing(folder: Path, frames_dir: Path) -> None:
    def failing() -> Iterator[SelectedFrame]:
        yield selected(frames_dir, 1)
        raise GboptError("frame of the replay output is missing")

    with TrainingSet(folder, PLENTY) as training_set:
        with pytest.raises(GboptError, match="replay output"):
            training_set.add(failing())
        gone = selected(frames_dir, 2)
        gone.image_path.unlink()
        with pytest.raises(GboptError, match=gone.image_path.name):
            training_set.add([selected(frames_dir, 1), gone])
        assert len(training_set) == 0
        training_set.add([selected(frames_dir, 0)])
    assert_consistent(folder)


def test_collect_garbage_waits_for_another_writer(folder: Path, frames_dir: Path) -> None:
    """Images that another process has written but not committed yet are no garbage."""
    with TrainingSet(folder, PLENTY) as first, TrainingSet(folder, PLENTY) as second:
        second._catalogue.execute("PRAGMA busy_timeout=10")  # milliseconds

        def watched() -> Iterator[SelectedFrame]:
            yield selected(frames_dir, 0)
            with pytest.raises(GboptError, match="locked"):
                second.collect_garbage()
            assert len(files(folder)) == 1

        first.add(watched())
        second.collect_garbage()
        assert values(second) == [0]


# ----------------------------------------------------------------------------------------- export


def test_export_coco_gives_the_same_set(folder: Path, frames_dir: Path, tmp_path: Path) -> None:
    frames = [
        selected(frames_dir, 4, clip=2, instances=1, version="v0001"),
        selected(frames_dir, 7, clip=3),
    ]
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add(frames)
        training_set.export_coco(tmp_path / "export.json")
    dataset = load_coco(tmp_path / "export.json", folder / "images")
    names = "recording", "clip_id", "frame_index", "stamp_ns", "model_version"
    assert [image.extra for image in dataset.images] == [
        dict(zip(names, ("cups", 2, 4, 1004, "v0001"), strict=True)),
        dict(zip(names, ("cups", 3, 7, 1007, ""), strict=True)),
    ]
    for image, frame in zip(dataset.images, frames, strict=True):
        labelled = dataset.labelled(image)
        assert labelled.rles == frame.rles
        assert labelled.image[0, 0, 0] == 10 * frame.frame_index
    content = json.loads((tmp_path / "export.json").read_text())
    assert [a["area"] for a in content["annotations"]] == [16, 16, 16]
    x, y, right, bottom = boxes_xyxy(frames[1].rles)[1].tolist()
    assert content["annotations"][2]["bbox"] == [x, y, right - x, bottom - y]


# --------------------------------------------------------------------------------- what is damaged


def test_training_set_refuses_a_file_that_is_no_catalogue(folder: Path) -> None:
    folder.mkdir()
    (folder / "catalogue.sqlite").write_bytes(b"This is not a database at all. " * 200)
    with pytest.raises(GboptError, match="catalogue is unusable"):
        TrainingSet(folder, PLENTY)


def test_training_set_reports_a_schema_that_is_no_text(folder: Path, frames_dir: Path) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, 0)])
    catalogue = folder / "catalogue.sqlite"
    catalogue.write_bytes(catalogue.read_bytes().replace(b"TABLE frames", b"TABL\xff frames"))
    with pytest.raises(GboptError, match="catalogue is unusable: damaged"):
        TrainingSet(folder, PLENTY)
    with pytest.raises(GboptError, match="catalogue cannot be read"):
        drop_images(folder, ["a"])


def test_training_set_reports_a_damaged_catalogue(folder: Path, frames_dir: Path) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, i) for i in range(20)])
    path = folder / "catalogue.sqlite"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)  # the first page holds the schema
    path.write_bytes(content)
    with pytest.raises(GboptError, match="catalogue"), TrainingSet(folder, PLENTY) as damaged:
        damaged.labelled_images()


def test_training_set_reports_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GboptError, match="cannot be written"):
        TrainingSet(tmp_path / "file" / "set", PLENTY)


@pytest.mark.parametrize("content", [None, b"", b"half of it"])
def test_labelled_images_leaves_out_a_damaged_image_until_added_again(
    folder: Path, frames_dir: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, 0), selected(frames_dir, 1)])
        path = training_set.labelled_images().entries[0].path
        path.unlink() if content is None else path.write_bytes(content)
        (left,) = training_set.labelled_images().entries
        assert left.path != path
        assert f"1 images are damaged and left out, such as {path}" in caplog.text
        training_set.add([selected(frames_dir, 0)])
        dataset = training_set.labelled_images()
        assert [int(dataset[i].image[0, 0, 0]) for i in range(2)] == [0, 10]


def test_labelled_images_reports_an_image_damaged_during_learning(
    folder: Path, frames_dir: Path
) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, 0)])
        dataset = training_set.labelled_images()
        dataset.entries[0].path.write_bytes(b"not an image")
        with pytest.raises(GboptError, match="no complete image"):
            dataset[0]


def test_add_keeps_images_for_a_running_training(folder: Path, frames_dir: Path) -> None:
    """It is asked about once the frames are in the set: the training knows those before."""
    datasets = []

    def may_collect() -> bool:
        with TrainingSet(folder, PLENTY) as other:
            datasets.append(other.labelled_images())
        return False

    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, 0)])
        before = training_set.labelled_images()
        training_set.add([selected(frames_dir, 0, value=99)], may_collect=may_collect)
        assert int(before[0].image[0, 0, 0]) == 0
        assert int(datasets[0][0].image[0, 0, 0]) == 99
        training_set.collect_garbage()
        with pytest.raises(GboptError):
            before[0]


def test_labelled_images_names_the_recordings_of_images_that_broke_later(
    folder: Path, frames_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        names = "cups", "blocks", "blocks"
        training_set.add([selected(frames_dir, i, recording=name) for i, name in enumerate(names)])
        entries = training_set.labelled_images().entries
        broken = next(entry.path for entry in entries if entry.recording == "cups")
        content = bytearray(broken.read_bytes())
        content[-1] ^= 1  # of the same size, and it can still be decoded
        broken.write_bytes(content)
        left = training_set.labelled_images().entries
        assert [entry.recording for entry in left] == ["blocks", "blocks"]
    assert f"such as {broken}; they are of cups: learn their replays again" in caplog.text


# ---------------------------------------------------------------------------- what is not committed


def cut(frame: SelectedFrame) -> SelectedFrame:
    """The frame, with a JPEG that was cut."""
    path = frame.image_path.with_suffix(".jpg")
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    path.write_bytes(cv2.imencode(".jpg", image)[1].tobytes()[:-40])
    return replace(frame, image_path=path)


def resized(frame: SelectedFrame) -> SelectedFrame:
    """The frame, with an image of half the height."""
    cv2.imwrite(str(frame.image_path), np.zeros((6, 16, 3), np.uint8))
    return frame


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "the JPEG is cut off"),
        (resized, r"expected \(12, 16\) \(height, width\) in pixels, got \(6, 16\)"),
        (lambda frame: replace(frame, rles=encode_all(np.ones((2, 4, 4), bool))), "a mask does"),
        (lambda frame: replace(frame, confidences=(0.5, math.inf)), r"confidences in \[0, 1\]"),
        (lambda frame: replace(frame, confidences=(0.5, 2.0)), r"confidences in \[0, 1\]"),
        (lambda frame: replace(frame, confidences=(0.5, math.nan)), r"confidences in \[0, 1\]"),
        (lambda frame: replace(frame, scores=(0.5, math.nan)), "finite scores"),
    ],
)
def test_add_checks_a_frame_before_anything_is_committed(
    folder: Path,
    frames_dir: Path,
    damage: Callable[[SelectedFrame], SelectedFrame],
    words: str,
) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, 0)])
        frames = [selected(frames_dir, 1), damage(selected(frames_dir, 2))]
        told = rf"frame 2 of cups cannot be learnt from: .*{words}.*; replay the recording again"
        with pytest.raises(GboptError, match=told):
            training_set.add(frames)
        assert values(training_set) == [0]
    assert_consistent(folder)


def test_together_changes_all_or_nothing(folder: Path, frames_dir: Path) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, 0, recording="bad", value=7)])
        with pytest.raises(GboptError, match="cannot be learnt from"), training_set.together():
            training_set.remove("bad")
            training_set.add([selected(frames_dir, 1)])
            training_set.add([cut(selected(frames_dir, 2))])
        assert values(training_set) == [7]
        assert_consistent(folder)
        with training_set.together():
            assert training_set.remove("bad") == 1
            assert training_set.add([selected(frames_dir, 1)]) == 1
        assert values(training_set) == [10]
    assert_consistent(folder)


def test_drop_images_makes_room_for_remove(folder: Path, frames_dir: Path) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, i, recording="bad", value=i) for i in range(2)])
        training_set.add([selected(frames_dir, 5, recording="good", value=9)])
    before = files(folder)
    drop_images(folder, ["unknown"])
    assert files(folder) == before
    drop_images(folder, ["bad"])
    assert len(files(folder)) == 1
    with TrainingSet(folder, PLENTY) as training_set:
        assert training_set.remove("bad") == 2
        assert values(training_set) == [9]
    assert_consistent(folder)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("database or disk is full", "the disk is full"),
        ("attempt to write a readonly database", "it is read-only; choose a store"),
        ("database is locked", "it is locked by another process"),
        ("unable to open database file", "it cannot be opened or made"),
        ("disk I/O error", "disk I/O error"),
    ],
)
def test_errors_of_sqlite_are_told_in_one_clear_line(folder: Path, told: str, words: str) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        with pytest.raises(GboptError) as raised, training_set.together():
            raise sqlite3.OperationalError(told)
        assert str(raised.value).startswith(f"{folder}: training set catalogue failed: {words}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE frames SET height = 1000000000", "a height and a width of 1 or more"),
        ("UPDATE frames SET height = 13", "run lengths do not fill"),
        ("UPDATE frames SET width = 'wide'", "'width': expected a whole number"),
        ("UPDATE frames SET file_name = x'ff00'", "'file_name': expected text"),
        ("UPDATE frames SET recording = CAST(x'fffe' AS TEXT)", "catalogue .*UTF-8"),
        ("UPDATE frames SET stamp_ns = 0.5", "'stamp_ns': expected a whole number"),
        ("UPDATE instances SET counts = 'zz'", "no run lengths"),
        ("UPDATE instances SET counts = x'30'", "'counts': expected text"),
        ("UPDATE instances SET confidence = 9e999", "'confidence': expected a finite number"),
        ("UPDATE instances SET confidence = 'high'", "'confidence': expected a finite number"),
    ],
)
def test_rows_of_wrong_content_are_refused(tmp_path: Path, change: str, message: str) -> None:
    with TrainingSet(tmp_path / "set", PLENTY) as training_set:
        training_set.add([selected(tmp_path, 0)])
        path = tmp_path / "set" / "catalogue.sqlite"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute(change)
        with pytest.raises(GboptError, match=message):
            training_set.labelled_images()
        with pytest.raises(GboptError, match=message):
            training_set.export_coco(tmp_path / "export.json")


# --------------------------------------------------------------------------------------- verdicts


def judge(training_set: TrainingSet, index: int, *verdicts: Verdict) -> None:
    """Give a verdict on each mask of the frame with an index."""
    (frame,) = (each for each in training_set.frames() if each.frame_index == index)
    masks = [replace(m, verdict=v) for m, v in zip(frame.masks, verdicts, strict=True)]
    training_set.judge([(frame, masks)])


def test_judged_masks_are_learnt_verified_or_not_at_all(folder: Path, frames_dir: Path) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, i, instances=3) for i in range(2)])
        judge(training_set, 1, Verdict.VERIFIED, Verdict.REJECTED, Verdict.NONE)
        assert training_set.instance_count == 5
        untouched, looked_at = training_set.labelled_images().entries
        labelled = training_set.labelled_images()[1]
    rles = encode_all(masks(3))
    assert (untouched.is_judged, untouched.confidences) == (False, (0.5, 0.6, 0.7))
    assert (looked_at.rles, looked_at.rejected) == ((rles[0], rles[2]), (rles[1],))
    assert (looked_at.confidences, looked_at.verified) == ((1.0, 0.7), (True, False))
    assert (labelled.complete, labelled.rejected) == (False, (rles[1],))


@pytest.mark.parametrize("change", ["nothing", "name", "image", "no mask"])
def test_a_later_replay_drops_no_verdict(folder: Path, frames_dir: Path, change: str) -> None:
    later = selected(frames_dir, 0, instances=3, version="v0002")
    if change == "name":
        later = replace(later, recording="again")
    elif change == "image":  # encoded by another release
        later = replace(later, image_path=selected(frames_dir, 0, value=7).image_path)
    elif change == "no mask":
        later = replace(later, rles=(), scores=(), confidences=())
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, 0)])
        judge(training_set, 0, Verdict.VERIFIED, Verdict.REJECTED)
        assert training_set.add([later]) == 1
        (frame,) = training_set.frames()
    verdicts = [Verdict.VERIFIED, Verdict.REJECTED, Verdict.NONE][: 2 + len(later.rles[2:])]
    assert [mask.verdict for mask in frame.masks] == verdicts
    assert [mask.rle for mask in frame.masks] == list(encode_all(masks(len(verdicts))))
    assert (frame.recording, frame.model_version) == (later.recording, "v0002")


def test_a_later_replay_of_another_size_leaves_a_judged_frame(
    folder: Path, frames_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, 0)])
        judge(training_set, 0, Verdict.VERIFIED, Verdict.NONE)
        before = training_set.frames()
        path = frames_dir / "small.png"
        cv2.imwrite(str(path), np.zeros((6, 8, 3), np.uint8))
        small = replace(
            selected(frames_dir, 0, instances=1), image_path=path, size=(6, 8),
            rles=encode_all(np.ones((1, 6, 8), bool)),
        )  # fmt: skip
        assert training_set.add([small]) == 0
        assert training_set.frames() == before
    assert "frame 0 of cups has another size, stamp or image now" in caplog.text


def test_another_recording_of_the_same_name_gets_no_verdicts(
    folder: Path, frames_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, 0), selected(frames_dir, 1)])
        judge(training_set, 0, Verdict.VERIFIED, Verdict.NONE)
        before = training_set.frames()
        others = [
            replace(selected(frames_dir, i, value=200 + i), stamp_ns=10**18 + i) for i in (0, 1)
        ]
        assert training_set.add(others) == 1
        judged, replaced = training_set.frames()
    assert judged == before[0]
    assert replaced.stamp_ns == 10**18 + 1
    assert "frame 0 of cups has another size, stamp or image now" in caplog.text


@pytest.mark.parametrize("elsewhere", [False, True])
def test_another_video_with_equal_stamps_gets_no_verdicts(
    folder: Path, frames_dir: Path, elsewhere: bool
) -> None:
    """All of it is another one, or an object in front of the same wall has moved."""
    pixels = np.full((*SIZE, 3), 90, np.uint8)
    first, second = (frames_dir / name for name in ("first.bmp", "second.bmp"))
    pixels[masks(1)[0]] = 160
    cv2.imwrite(str(first), pixels)
    cv2.imwrite(str(second), np.roll(pixels, 6, axis=1) if elsewhere else 255 - pixels)
    frame = replace(selected(frames_dir, 0), image_path=first)
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([frame])
        judge(training_set, 0, Verdict.REJECTED, Verdict.NONE)
        before = training_set.frames()
        other = replace(frame, image_path=second, model_version="v0002")
        assert training_set.add([other]) == 0
        assert training_set.frames() == before
        assert training_set.add([replace(other, recording="b/cups")]) == 1
        assert [each.is_judged for each in training_set.frames()] == [False, True]
        before[0].path.write_bytes(b"damaged")  # so that nobody can tell
        assert training_set.add([other]) == 1
        (frame_now,) = training_set.frames()
    assert frame_now.path != before[0].path and frame_now.is_judged


def test_a_set_full_of_judged_frames_says_that_nothing_new_is_learnt(
    folder: Path, frames_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = selected(frames_dir, 0).image_path.stat().st_size
    with TrainingSet(folder, 2 * size, "oldest") as training_set:
        training_set.add([selected(frames_dir, i) for i in range(2)])
        judge(training_set, 0, Verdict.VERIFIED, Verdict.NONE)
        training_set.add([selected(frames_dir, 2, clip=1)])
        assert "nothing new is learnt" not in caplog.text  # an older frame made room
        judge(training_set, 2, Verdict.NONE, Verdict.VERIFIED)
        training_set.add([selected(frames_dir, 3, clip=2, recording="hall")])
        assert [frame.frame_index for frame in training_set.frames()] == [0, 2]
        assert training_set.evicted == {"cups": 1, "hall": 1}
    assert caplog.text.count("nothing new is learnt; raise learning.max_bytes") == 1


@pytest.mark.parametrize("policy", ["oldest", "balanced"])
def test_judged_frames_leave_a_full_set_last(folder: Path, frames_dir: Path, policy: str) -> None:
    size = selected(frames_dir, 0).image_path.stat().st_size
    with TrainingSet(folder, 4 * size, policy) as training_set:
        training_set.add([selected(frames_dir, i, clip=i // 2) for i in range(4)])
        judge(training_set, 0, Verdict.VERIFIED, Verdict.NONE)
        judge(training_set, 1, Verdict.REJECTED, Verdict.REJECTED)
        for clip in range(2, 6):
            training_set.add([selected(frames_dir, 2 * clip + i, clip=clip) for i in (0, 1)])
            assert {0, 1} <= {frame.frame_index for frame in training_set.frames()}
            assert training_set.bytes <= 4 * size
    with TrainingSet(folder, 2 * size, policy) as training_set:  # too few for them and a clip
        training_set.add([selected(frames_dir, i, clip=6) for i in (20, 21)])
        assert [frame.frame_index for frame in training_set.frames()] == [0, 1]
    with TrainingSet(folder, size, policy) as training_set:  # one of them must go
        refused = pytest.raises(GboptError, match="one clip alone takes")
        with refused if policy == "oldest" else contextlib.nullcontext():
            training_set.add([selected(frames_dir, 22, clip=7)])
        left = 2 if policy == "oldest" else 1
        assert [frame.is_judged for frame in training_set.frames()] == [True] * left


def test_judge_refuses_masks_that_do_not_fit_and_changes_nothing(
    folder: Path, frames_dir: Path
) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, i) for i in range(2)])
        before = training_set.frames()
        first, second = before
        good = list(first.masks)
        empty = replace(good[0], rle=encode_all(np.zeros((1, *SIZE), bool))[0])
        small = replace(good[0], rle=encode_all(np.ones((1, 4, 4), bool))[0])
        for bad, message in ((empty, "mask 0 has no pixel"), (small, "size .4, 4., expected")):
            with pytest.raises(GboptError, match=message):
                training_set.judge([(first, good[:1]), (second, [bad])])
        assert training_set.frames() == before


def test_clips_of_images_of_several_sizes_are_no_newest_clips(
    folder: Path, frames_dir: Path
) -> None:
    """Imported stills: the teacher gate compares networks on clips."""
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, i, clip=i // 2) for i in range(4)])
    catalogue = sqlite3.connect(folder / "catalogue.sqlite")
    with catalogue:
        catalogue.execute("UPDATE frames SET width = width + 1 WHERE frame_index = 3")
    catalogue.close()
    with TrainingSet(folder, PLENTY) as training_set:
        assert training_set.newest_clips(5) == [("cups", 0)]


def test_clips_whose_masks_were_all_rejected_are_no_newest_clips(
    folder: Path, frames_dir: Path
) -> None:
    with TrainingSet(folder, PLENTY) as training_set:
        training_set.add([selected(frames_dir, i, clip=i // 2) for i in range(4)])
        judge(training_set, 3, Verdict.REJECTED, Verdict.REJECTED)
        assert training_set.newest_clips(5) == [("cups", 0)]
        last = training_set.labelled_images().entries[3]
        assert (last.rles, last.rejected) == ((), encode_all(masks(2)))


def test_unjudged_masks_are_ordered_by_what_a_person_should_see_first(
    folder: Path, frames_dir: Path
) -> None:
    sure = {0: (0.3, 0.2), 1: (0.1, 0.4), 2: (0.05, 0.8)}
    with TrainingSet(folder, PLENTY) as training_set:
        for index, confidences in sure.items():
            clip = 0 if index < 2 else 1
            training_set.add([selected(frames_dir, index, clip=clip, confidences=confidences)])
        names = {frame.path.name: frame.frame_index for frame in training_set.frames()}
        second = encode_all(masks(2))[1]["counts"]

        def seen(order: str, count: int = 9) -> list[tuple[int, int]]:
            found = training_set.unjudged(order, count)
            return [(names[name], int(counts == second)) for name, counts in found]

        # The least sure of each clip, then the next ones.
        assert seen("unsure") == [(2, 0), (1, 0), (0, 1), (2, 1), (0, 0), (1, 1)]
        assert seen("newest", 3) == [(2, 0), (2, 1), (1, 0)]
        judge(training_set, 1, Verdict.REJECTED, Verdict.VERIFIED)
        assert seen("unsure") == [(2, 0), (0, 1), (0, 0), (2, 1)]
        assert training_set.verdicts() == {
            Verdict.REJECTED: 1, Verdict.NONE: 4, Verdict.VERIFIED: 1
        }  # fmt: skip
