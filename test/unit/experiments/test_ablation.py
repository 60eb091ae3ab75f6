"""The rows of the paper's Table 4."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
import numpy as np
from support.clips import paper
from support.fakes import HashFlow, make_clip, make_proposals

from experiments import ablation
from experiments.ablation import as_proposed
from gbopt_ros.config import load_config
from gbopt_ros.config.load import bundled_profile
from gbopt_ros.io.selection_format import versions
from gbopt_ros.masks import decode
from gbopt_ros.selection import select_clip


def test_masks_of_l_i_alone_are_judged_whole_where_they_overlap() -> None:
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:5, 1:5], masks[1, 1:5, 4:7] = True, True  # one column is shared
    background = np.where(masks.any(axis=0), 0.1, 0.9).astype(np.float32)
    proposals = [make_proposals(masks)]
    clip = make_clip([np.zeros((6, 8, 3), np.uint8)])
    config = replace(paper(overlap_tolerance=1.0), lambda_flow=0.0, lambda_regularization=0.0)
    cut = select_clip(clip, proposals, [background], [], HashFlow(), config)
    assert cut.frames[0].indices == (0, 1)
    assert not (decode(cut.frames[0].rles[0]) & decode(cut.frames[0].rles[1])).any()
    whole = as_proposed(cut, proposals)
    assert whole.frames[0].rles == proposals[0].rles
    assert whole.energy == cut.energy


def test_run_writes_settings_and_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = {"read": (None, None), "table": {}, "judged": ({}, {}), "draw": None, "why": {}}
    for name, value in found.items():
        monkeypatch.setattr(ablation, name, lambda *_, _value=value, **__: _value)
    out, changed = tmp_path / "out", "selection.k=3"
    ablation.run(ablation.parse_arguments(["--quick", "--out", str(out), "--set", changed]))
    written = json.loads((out / "ablation.json").read_text())
    assert written["versions"] == versions()
    assert written["config"] == load_config(None, [changed]).to_dict()
    for name, expected in (
        ("recommended", load_config(None, [changed])),
        ("paper", load_config(bundled_profile("paper"), [changed])),
    ):
        assert written[name]["selection"] == expected.to_dict()["selection"]
    assert written["paper"]["selection"] != written["recommended"]["selection"]
