"""The paper's tables on tiny data: rows and columns, what is missing, and a run that is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from support.fakes import make_proposals
from support.moving_squares import GREEN, RED, SIZE, picture, place
from support.networks import save_random_weights
from torchvision.models.resnet import BasicBlock

from experiments import paper, paper_data, recordings, training_masks
from experiments.methods import fst, ioa, nlc
from gbopt_ros import pipeline
from gbopt_ros.evaluation.coco_metrics import METRICS
from gbopt_ros.io.datasets import unseen_vis
from gbopt_ros.io.datasets.davis import write_label_image
from gbopt_ros.masks import encode
from gbopt_ros.models import mask_rcnn
from gbopt_ros.models.resnet_pyramid import resnet_pyramid
from gbopt_ros.models.weights import PROPOSALS, WeightsInfo, save_weights
from gbopt_ros.structures import Proposals

FRAMES = 2
UNSEEN = [f"unseen {name}" for name in METRICS]
COCO = [f"COCO {name}" for name in ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")]
DAVIS = ["JF", "J", "J_recall", "J_decay", "F", "F_recall", "F_decay"]


def write_frames(folder: Path, seed: int) -> list[dict[int, np.ndarray]]:
    """A red and a green square that move apart; gives their masks of every frame."""
    folder.mkdir(parents=True)
    squares = [{RED: place(4, 8 + 2 * t), GREEN: place(30, 40 - 2 * t)} for t in range(FRAMES)]
    for t, found in enumerate(squares):
        image = cv2.cvtColor(picture(found, seed), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{t:05d}.jpg"), image)
    return squares


def write_youtube_vis(folder: Path) -> None:
    categories = {
        name: number for number, name in enumerate((*unseen_vis.SEEN, *unseen_vis.UNSEEN), 1)
    }
    content: dict[str, list[Any]] = {"videos": [], "annotations": []}
    for number in (1, 2, 3):
        squares = write_frames(folder / "JPEGImages" / f"v{number}", number)
        names = [f"v{number}/{t:05d}.jpg" for t in range(FRAMES)]
        content["videos"].append(
            {"id": number, "height": SIZE[0], "width": SIZE[1], "file_names": names}
        )
        content["annotations"] += [
            {"id": 2 * number + square, "video_id": number, "category_id": categories["fox"],
             "iscrowd": 0, "segmentations": [encode(found[square]) for found in squares]}
            for square in (RED, GREEN)
        ]  # fmt: skip
    content["categories"] = [{"id": key, "name": name} for name, key in categories.items()]
    (folder / "instances.json").write_text(json.dumps(content))


def write_coco(folder: Path) -> None:
    (folder / "annotations").mkdir(parents=True)
    for split, seed in (("train2017", 4), ("val2017", 5)):
        squares = write_frames(folder / split, seed)
        content = {
            "images": [
                {"id": t, "file_name": f"{t:05d}.jpg", "height": SIZE[0], "width": SIZE[1]}
                for t in range(FRAMES)
            ],
            "annotations": [
                {"id": 2 * t + square, "image_id": t, "category_id": 1, "iscrowd": 0,
                 "segmentation": encode(found[square])}
                for t, found in enumerate(squares) for square in (RED, GREEN)
            ],
            "categories": [{"id": 1, "name": "person"}],
        }  # fmt: skip
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def write_davis(folder: Path) -> None:
    (folder / "ImageSets/2017").mkdir(parents=True)
    for subset, seed in (("train", 6), ("val", 7)):
        squares = write_frames(folder / "JPEGImages/480p" / subset, seed)
        for t, found in enumerate(squares):
            label = found[RED].astype(np.uint8) + 2 * found[GREEN].astype(np.uint8)
            path = folder / "Annotations_unsupervised/480p" / subset / f"{t:05d}.png"
            write_label_image(path, label, [])
        (folder / f"ImageSets/2017/{subset}.txt").write_text(f"{subset}\n")


class Oracle:
    """Knows the squares by their colours; proposes a corner that is no object, too."""

    version = "oracle"
    calibration = None

    def propose(self, images: Sequence[np.ndarray]) -> list[Proposals]:
        corner = np.zeros(SIZE, bool)
        corner[:4, :4] = True
        return [
            make_proposals(
                np.array([image[..., RED] > 120, image[..., GREEN] > 120, corner]), (0.9, 0.8, 0.1)
            )
            for image in images
        ]

    def background(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        shown = [image[..., [RED, GREEN]].max(axis=2) > 120 for image in images]
        return [np.where(squares, 0.1, 0.9).astype(np.float32) for squares in shown]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with data and random weights; networks and methods that look at little."""
    folder = tmp_path_factory.mktemp("paper")
    architecture = mask_rcnn.ARCHITECTURES["slim18-fpn"]
    little = replace(
        architecture, pyramid=partial(resnet_pyramid, BasicBlock, (1, 1, 1, 1), (8, 16, 16, 16)),
        pyramid_channels=16, box_channels=16, mask_channels=16, short_side=64,
        train_proposals=8, test_proposals=8,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mask_rcnn.ARCHITECTURES, "slim18-fpn", little)
        for module in (recordings, pipeline):
            patch.setattr(module, "load_proposal_network", lambda config: Oracle())
        patch.setattr(pipeline, "load_background_network", lambda config: Oracle())
        patch.setattr(ioa, "_STEPS", 1)
        patch.setattr(nlc, "_LONGER_SIDE", 64)
        patch.setattr(fst, "_SUPERPIXELS", 60)
        patch.setenv("XDG_CACHE_HOME", str(folder / "none"))  # no weights were pulled
        write_youtube_vis(folder / "youtube-vis")
        write_coco(folder / "coco")
        write_davis(folder / "davis")
        save_random_weights(folder)
        torch.manual_seed(0)
        save_weights(
            folder / "proposals.safetensors", mask_rcnn.build_mask_rcnn("slim18-fpn"),
            WeightsInfo(PROPOSALS, "slim18-fpn", "random"),
        )  # fmt: skip
        yield folder


