"""Learning from real video: which frames are learnt, which are judged, and by what labels."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from experiments import real_selection, real_video
from experiments.tabletop import few, first
from gbopt_ros.config import Config
from gbopt_ros.evaluation.coco_metrics import evaluate_instances
from gbopt_ros.evaluation.results import CocoResult
from gbopt_ros.masks import decode_all, encode
from gbopt_ros.models import mask_rcnn
from gbopt_ros.structures import GboptError


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    """Ten frames of a disc that goes to the right, with a label image beside each."""
    folder = tmp_path / "disc"
    folder.mkdir()
    for t in range(10):
        image = np.full((48, 64, 3), 90, np.uint8)
        label = np.zeros((48, 64), np.uint8)
        for picture, value in ((image, (40, 60, 220)), (label, 3)):
            cv2.circle(picture, (15 + 3 * t, 24), 9, value, -1)
        cv2.imwrite(str(folder / f"{t:05d}.jpg"), image)
        cv2.imwrite(str(folder / f"{t:05d}.png"), label)
    return folder


def test_judged_frames_are_the_labelled_end_of_a_sequence(sequence: Path) -> None:
    judged = real_video.judged_frames([sequence])
    assert [image.file_name for image in judged.images] == [f"disc/{t:05d}.jpg" for t in (7, 8, 9)]
    for t, image in zip((7, 8, 9), judged.images, strict=True):
        assert judged.load_image(image).shape == (48, 64, 3)
        (mask,) = decode_all(judged.rles_by_image[image.id], (48, 64))
        expected = cv2.imread(str(sequence / f"{t:05d}.png"), cv2.IMREAD_UNCHANGED) == 3
        np.testing.assert_array_equal(mask, expected)


def test_judged_frames_of_sequences_in_different_folders(sequence: Path) -> None:
    other = sequence.parent / "elsewhere" / "ball"
    shutil.copytree(sequence, other)
    judged = real_video.judged_frames([sequence, other])
    shown = real_video.middle_frames(judged)
    assert [image.file_name for image in shown] == ["disc/00008.jpg", "elsewhere/ball/00008.jpg"]
    for image in shown:
        assert judged.load_image(image).shape == (48, 64, 3)


def test_masks_outside_of_all_labels_are_neither_right_nor_wrong(sequence: Path) -> None:
    judged = real_video.judged_frames([sequence])
    where_labelled = real_video.with_unlabelled_as_crowd(judged)
    corner = np.zeros((48, 64), bool)
    corner[:8, :8] = True
    found: list[CocoResult] = []
    for image in judged.images:
        (disc,) = decode_all(judged.rles_by_image[image.id], (48, 64))
        (crowd,) = decode_all(where_labelled.crowd_by_image[image.id], (48, 64))
        np.testing.assert_array_equal(crowd, ~disc)
        for mask, score in ((corner, 0.9), (disc, 0.5)):
            found.append(CocoResult(image_id=image.id, segmentation=encode(mask), score=score))
    everywhere, labelled = (
        evaluate_instances(d, found).to_dict() for d in (judged, where_labelled)
    )
    assert everywhere["AP"] == pytest.approx(50, abs=1)
    assert labelled["AP"] == pytest.approx(100)


def test_run_learns_from_the_beginning_alone(
    sequence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, data = real_video.load_coco_dir, few()
    bundled = mask_rcnn.ARCHITECTURES["lite0-fpn"]
    little = replace(
        bundled,
        short_side=64,
        long_side=128,
        enlarged_to=None,
        train_proposals=32,
        test_proposals=32,
    )
    monkeypatch.setitem(mask_rcnn.ARCHITECTURES, "lite0-fpn", little)
    monkeypatch.setattr(real_video, "demo_validation", lambda *_: data.validation)
    monkeypatch.setattr(real_video, "load_coco_dir", lambda path: first(load(path), 1))
    out = tmp_path / "out"
    settings = [
        "learning.iterations=1",
        "learning.batch_size=2",
        "motion.baseline_s=0.1",
        "proposal.short_side=64",
        "background.short_side=64",
        "device=cpu",
    ]
    names = ["before", "threshold", "ours", "truth"]
    arguments = [str(sequence), "--out", str(out), "--seeds", "0", "--methods", *names]
    arguments += [f"--set={setting}" for setting in settings]
    real_video.run(real_video.parse_arguments(arguments))
    result = json.loads((out / "real-video.json").read_text())
    assert result["judged_frames"] == [f"disc/{t:05d}.jpg" for t in (7, 8, 9)]
    assert list(result["methods"]) == names
    assert all(len(method["cells"]) == 1 for method in result["methods"].values())
    for method in result["methods"].values():
        (cell,) = method["cells"]
        assert cell["labelled"]["AP"] >= cell["unseen"]["AP"]
    truth = result["methods"]["truth"]["masks"]
    assert truth == {"precision": 100, "recall": 100, "mean_iou": 100, "masks": 6, "frames": 6}
    (replay,) = (out / "cache").glob("replay-*")
    assert json.loads((replay / "run.json").read_text())["counts"]["frames"] == 6
    figure = cv2.imread(str(out / "real-video.jpg"))
    assert figure.shape == (24 + 180, 4 * 320, 3)

    rounds = [*arguments, "--rounds=2", "--methods", "before", "ours"]
    real_video.run(real_video.parse_arguments(rounds))
    twice = json.loads((out / "real-video-2-rounds.json").read_text())
    assert twice["rounds"] == 2 and result["rounds"] == 1
    assert twice["methods"]["before"]["cells"] == result["methods"]["before"]["cells"]  # as it was
    assert twice["methods"]["ours"]["cells"] != result["methods"]["ours"]["cells"]
    replays = list((out / "cache").glob("replay-*"))
    assert len(replays) == 2  # one more with the network of the first round


def test_beginning_and_real_selection_need_a_label_for_every_frame(sequence: Path) -> None:
    truth = real_video.Beginning(sequence).truth
    assert list(truth) == [0, 1, 2, 3, 4, 5]
    assert all(len(rles) == 1 for rles in truth.values())
    (sequence / "00004.png").unlink()
    with pytest.raises(GboptError, match="frame 4 has no label image"):
        real_selection.read(sequence, 5, Config(), sequence.parent)
    with pytest.raises(GboptError, match="frame 4 has no label image"):
        _ = real_video.Beginning(sequence).truth


def test_judged_frames_want_frames_beside_the_labels(sequence: Path) -> None:
    for path in sequence.glob("*.jpg"):
        path.unlink()
    with pytest.raises(GboptError, match=r"label images .* without frames beside them"):
        real_video.judged_frames([sequence])


def test_judged_frames_are_not_learnt_from(sequence: Path) -> None:
    for number in (7, 8, 9):
        (sequence / f"{number:05d}.png").unlink()
    with pytest.raises(GboptError, match="last labels are of frames that are learnt from"):
        real_video.judged_frames([sequence])


def test_run_refuses_two_sequences_of_one_name(sequence: Path, tmp_path: Path) -> None:
    other = shutil.copytree(sequence, tmp_path / "elsewhere" / sequence.name)
    arguments = [str(sequence), str(other), "--out", str(tmp_path / "out"), "--methods", "before"]
    with pytest.raises(GboptError, match="same name"):
        real_video.run(real_video.parse_arguments(arguments))
