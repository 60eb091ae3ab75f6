"""The perfect choice among proposals, as a file of masks."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
import cv2
import numpy as np
from support.fakes import make_proposals

from experiments import perfect_choice
from gbopt_ros.io.datasets.coco import CocoImage, load_coco, write_coco
from gbopt_ros.masks import encode
from gbopt_ros.structures import Image, Proposals


def box(x: int, width: int = 6) -> np.ndarray:
    mask = np.zeros((8, 20), bool)
    mask[1:7, x : x + width] = True
    return mask


class Proposer:
    def propose(self, images: list[Image]) -> list[Proposals]:
        return [make_proposals(np.stack([box(0, 20), box(1), box(11)])) for _ in images]


def test_perfect_choice_writes_the_proposals_that_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 20, 3), np.uint8))
    labels, out = tmp_path / "labels.json", tmp_path / "chosen.json"
    truth = encode(box(0)), encode(box(7, 2))  # the second has no proposal that fits
    write_coco(labels, [CocoImage(3, "a.png", 8, 20)], {3: truth})
    monkeypatch.setattr(perfect_choice, "load_proposal_network", lambda config: Proposer())
    arguments = [str(labels), "--images", str(tmp_path), "--out", str(out)]
    perfect_choice.run(perfect_choice.parse_arguments(arguments))
    assert load_coco(out).rles_by_image == {3: (encode(box(1)),)}
    assert "1 masks for 2 instances in 1 images" in capsys.readouterr().out