def tables(folder: Path, *more: str) -> dict[str, Any]:
    """What a run writes, as JSON."""
    settings = (
        "device=cpu", f"background.weights={folder}/background.safetensors",
        "background.short_side=64", "proposal.short_side=64", "selection.k=2", "learning.warmup=0",
        "pretrain.proposal_architecture=slim18-fpn", "pretrain.warmup=0",
    )  # fmt: skip
    sets = [part for setting in settings for part in ("--set", setting)]
    paper.run(
        paper.parse_arguments(
            ["--youtube-vis", f"{folder}/youtube-vis", "--quick", "--out", f"{folder}/out",
             "--weights", f"{folder}/proposals.safetensors", *sets, *more]
        )
    )  # fmt: skip
    found: dict[str, Any] = json.loads((folder / "out/paper.json").read_text())["tables"]
    return found


@pytest.fixture(scope="module")
def made(small: Path) -> dict[str, Any]:
    """All tables, from all data but the masks of RVOS."""
    return tables(small, "--coco", f"{small}/coco", "--davis", f"{small}/davis")


def test_run_makes_the_rows_and_columns_of_all_tables(small: Path, made: dict[str, Any]) -> None:
    labels = {number: [row["label"] for row in table["rows"]] for number, table in made.items()}
    before, starts = "before fine-tuning", ["NLC", "IOA", "FST", "UnOVOST", "TWB", "Data", "ZS-UVC"]
    assert labels["1"][0] == before and labels["1"][-1] == "ours"
    assert [a.startswith(b) for a, b in zip(labels["1"][1:-1], starts, strict=True)] == [True] * 7
    assert labels["2"][:3] == [before, "RVOS", "ours"] and labels["2"][3].startswith("OS-UVC")
    assert labels["2"][4:] == ["selected using GT", "trained with GT"]
    assert labels["3"] == ["UnOVOST", "UnOVOST+"]
    assert labels["4"] == [before, *(training_masks.LABELS[m] for m in training_masks.ABLATION)]
    assert [(row["label"], row["strategy"]) for row in made["5"]["rows"]] == [
        ("COCO alone", ""), ("trained with GT", "retrain"), ("ours", "retrain"),
        ("trained with GT", "finetune"), ("ours", "finetune"),
    ]  # fmt: skip
    columns = dict.fromkeys("124", UNSEEN) | {"3": DAVIS, "5": [*UNSEEN, *COCO]}
    for number, table in made.items():
        for row in table["rows"]:
            assert list(row["cells"]) == columns[number]
            numbers = [cell for cell in row["cells"].values() if cell is not None]
            if row["label"] == "RVOS":
                assert set(numbers) == {"needs masks of RVOS: file:PATH"}
            else:
                assert all(isinstance(cell, float) and -100 <= cell <= 100 for cell in numbers)
    text = (small / "out/paper.md").read_text()
    assert "|  | strategy | unseen AP | unseen AP50 |" in text and "| paper: unseen AP |" in text
    assert text.count("**Table") == 5
    assert (small / "out/paper.svg").stat().st_size > 0


