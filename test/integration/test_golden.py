"""What the demo recording gives must not change unnoticed: masks, energies, confidences, learning.

`golden.json` holds what these tests found when it was written. Where a change of results is meant,
write it anew and look at the difference:

    GBOPT_WRITE_GOLDEN=1 .venv/bin/python -m pytest test/integration/test_golden.py

Processors round differently, so networks differ in the last bits, and a pixel at the edge of a mask
or a near tie between two combinations may fall the other way. The tolerances allow that and no
more: a change of any weight or default by a few percent moves more. `test/support/digests.py`
compares to the bit on one machine.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.digests import ROOT, replay

from gbopt_ros.config import LearningConfig
from gbopt_ros.io.datasets.coco import load_coco_dir
from gbopt_ros.learning.data.datasets import CocoInstances
from gbopt_ros.learning.training import trainer
from gbopt_ros.learning.training.fine_tuning import fine_tune
from gbopt_ros.masks import iou_matrix
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.structures import Rle

GOLDEN = Path(__file__).with_name("golden.json")
WRITES = "GBOPT_WRITE_GOLDEN" in os.environ
SECONDS = 7.0  # of the recording: two clips of ten frames
STEPS = 2

SAME_IOU = 0.95  # a mask is the same from here on
MISSING = 0.05  # share of masks that may have fallen the other way
ENERGY = 2e-3  # relative, and absolute for energies near 0
CONFIDENCE = 0.02
CHANGE = 0.1  # relative, of how far weights moved


@pytest.fixture(scope="module")
def golden() -> Any:
    """The recorded values; written at the end where that is asked for."""
    values = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    yield values
    if WRITES:
        GOLDEN.write_text(json.dumps(values, indent=1) + "\n")


def selected_in(out: Path) -> dict[str, Any]:
    """Masks and confidences of every frame, energies of every clip."""
    content = json.loads((out / "selected.json").read_text())
    size = [content["images"][0]["height"], content["images"][0]["width"]]
    frames: dict[str, Any] = {str(image["id"]): [] for image in content["images"]}
    for each in content["annotations"]:
        found = [each["segmentation"]["counts"], round(each["confidence"], 4)]
        frames[str(each["image_id"])].append(found)
    run = json.loads((out / "run.json").read_text())
    return {
        "size": size,
        "frames": frames,
        "energies": [round(clip["energy"], 6) for clip in run["clips"]],
    }


@pytest.mark.parametrize("profile", ["default", "robot", "paper"])
def test_replay_gives_the_golden_masks(profile: str, golden: Any, tmp_path: Path) -> None:
    options = [f"--end={SECONDS}"]
    if profile != "default":
        options += ["--config", str(ROOT / "config" / f"{profile}.yaml")]
    found = selected_in(replay(tmp_path / "out", options))
    if WRITES:
        golden[profile] = found
    expected = golden[profile]
    assert found["frames"].keys() == expected["frames"].keys()
    np.testing.assert_allclose(found["energies"], expected["energies"], ENERGY, ENERGY)
    missing = total = 0
    for number, before in expected["frames"].items():
        now = found["frames"][number]
        total += len(before) + len(now)
        iou = iou_matrix(*(as_rles(masks, expected["size"]) for masks in (before, now)))
        same = iou >= SAME_IOU
        missing += (~same.any(axis=1)).sum() + (~same.any(axis=0)).sum()
        for i, j in np.argwhere(same):
            assert now[j][1] == pytest.approx(before[i][1], abs=CONFIDENCE)
    assert total > 80
    assert missing <= MISSING * total


def as_rles(masks: list[Any], size: list[int]) -> list[Rle]:
    return [Rle(size=size, counts=counts) for counts, _ in masks]


def test_fine_tune_moves_weights_as_far_as_the_golden_run(
    golden: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On labelled images alone: what is selected differs a little from machine to machine.

    In float32 on all of them: with the bfloat16 of some processors, weights of small gradients move
    by half as much again.
    """
    monkeypatch.setattr(trainer, "has_fast_bfloat16", lambda _: False)
    parent, _ = load_mask_rcnn(ROOT / "demo/weights/proposals.safetensors")
    labelled = CocoInstances(load_coco_dir(ROOT / "demo/rehearsal"))
    config = LearningConfig(iterations=STEPS, batch_size=4, warmup=1)
    trained, log = fine_tune(parent, None, labelled, config, torch.device("cpu"))
    before = parent.state_dict()
    found = {
        "losses": [round(value, 5) for value in log.total],
        "moved": {
            name: float(torch.linalg.vector_norm((value - before[name]).double()))
            for name, value in trained.state_dict().items()
            if name.endswith("weight") and value.ndim > 1
        },
    }
    if WRITES:
        golden["fine_tune"] = found
    expected = golden["fine_tune"]
    np.testing.assert_allclose(found["losses"], expected["losses"], 0.02)
    assert found["moved"].keys() == expected["moved"].keys()
    for name, distance in expected["moved"].items():
        assert found["moved"][name] == pytest.approx(distance, rel=CHANGE), name
    assert min(expected["moved"].values()) > 0
