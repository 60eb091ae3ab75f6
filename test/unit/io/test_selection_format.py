"""The output of a replay, read for a training set."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import cv2
import numpy as np
import pytest
from support.scenes import SquareNetworks, square_frames, square_selection

from gbopt_ros.config import ClipConfig, Config, LearningConfig
from gbopt_ros.io import journal, selection_format, selection_progress
from gbopt_ros.io.selection_format import SelectedFrame, SelectionWriter, read_selection
from gbopt_ros.io.sources import open_source
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.masks import encode_all
from gbopt_ros.perception.flow import DisFlow
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import Frame, FrameEnergy, FrameSelection, GboptError, Selection
from gbopt_ros.tracks import TrackLinker

SIZE = 12, 16
MASK = np.zeros((1, *SIZE), bool)
MASK[:, 2:7, 3:9] = True


def write_replay(folder: Path, **changes: Any) -> dict[str, Any]:
    """A replay's output of two frames, the second without a mask."""
    (folder / "frames").mkdir(parents=True)
    for i in (0, 1):
        cv2.imwrite(str(folder / "frames" / f"{i}.png"), np.full((*SIZE, 3), i, np.uint8))
    (rle,) = encode_all(MASK)
    image = {"height": SIZE[0], "width": SIZE[1], "clip_id": 3}
    content = {
        "info": {"recording": "cups.mp4"},
        "images": [
            image | {"id": 1, "file_name": "0.png", "frame_index": 5, "stamp_ns": 50},
            image | {"id": 2, "file_name": "1.png", "frame_index": 6, "stamp_ns": 60},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "segmentation": rle, "score": 0.75, "confidence": 0.5}
        ],
    }
    (folder / "selected.json").write_text(json.dumps(content | changes), encoding="utf-8")
    return content


def test_read_selection_gives_frames_for_the_training_set(tmp_path: Path) -> None:
    write_replay(tmp_path / "run")
    first, second = read_selection(tmp_path / "run")
    assert first == SelectedFrame(
        "run/cups.mp4", 3, 5, 50, tmp_path / "run" / "frames" / "0.png", SIZE,
        encode_all(MASK), (0.75,), (0.5,), track_ids=(None,),
    )  # fmt: skip
    assert (second.frame_index, second.rles, second.scores) == (6, (), ())
    with TrainingSet(tmp_path / "training-set", LearningConfig().max_bytes) as training_set:
        assert training_set.add(read_selection(tmp_path / "run")) == 1


def test_read_selection_refuses_a_folder_that_is_no_replay(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="expected the output of `gbopt replay`"):
        list(read_selection(tmp_path))
    (tmp_path / "selected.json").write_text("{")
    with pytest.raises(GboptError, match="expected the output of `gbopt replay`"):
        list(read_selection(tmp_path))


def test_read_selection_refuses_a_missing_frame(tmp_path: Path) -> None:
    write_replay(tmp_path)
    (tmp_path / "frames" / "1.png").unlink()
    with pytest.raises(GboptError, match=r"1\.png.*missing"):
        list(read_selection(tmp_path))


def test_read_selection_refuses_missing_keys_and_broken_masks(tmp_path: Path) -> None:
    content = write_replay(tmp_path / "whole")
    image, annotation = content["images"][0], content["annotations"][0]
    damaged: list[dict[str, Any]] = [{"info": {}}, {"info": None}, {"images": 5}]
    damaged += [{"images": [{k: v for k, v in image.items() if k != key}]} for key in image]
    needed = ("image_id", "segmentation", "score", "confidence")
    damaged += [
        {"annotations": [{k: v for k, v in annotation.items() if k != key}]} for key in needed
    ]
    damaged += [
        {"annotations": [annotation | {"segmentation": {"size": [16, 12], "counts": "0"}}]},
        {"annotations": [annotation | {"score": "high"}]},
    ]
    damaged += [  # with the last two pycocotools never returns
        {"annotations": [annotation | {"segmentation": {"size": [*SIZE], "counts": counts}}]}
        for counts in ("", "0", "zzz", "0o0")
    ]
    for number, changes in enumerate(damaged):
        run = tmp_path / str(number)
        write_replay(run, **changes)
        with pytest.raises(GboptError, match="expected the output of `gbopt replay`"):
            list(read_selection(run))


