"""Model cards: what they say of a version, as JSON and as Markdown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.networks import tiny_mask_rcnn

from gbopt_ros.cli.main import main
from gbopt_ros.config import Config, ProposalConfig
from gbopt_ros.learning.data.datasets import SelectedImage
from gbopt_ros.learning.store.model_card import data_by_clip, licence_of_weights
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.masks import encode_all
from gbopt_ros.models.weights import PROPOSALS, WeightsInfo
from gbopt_ros.structures import Calibration

FACTS = {
    "gate": {"passed": True, "reason": "AP 50.1 against 49.9", "child_ap": 50.1},
    "frames": 3,
    "instances": 5,
    "teachers": ["yolo"],
    "origin": "ab" * 32,
    "origin_licence": "MIT (x/y)",
    "teacher_licence": "AGPL-3.0 | ask",
    "data": [
        {"recording": "a|<b>", "clips": [{"clip": 2, "frames": 3, "masks": 5, "verified": 1}]}
    ],
}


def test_data_by_clip_counts_frames_masks_and_what_a_person_verified() -> None:
    rles = encode_all(np.ones((2, 4, 4), bool))
    image = SelectedImage(Path("0.png"), rles, (0.5, 1.0), "a", 0)
    entries = [image, replace(image, verified=(False, True)), replace(image, recording="b")]
    assert data_by_clip(entries) == [
        {"recording": "a", "clips": [{"clip": 0, "frames": 2, "masks": 4, "verified": 1}]},
        {"recording": "b", "clips": [{"clip": 0, "frames": 1, "masks": 2, "verified": 0}]},
    ]


def test_card_is_published_with_a_version_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ModelStore(tmp_path)
    info = WeightsInfo(PROPOSALS, "slim18-fpn", "seed", calibration=Calibration(0.1, 0.2, 0.3))
    version = models.publish(tiny_mask_rcnn(), info, FACTS)
    card = json.loads(version.path.with_name("card.json").read_text())
    assert {key: card[key] for key in ("version", "parent", "masks", "data", "gate")} == {
        "version": "v0001", "parent": "seed", "masks": 5,
        "data": FACTS["data"], "gate": FACTS["gate"],
    }  # fmt: skip
    assert card["sha256"] == version.manifest["sha256"]
    assert card["calibration"] == {"bias": 0.1, "margin": 0.2, "score": 0.3}
    assert card["licences"] == {"origin": "MIT (x/y)", "teacher": "AGPL-3.0 | ask"}
    page = version.path.with_name("card.md").read_text()
    assert "| a\\|&lt;b> | 2 | 3 | 5 | 1 |" in page
    assert "- origin: MIT (x/y)" in page and "| reason | AP 50.1 against 49.9 |" in page
    assert main(["models", "card", str(tmp_path)]) == 0
    assert capsys.readouterr().out == page


def test_card_of_a_version_of_an_older_release(tmp_path: Path) -> None:
    models = ModelStore(tmp_path)
    version = models.publish(tiny_mask_rcnn(), WeightsInfo(PROPOSALS, "slim18-fpn", "seed"), {})
    manifest = {k: version.manifest[k] for k in ("version", "parent", "sha256", "created")}
    version.path.with_name("manifest.json").write_text(json.dumps(manifest))
    assert main(["models", "card", str(tmp_path), "--version", "v0001"]) == 0


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("", "Apache-2.0; what it was trained on: demo/weights/NOTICE of gbopt_ros"),
        ("u2netp", "Apache-2.0 (xuebinqin/U-2-Net; converted by danielgatis/rembg); the data that"),
        ("mine.pth", "that of the seed network: ask its publisher"),
    ],
)
def test_licence_of_weights(weights: str, expected: str) -> None:
    config = replace(Config(), proposal=ProposalConfig(weights=weights))
    assert licence_of_weights(config).startswith(expected)