def test_rows_of_equal_masks_share_one_training(small: Path, made: dict[str, Any]) -> None:
    """The oracle's squares are the ground truth, and selection leaves out its corner."""
    rows = [*made["2"]["rows"][4:], made["1"]["rows"][-1], *made["4"]["rows"][1:]]
    assert all(row["cells"] == rows[0]["cells"] for row in rows)
    cache = small / "out/cache"
    known = [json.loads(path.read_text()) for path in cache.glob("training-masks-*.json")]
    learnt = [entry["value"] for entry in known]
    for entry in known:
        if entry["inputs"]["method"][0] in ("ours", "gt", "truth", *training_masks.ABLATION):
            quality = entry["value"]["quality"]
            assert (quality["precision"], quality["recall"]) == (100, 100)
    networks = list(cache.glob("network-*.safetensors"))
    assert len(networks) == len({value["digest"] for value in learnt}) + 1  # and one retrained


def test_unovost_on_davis_finds_the_squares(made: dict[str, Any]) -> None:
    for row in made["3"]["rows"]:  # the masks of the oracle, but for the edges that JPEG blurs
        assert row["cells"]["J"] > 95 and row["cells"]["J_recall"] == 100


def test_second_run_computes_nothing(
    small: Path, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MaskMaker", "fine_tune", "pretrain_proposals", "evaluate_network", "save_weights",
                 "build_unseen_vis"):  # fmt: skip
        module = paper_data if name == "build_unseen_vis" else paper
        monkeypatch.setattr(module, name, None)
    assert tables(small, "--coco", f"{small}/coco", "--davis", f"{small}/davis") == made


def test_cells_say_what_is_missing(small: Path, made: dict[str, Any]) -> None:
    found = tables(small, "--tables", "1", "3", "5", "--set", "flow.backend=auto")

    def said(number: str, column: str) -> list[Any]:
        return [row["cells"][column] for row in found[number]["rows"]]

    assert said("3", "JF") == said("3", "F_decay") == ["needs --davis"] * 2
    assert said("5", "COCO AP") == ["needs --coco"] * 5
    flow = "needs raft_large_things"
    numbers = [row["cells"]["unseen AP"] for row in made["1"]["rows"]]
    expected = dict(enumerate(numbers)) | dict.fromkeys((1, 3, 4, 8), flow) | {6: "needs --coco"}
    assert said("1", "unseen AP") == [expected[i] for i in range(9)]
    assert said("5", "unseen AP")[1:3] == ["needs --coco"] * 2


def test_parse_arguments_takes_masks_of_rvos_as_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        paper.parse_arguments(["--rvos", "masks"])
    assert "--rvos: expected file:PATH, got masks" in capsys.readouterr().err