def test_selection_writer_leaves_nothing_without_finish(tmp_path: Path) -> None:
    with SelectionWriter(tmp_path / "out", "cups.mp4") as writer:
        pass
    with pytest.raises(KeyError), SelectionWriter(tmp_path / "out", "cups.mp4"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with SelectionWriter(tmp_path / "out", "cups.mp4") as writer:
        writer.finish()
    assert list(read_selection(tmp_path / "out")) == []


def test_selection_writer_can_leave_the_overlay_out(tmp_path: Path) -> None:
    selection = square_selection(2)
    for overlay in (True, False):
        with SelectionWriter(tmp_path / str(overlay), "cups.mp4", overlay=overlay) as writer:
            writer.add(selection)
            writer.finish()
    names = {folder.name: {path.name for path in folder.iterdir()} for folder in tmp_path.iterdir()}
    assert names["True"] == {"frames", "overlay.mp4", "run.json", "selected.json"}
    assert names["False"] == names["True"] - {"overlay.mp4"}
    written = [(tmp_path / name / "selected.json").read_bytes() for name in names]
    assert written[0] == written[1]


def test_selection_writer_writes_a_coco_dataset(tmp_path: Path) -> None:
    frame = FrameSelection(
        Frame(np.zeros((*SIZE, 3), np.uint8), 50, 5, "camera"),
        (4,),
        encode_all(MASK),
        np.array([[3, 2, 9, 7]], np.float32),
        np.array([0.75], np.float32),
        np.array([0.125]),
        np.array([0.5], np.float32),
        FrameEnergy(1.0, 2.0, -0.5),
    )
    with SelectionWriter(tmp_path / "out", "cups.mp4", overlay=False) as writer:
        writer.add(Selection(3, (frame,), 2.5, 2.0, False, 7, "v0001"))
        writer.finish()
    content = json.loads((tmp_path / "out" / "selected.json").read_text())
    assert content["images"] == [
        {
            "id": 1, "file_name": "000005.jpg", "height": 12, "width": 16, "frame_index": 5,
            "stamp_ns": 50, "frame_id": "camera", "clip_id": 3, "after_cut": False,
            "model_version": "v0001",
            "energy": {"background": 1.0, "flow": 2.0, "regularization": -0.5},
        }
    ]  # fmt: skip
    assert content["annotations"] == [
        {
            "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0,
            "segmentation": encode_all(MASK)[0], "bbox": [3.0, 2.0, 6.0, 5.0], "area": 30,
            "score": 0.75, "confidence": 0.5, "margin": 0.125, "proposal": 4, "track_id": 1,
        }
    ]  # fmt: skip


def test_selection_writer_tells_the_names_of_the_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("a07.png", "a08.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((*SIZE, 3), np.uint8))
    none = np.zeros(0, np.float32)
    frames = tuple(
        FrameSelection(
            frame, (), (), np.zeros((0, 4), np.float32), none, np.zeros(0), none,
            FrameEnergy(0.0, 0.0, 0.0),
        )
        for frame in open_source(tmp_path)
    )  # fmt: skip
    with SelectionWriter(tmp_path / "out", "stills", overlay=False) as writer:
        writer.add(Selection(0, frames, 0.0, 0.0, True, 0))
        writer.finish()
    content = json.loads((tmp_path / "out" / "selected.json").read_text())
    names = [(image["file_name"], image["source_name"]) for image in content["images"]]
    assert names == [("000000.jpg", "a07.png"), ("000001.jpg", "a08.png")]


@pytest.mark.parametrize("name", ["/etc/hostname", "../../secret.png", "sub/../../../secret.png"])
def test_read_selection_refuses_files_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    content = write_replay(tmp_path / "whole")
    cv2.imwrite(str(tmp_path / "secret.png"), np.zeros((*SIZE, 3), np.uint8))
    images = [content["images"][0] | {"file_name": name}]
    write_replay(tmp_path / "run", images=images)
    with pytest.raises(GboptError, match=r"expected a file in .*frames, this one is outside of it"):
        list(read_selection(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"confidence": float("inf")}, "'confidence'"),
        ({"confidence": 2}, "'confidence'.* from 0 to 1"),
        ({"confidence": -0.1}, "'confidence'.* from 0 to 1"),
        ({"score": float("nan")}, "'score'"),
        ({"image_id": 3}, "'image_id' is that of no image"),
    ],
)
def test_read_selection_refuses_annotations_that_cannot_be_true(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    content = write_replay(tmp_path / "whole")
    write_replay(tmp_path / "run", annotations=[content["annotations"][0] | changes])
    with pytest.raises(GboptError, match=words):
        list(read_selection(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"height": -12}, "'height'"),
        ({"width": 0}, "'width'"),
        ({"frame_index": -1}, "'frame_index'"),
        ({"clip_id": -1}, "'clip_id'"),
        ({"id": 2}, "'id' of its own"),
        ({"frame_index": 6}, "'frame_index' of its own"),
    ],
)
def test_read_selection_refuses_images_that_cannot_be_true(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    first, second = write_replay(tmp_path / "whole")["images"]
    write_replay(tmp_path / "run", images=[first | changes, second], annotations=[])
    with pytest.raises(GboptError, match=words):
        list(read_selection(tmp_path / "run"))


# ------------------------------------------------------------------------------------------ resume

IDENTITY = {"source": "3f", "config": {"selection": {"k": 10, "lag": -1}}, "size": (4, 5)}


@pytest.fixture(scope="module")
def clips() -> list[Selection]:
    networks = SquareNetworks()
    config = Config(clip=ClipConfig(length=2, overlap=1))
    pipeline = Pipeline(
        config, proposal_network=networks, background_network=networks, flow_network=DisFlow()
    )
    return list(pipeline.run(square_frames(5)))


def write_clips(out: Path, clips: Sequence[Selection], **options: Any) -> dict[str, Any]:
    """A replay of clips; returns the content of its `run.json`."""
    options = {"identity": IDENTITY} | options
    with SelectionWriter(out, "cups.mp4", **options) as writer:
        for clip in clips[writer.clips :]:
            writer.add(clip)
        writer.finish()
    content: dict[str, Any] = json.loads((out / "run.json").read_text())
    return content


def killed_after(out: Path, clips: Sequence[Selection], count: int) -> None:
    """A process that is killed in the middle of the clip after `count` whole ones."""
    process = os.fork()
    if process == 0:
        try:
            with SelectionWriter(out, "cups.mp4", identity=IDENTITY, overlay=False) as writer:
                for clip in clips[:count]:
                    writer.add(clip)
                writer._identity = None  # so that the journal does not say that it is whole
                writer.add(clips[count])
                for part in writer._parts.values():
                    part.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL


def selected_bytes(out: Path) -> bytes:
    return (out / "selected.json").read_bytes()


@pytest.mark.parametrize("dies_after", [1, 3])
def test_selection_writer_goes_on_with_a_run_that_was_killed(
    tmp_path: Path, clips: list[Selection], dies_after: int
) -> None:
    write_clips(tmp_path / "whole", clips)
    killed_after(tmp_path / "out", clips, dies_after)
    assert not (tmp_path / "out").exists()
    run = write_clips(tmp_path / "out", clips, resume=True)
    assert run["resumed_clips"] == dies_after
    assert run["counts"] == {"clips": 4, "frames": 5, "masks": 5, "flow_runs": ANY}
    assert selected_bytes(tmp_path / "out") == selected_bytes(tmp_path / "whole")
    contents = [
        {str(path.relative_to(out)): path.read_bytes() for path in (out / "frames").iterdir()}
        for out in (tmp_path / "out", tmp_path / "whole")
    ]
    assert contents[0] == contents[1]
    assert len(list(open_source(tmp_path / "out" / "overlay.mp4"))) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_selection_writer_goes_on_with_the_track_ids_of_a_run_that_was_killed(
    tmp_path: Path, clips: list[Selection]
) -> None:
    """The linker knows the three frames that are done, and starts a track in every frame."""
    killed_after(tmp_path / "out", clips, 2)
    linker = TrackLinker(max_gap_s=0.05)
    write_clips(tmp_path / "out", clips, resume=True, linker=linker, overlay=False)
    ids = [f.track_ids for f in read_selection(tmp_path / "out")]
    assert ids == [(1,), (1,), (1,), (4,), (5,)]


def test_selection_writer_syncs_a_clip_before_its_line_of_the_journal(
    tmp_path: Path, clips: list[Selection], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    for module in (selection_progress, journal):
        monkeypatch.setattr(module, "sync", lambda path: synced.append(path.name))
    with SelectionWriter(tmp_path / "out", "cups.mp4", identity=IDENTITY) as writer:
        begun = len(synced)
        writer.add(clips[0])
        *of_clip, journal_file, _ = synced[begun:]
        writer.finish()
    assert {*of_clip} == {
        "000000.jpg", "000001.jpg", "frames", "images.part", "annotations.part"
    }  # fmt: skip
    assert journal_file == "journal"


def test_selection_writer_has_no_lower_bound_where_the_lag_forced_a_decision(
    tmp_path: Path, clips: list[Selection]
) -> None:
    first, second, *_ = clips
    write_clips(tmp_path / "out", [replace(first, lower_bound=-math.inf), second])
    text = (tmp_path / "out" / "run.json").read_text()
    assert "Infinity" not in text  # no JSON
    bounds = [clip["lower_bound"] for clip in json.loads(text)["clips"]]
    assert bounds == [None, second.lower_bound]


def test_selection_writer_keeps_track_ids_over_clips(
    tmp_path: Path, clips: list[Selection]
) -> None:
    """The square moves through all clips; it is the same object in every frame."""
    write_clips(tmp_path / "out", clips)
    content = json.loads(selected_bytes(tmp_path / "out"))
    assert [a["track_id"] for a in content["annotations"]] == [1] * 5
    assert [f.track_ids for f in read_selection(tmp_path / "out")] == [(1,)] * 5


@pytest.mark.parametrize("killed", [False, True])
def test_selection_writer_draws_a_track_in_its_colour(
    tmp_path: Path, clips: list[Selection], monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """The square gets another id after a cut, and another colour, though it is the only mask."""
    drawn: list[Sequence[int] | None] = []

    def draw(image: Any, *_: Any, colours: Sequence[int] | None = None) -> Any:
        drawn.append(colours and tuple(colours))
        return image

    monkeypatch.setattr(selection_format, "draw_masks", draw)
    clips = [clips[0], with_cut(clips[1], before=2), *clips[2:]]
    if killed:
        killed_after(tmp_path / "out", clips, 1)
    write_clips(tmp_path / "out", clips, resume=killed)
    content = json.loads(selected_bytes(tmp_path / "out"))
    assert drawn == [(a["track_id"],) for a in content["annotations"]]
    assert len(set(drawn)) == 2


@pytest.mark.parametrize("killed", [False, True])
def test_selection_writer_ends_tracks_at_a_cut(
    tmp_path: Path, clips: list[Selection], killed: bool
) -> None:
    clips = [with_cut(clip, before=1) for clip in clips]
    if killed:
        killed_after(tmp_path / "out", clips, 2)
    write_clips(tmp_path / "out", clips, resume=killed, overlay=False)
    frames = list(read_selection(tmp_path / "out"))
    assert [f.track_ids for f in frames] == [(1,), (2,), (2,), (2,), (2,)]
    assert [f.after_cut for f in frames] == [False, True, False, False, False]


def with_cut(clip: Selection, before: int) -> Selection:
    """A clip that has a cut before the frame of an index."""
    frames = [replace(each, after_cut=each.frame.index == before) for each in clip.frames]
    return replace(clip, frames=tuple(frames))


def test_selection_writer_links_as_its_linker_says(tmp_path: Path, clips: list[Selection]) -> None:
    write_clips(tmp_path / "out", clips, linker=TrackLinker(max_gap_s=0.05))
    assert [f.track_ids for f in read_selection(tmp_path / "out")] == [(i + 1,) for i in range(5)]


def test_selection_writer_starts_anew_without_resume(
    tmp_path: Path, clips: list[Selection]
) -> None:
    killed_after(tmp_path / "out", clips, 2)
    assert len(list(tmp_path.iterdir())) == 1  # hidden
    assert write_clips(tmp_path / "out", clips)["resumed_clips"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_selection_writer_refuses_to_go_on_with_another_run(
    tmp_path: Path, clips: list[Selection]
) -> None:
    killed_after(tmp_path / "out", clips, 2)
    other = IDENTITY | {"config": {"selection": {"k": 5, "lag": -1}}}
    with pytest.raises(GboptError, match=r"data \(config\.selection\.k was 10, now 5\); use the"):
        write_clips(tmp_path / "out", clips, resume=True, identity=other)
    assert write_clips(tmp_path / "out", clips, resume=True)["resumed_clips"] == 2  # it was kept


def test_selection_writer_refuses_an_output_that_another_process_writes(
    tmp_path: Path, clips: list[Selection]
) -> None:
    with SelectionWriter(tmp_path / "out", "cups.mp4", identity=IDENTITY) as writer:
        writer.add(clips[0])
        with pytest.raises(GboptError, match="another process is writing it"):
            write_clips(tmp_path / "out", clips, resume=True)
        writer.finish()
    assert (tmp_path / "out" / "selected.json").is_file()


@pytest.mark.parametrize("resume", [False, True])
def test_selection_writer_keeps_what_is_done_only_for_a_run_that_resumes(
    tmp_path: Path, clips: list[Selection], resume: bool
) -> None:
    options = {"identity": IDENTITY, "resume": resume}
    with (
        pytest.raises(KeyboardInterrupt),
        SelectionWriter(tmp_path / "out", "cups.mp4", **options) as writer,
    ):
        writer.add(clips[0])
        raise KeyboardInterrupt
    assert bool(list(tmp_path.iterdir())) == resume
    with pytest.raises(KeyboardInterrupt), SelectionWriter(tmp_path / "new", "cups.mp4", **options):
        raise KeyboardInterrupt  # nothing is done
    assert not list(tmp_path.glob(".new.*"))


def test_selection_writer_ignores_a_cut_line_of_the_journal(
    tmp_path: Path, clips: list[Selection]
) -> None:
    write_clips(tmp_path / "whole", clips)
    killed_after(tmp_path / "out", clips, 2)
    (journal,) = tmp_path.glob(".out.*/journal")
    journal.write_bytes(journal.read_bytes()[:-9])
    assert write_clips(tmp_path / "out", clips, resume=True)["resumed_clips"] == 1
    assert selected_bytes(tmp_path / "out") == selected_bytes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "before", "after", "words"),
    [
        ("journal", b'"frames": 2', b'"f": 2', "journal, clip 0: expected 'frames', it is not"),
        ("journal", b'"bytes": {', b'"bytes": 7, "b": {', "clip 0: bytes: expected a JSON object"),
        ("journal", b'"images": ', b'"images": 9', r"images\.part: expected 9\d+ bytes or more"),
        ("journal", b'"flow_runs": ', b'"flow_runs": -', "clip: 'flow_runs': expected a whole"),
        ("images.part", b'"stamp_ns"', b'"stamp_xx"', "line 2: expected 'stamp_ns', it is not"),
        ("images.part", b'{"id"', b'{_id"', r"images\.part, line 2: expected JSON"),
        ("annotations.part", b'"counts"', b'"count_"', "line 2: bad segmentation"),
        ("annotations.part", None, None, "No such file"),
    ],
)
def test_selection_writer_says_what_to_do_about_a_damaged_run(
    tmp_path: Path,
    clips: list[Selection],
    name: str,
    before: bytes | None,
    after: bytes | None,
    words: str,
) -> None:
    killed_after(tmp_path / "out", clips, 1)
    (path,) = tmp_path.glob(f".out.*/{name}")
    if before is None or after is None:
        path.unlink()
    else:
        content = path.read_bytes()
        assert before in content
        path.write_bytes(content.replace(before, after))
    for _ in range(2):  # it is kept: nothing but the user's word removes what was done
        with pytest.raises(
            GboptError, match=rf"out: the run .* damaged \(.*{words}.*\); start anew without --res"
        ):
            write_clips(tmp_path / "out", clips, resume=True)
    assert write_clips(tmp_path / "out", clips)["resumed_clips"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
