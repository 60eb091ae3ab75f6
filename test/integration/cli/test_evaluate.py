"""`gbopt evaluate`: saved masks and networks against labels, and what it says about bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from gbopt_ros import masks as mask_ops
from gbopt_ros.cli import evaluate
from gbopt_ros.cli.main import main
from gbopt_ros.config import Config
from gbopt_ros.evaluation.evaluate import evaluation_config
from gbopt_ros.io.datasets.coco import CocoImage, write_coco
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.models.weights import PROPOSALS, WeightsInfo, save_weights
from gbopt_ros.structures import Rle

NAMES = {10: "frames/0001.png", 20: "frames/0002.png"}


def box(x: int, y: int, side: int = 20) -> Rle:
    mask = np.zeros((60, 80), bool)
    mask[y : y + side, x : x + side] = True
    return mask_ops.encode(mask)


@pytest.fixture
def gt(tmp_path: Path) -> Path:
    """Two labelled images, one instance each, ids 10 and 20."""
    folder = tmp_path / "labels"
    (folder / "images" / "frames").mkdir(parents=True)
    for name in NAMES.values():
        cv2.imwrite(str(folder / "images" / name), np.full((60, 80, 3), 90, np.uint8))
    images = [CocoImage(key, name, 60, 80) for key, name in NAMES.items()]
    write_coco(folder / "gt.json", images, {10: (box(0, 0),), 20: (box(30, 30),)})
    return folder / "gt.json"


def result(image_id: object, rle: object, score: object = 0.5) -> dict[str, object]:
    return {"image_id": image_id, "category_id": 1, "segmentation": rle, "score": score}


def run(gt: Path, content: object, *more: str) -> int:
    path = gt.parent / "masks.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return main(["evaluate", "--gt", str(gt), "--results", str(path), *more])


def printed_ap(capsys: pytest.CaptureFixture[str]) -> str:
    _, row = capsys.readouterr().out.splitlines()
    return row.split()[1]


def test_evaluate_a_result_list(gt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "new" / "out"
    results = [result(10, box(0, 0)), result(20, box(0, 0), 0.25)]
    assert run(gt, results, "--out", str(out)) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["AP", "AP50", "AP75", "AR1", "AR3", "AR5", "AP_S"]
    assert row.split() == ["masks", "50.5", "50.5", "50.5", "50.0", "50.0", "50.0", "50.5"]
    assert sorted(p.name for p in out.iterdir()) == ["metrics.json", "metrics.md", "results.json"]
    summary = json.loads((out / "metrics.json").read_text())
    assert summary["metrics"]["AP"] == pytest.approx(100 * 51 / 101)
    assert (summary["images"], summary["instances"], summary["results"]) == (2, 2, 2)
    _, _, line = (out / "metrics.md").read_text().splitlines()
    assert line == "| masks | 50.5 | 50.5 | 50.5 | 50.0 | 50.0 | 50.0 | 50.5 |"
    saved = json.loads((out / "results.json").read_text())
    assert saved == [
        {"image_id": 10, "segmentation": box(0, 0), "score": 0.5},
        {"image_id": 20, "segmentation": box(0, 0), "score": 0.25},
    ]


def test_evaluate_takes_a_coco_folder(
    gt: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    gt.rename(gt.parent / "annotations.json")
    network = ["evaluate", "--gt", str(gt.parent), "--weights", str(weights)]
    assert run(gt.parent, [result(10, box(0, 0))]) == 0
    assert printed_ap(capsys) == "50.5"
    assert main(network) == 0
    of_images = capsys.readouterr().out
    (gt.parent / "images").rename(tmp_path / "elsewhere")
    assert main(network) == 1
    assert "labels/images: no such folder; give the folder of the images: --images" in (
        capsys.readouterr().err
    )
    assert main([*network, "--images", str(tmp_path / "elsewhere")]) == 0
    assert capsys.readouterr().out == of_images
    (gt.parent / "annotations.json").unlink()
    assert main(network) == 1
    assert "expected a COCO folder; neither annotations.json nor" in capsys.readouterr().err


def test_evaluate_reads_its_own_results(gt: Path, tmp_path: Path):
    assert run(gt, [result(10, box(1, 0))], "--out", str(tmp_path / "a")) == 0
    written = (tmp_path / "a" / "results.json").read_text()
    assert run(gt, written, "--out", str(tmp_path / "b")) == 0
    metrics = [json.loads((tmp_path / d / "metrics.json").read_text()) for d in "ab"]
    assert metrics[0] == metrics[1]


def test_evaluate_uncompressed_masks(gt: Path, capsys: pytest.CaptureFixture[str]):
    runs = [0, *[20, 40] * 20, 60 * 60]
    runs[-2:] = [runs[-2] + runs[-1]]
    assert run(gt, [result(10, {"size": [60, 80], "counts": runs})]) == 0
    assert printed_ap(capsys) == "50.5"


def replayed(images: dict[int, str], annotations: list[dict[str, object]]) -> dict[str, object]:
    entries = [
        {"id": key, "file_name": name, "height": 60, "width": 80} for key, name in images.items()
    ]
    return {"images": entries, "annotations": annotations, "categories": [{"id": 1}]}


@pytest.mark.parametrize(
    ("images", "first", "warning"),
    [
        ({1: "0002.jpg", 2: "0001.jpg", 3: "0003.jpg"}, 2, ""),  # the same names, other ids
        ({10: "a.jpg", 20: "b.jpg"}, 10, ""),  # the same ids, other names
        ({5: "0001.jpg"}, 5, "1 of 2 labelled images are not among those of the results"),
    ],
)
def test_evaluate_a_dataset_with_scores(
    gt: Path,
    images: dict[int, str],
    first: int,
    warning: str,
    capsys: pytest.CaptureFixture[str],
):
    annotations = [
        {"id": 1, "iscrowd": 0, **result(first, box(0, 0))},
        {"id": 2, "iscrowd": 1, **result(first, box(0, 0))},
    ]
    assert run(gt, replayed(images, annotations)) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1].split()[1] == "50.5"
    assert warning in shown.err and ("labelled images" in shown.err) == bool(warning)


@pytest.mark.parametrize(
    "names",
    [
        {"0000.jpg": "0001.jpg", "0001.jpg": "0002.jpg"},  # the labels are of the folder
        {"0001.jpg": "a.jpg", "0002.jpg": "b.jpg"},  # they are of the frames of the replay
        {"0001.jpg": "0002.jpg", "0002.jpg": "0003.jpg"},
    ],
)
def test_evaluate_knows_the_images_of_a_replayed_folder_by_name(
    names: dict[str, str], gt: Path, capsys: pytest.CaptureFixture[str]
):
    """A replay counts from 0: its 0001.jpg is the second image of a folder that begins with it."""
    found = [result(1, box(0, 0)), result(2, box(30, 30))]
    content = replayed(dict(enumerate(names, start=1)), found)
    images: Any = content["images"]
    for image in images:
        image["source_name"] = names[image["file_name"]]
    assert run(gt, content) == 0
    assert printed_ap(capsys) == "100.0"
    labels = gt.parent / "replay.json"  # masks of a replay as labels
    labels.write_text(json.dumps(content))
    assert run(labels, content) == 0
    assert printed_ap(capsys) == "100.0"


def test_evaluate_takes_a_replay_of_which_some_frames_are_labelled(
    gt: Path, capsys: pytest.CaptureFixture[str]
):
    found = [result(1, box(0, 0)), result(2, box(30, 30)), result(3, box(9, 9), 0.9)]
    assert run(gt, replayed({1: "0001.jpg", 2: "0002.jpg", 3: "0003.jpg"}, found)) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1].split()[1] == "100.0"  # the third counts for nothing
    assert shown.err == "2 of 3 images matched with the labels by file name\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON"),
        ("3", "expected a list of results"),
        ('{"a": 1}', "expected a list of results"),
        ([3], "result 0: expected a JSON object, got 3"),
        ([{"image_id": 10}], "expected 'score', it is not there"),
        ([result(11, box(0, 0))], "image id 11 is not in the ground truth"),
        ([result([1], box(0, 0))], "'image_id': expected a whole number of 64 bits"),
        ([result(10, box(0, 0), "high")], "'score': expected a finite number, got 'high'"),
        ([result(10, [[0, 0, 5, 0, 5, 5]])], "segmentation: expected a JSON object"),
        ([result(10, {"size": [60], "counts": "1"})], "size [60], expected [60, 80]"),
        ([result(10, {"size": [60, 80], "counts": 3})], "as text or a list"),
        ([result(10, {"size": [60, 80], "counts": "zzzz"})], "no run lengths"),
        ([result(10, {"size": [60, 80], "counts": [1, 2]})], "do not fill [60, 80]"),
        ([result(10, mask_ops.encode(np.ones((60, 81), bool)))], "expected [60, 80]"),
        ({"annotations": []}, "expected 'images', it is not there"),
        (replayed({1: "9.jpg"}, [{"id": 1}]), "expected 'image_id', it is not there"),
        (replayed({1: "9.jpg"}, [result(1, box(0, 0))]), "which of its 1 images are in"),
        (
            replayed({10: "a.jpg", 11: "b.jpg"}, [result(10, box(0, 0))]),
            "neither file names nor ids tell",
        ),
        (replayed({10: "a.jpg"}, [result(2, box(0, 0))]), "'image_id' is that of no image"),
    ],
)
def test_evaluate_refuses_bad_results(
    gt: Path, content: object, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    out = tmp_path / "out"
    assert run(gt, content, "--out", str(out)) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("gbopt: error: ")
    assert message in error and "masks.json" in error
    assert list(out.iterdir()) == []


def test_evaluate_names_missing_files(gt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    replay = tmp_path / "replay"
    replay.mkdir()
    (replay / "selected.json").touch()
    for arguments, message in (
        (["--gt", str(tmp_path / "no.json"), "--results", "r.json"], "no.json"),
        (["--gt", str(gt), "--results", str(tmp_path / "no.json")], "no.json"),
        (["--gt", str(gt), "--results", str(replay)], "replay: a folder; name the file selected"),
        (["--gt", str(gt), "--weights", str(tmp_path / "no.safetensors")], "no such weights"),
        (
            ["--gt", str(gt), "--weights", "w", "--images", str(tmp_path / "none")],
            "no such folder",
        ),
    ):
        assert main(["evaluate", *arguments]) == 1
        assert message in capsys.readouterr().err


def test_evaluate_refuses_an_unwritable_output(
    gt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").touch()
    assert run(gt, [], "--out", str(tmp_path / "file" / "out")) == 1
    assert "cannot be made a folder" in capsys.readouterr().err


def test_evaluate_exits_with_2_on_wrong_usage(gt: Path):
    for arguments in ([], ["--gt", str(gt)], ["--gt", "a", "--results", "b", "--weights", "c"]):
        with pytest.raises(SystemExit) as stopped:
            main(["evaluate", *arguments])
        assert stopped.value.code == 2


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(
        path, build_mask_rcnn("slim18-fpn"), WeightsInfo(PROPOSALS, "slim18-fpn", "untrained")
    )
    return path


def test_evaluate_a_network(
    gt: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    arguments = ["--gt", str(gt), "--weights", str(weights), "--out", str(out)]
    assert main(["evaluate", *arguments, "--set", "proposal.max_proposals=10"]) == 0
    assert "tiny (untrained)" in capsys.readouterr().out
    summary = json.loads((out / "metrics.json").read_text())
    assert summary["subject"] == "tiny (untrained)"
    results = json.loads((out / "results.json").read_text())
    assert summary["results"] == len(results) <= 20
    assert {entry["image_id"] for entry in results} <= set(NAMES)


def test_evaluate_names_a_missing_image(
    gt: Path, weights: Path, capsys: pytest.CaptureFixture[str]
):
    (gt.parent / "images" / NAMES[20]).unlink()
    assert main(["evaluate", "--gt", str(gt), "--weights", str(weights)]) == 1
    assert "0002.png: image cannot be read (No such file" in capsys.readouterr().err


def test_evaluate_takes_a_hundred_proposals_without_duplicates_unless_the_user_sets_them(
    tmp_path: Path,
):
    """As the Python function and the experiments do."""
    profile = tmp_path / "profile.yaml"
    profile.write_text("proposal: {max_proposals: 7}\n")
    other = tmp_path / "other.yaml"
    other.write_text("selection: {k: 3}\n")
    for path, overrides, expected in (
        (None, [], (100, 0.5)),
        (other, ["proposal.nms_iou=0.6"], (100, 0.6)),
        (profile, [], (7, 0.5)),
        (profile, ["proposal.max_proposals=15"], (15, 0.5)),
        (None, ["proposal.max_proposals=15", "proposal.nms_iou=0.7"], (15, 0.7)),
        (Path("paper"), [], (100, 0.5)),
    ):
        proposal = evaluate._load_config(path, overrides).proposal
        assert (proposal.max_proposals, proposal.nms_iou) == expected


def test_evaluate_help_has_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    usual = evaluation_config(Config()).proposal
    assert f"the {usual.max_proposals} best masks" in told
    assert f"proposal.max_proposals {usual.max_proposals}, proposal.nms_iou {usual.nms_iou}" in told
