"""What is said of the masks that are learnt and of the objects that are missed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from experiments import error_analysis
from experiments.cache import Cache
from gbopt_ros.config import load_config
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.masks import encode
from gbopt_ros.structures import GboptError, Rle

CONFIG = load_config(None, ["device=cpu", "learning.min_confidence=0.5"])


def area(left: int, right: int) -> Rle:
    """Rows 2 to 7 of the columns `left` to `right`, exclusive, of 10 x 80."""
    mask = np.zeros((10, 80), bool)
    mask[2:8, left:right] = True
    return encode(mask)


OBJECTS = area(0, 10), area(20, 30), area(40, 50), area(60, 70)


def test_views_are_as_far_as_the_best_mask_that_fits() -> None:
    found = error_analysis.views(OBJECTS, OBJECTS[:1], OBJECTS[:2], OBJECTS[1:3])
    assert found == [("learnt", False), ("unsure", True), ("unselected", True), ("unfit", False)]
    assert error_analysis.missed(found) == 2  # nothing is missed that is not proposed
    assert error_analysis.views(OBJECTS, (), (), ()) == [("unfit", False)] * 4
    assert error_analysis.views((), OBJECTS, OBJECTS, OBJECTS) == []


def test_views_count_a_mask_for_one_object_alone() -> None:
    halves = area(0, 10), area(10, 20)
    both = [area(0, 20)]
    seen = error_analysis.views(halves, both, both, both)
    assert sorted(view.fate for view in seen) == ["learnt", "unfit"]


def test_errors_tell_what_is_wrong_with_a_mask() -> None:
    masks = [area(0, 9), area(0, 6), area(22, 26), area(45, 57), area(70, 80), area(28, 36)]
    #        right       a second of  IoU 0.4 of   IoU 0.29, less  beside an   a quarter
    #                    the first    the second   than half of it  object     on an object
    assert error_analysis.errors(masks, OBJECTS) == [
        "right",
        "near",
        "near",
        "none",
        "none",
        "none",
    ]
    assert error_analysis.errors([area(22, 24)], OBJECTS) == ["part"]
    assert error_analysis.errors([area(0, 10)], ()) == ["none"]
    assert error_analysis.errors([], OBJECTS) == []


def frame(index: int, *masks: tuple[Rle, float]) -> SelectedFrame:
    return SelectedFrame(
        recording="recording",
        clip_id=0,
        frame_index=index,
        stamp_ns=index,
        image_path=Path(f"{index}.jpg"),
        size=(10, 80),
        rles=tuple(rle for rle, _ in masks),
        scores=(1.0,) * len(masks),
        confidences=tuple(value for _, value in masks),
    )


@pytest.fixture
def tabletop(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Two frames of four objects, the last of which is never proposed; masks as given here."""
    wrong = area(72, 80)
    frames = [
        frame(0, (OBJECTS[0], 0.9), (OBJECTS[1], 0.4), (wrong, 0.6)),
        frame(1, (OBJECTS[0], 0.8), (OBJECTS[1], 0.7), (wrong, 0.2)),
    ]

    class Maker:
        def __init__(self, *arguments: object) -> None:
            self.recalibrates = arguments[3].learning.cross_clip_confidence

        def selected(self, row: str) -> list[SelectedFrame]:
            assert row == "ours"
            before = (0.6, 0.6, 0.4), (0.6, 0.6, 0.6)
            if self.recalibrates:
                return frames
            return [replace(f, confidences=c) for f, c in zip(frames, before, strict=True)]

        def candidates(self) -> dict:
            proposals = SimpleNamespace(rles=OBJECTS[:3])
            return {("recording", index): proposals for index in (0, 1)}

    monkeypatch.setattr(error_analysis, "MaskMaker", Maker)
    names = dict.fromkeys((0, 1), ("mug 0", "domino 1", "mug 2", "arm 3"))
    recording = SimpleNamespace(
        truth=dict.fromkeys((0, 1), OBJECTS),
        names=names,
        labels=Path("environment/train/labels.json"),
    )
    return SimpleNamespace(train=recording, rehearsal=None)


def test_examined_and_markdown_tell_of_an_environment(
    tabletop: SimpleNamespace, tmp_path: Path
) -> None:
    found = error_analysis.examined(tabletop, CONFIG, Cache(tmp_path))
    assert found["objects"] == {
        "views": 8, "missed": 3, "proposed": 75.0,
        "learnt": 37.5, "unsure": 12.5, "unselected": 25.0, "unfit": 25.0,
    }  # fmt: skip
    assert found["errors"] == {"right": 75.0, "near": 0.0, "part": 0.0, "none": 25.0}
    assert list(found["by_object"]) == ["mug 2", "domino 1", "mug 0", "arm 3"]
    assert [each["missed"] for each in found["by_object"].values()] == [2, 1, 0, 0]
    assert found["by_object"]["domino 1"]["learnt"] == 50.0
    told = found["confidences"]
    assert told["selected"] == pytest.approx({"precision": 200 / 3, "recall": 50.0})
    ranked = {key: told["before"].pop(key) for key in ("area", "tenths")}
    assert ranked["area"] == 0.75 and told["before"] == {"precision": 80.0, "recall": 50.0}
    assert [each["masks"] for each in ranked["tenths"]] == [0, 0, 0, 0, 1, 0, 5, 0, 0, 0]
    assert ranked["tenths"][6]["right"] == 80.0
    told["before"] |= ranked
    assert told["recalibrated"]["area"] == 7 / 8
    assert (told["recalibrated"]["precision"], told["recalibrated"]["recall"]) == (75.0, 37.5)
    table = error_analysis.markdown({"5": found})
    assert "| 5 | 66.7 / 50.0 | 0.75 | 80.0 / 50.0 | 0.88 | 75.0 / 37.5 |" in table
    assert "| 5 | 75.0 | 0.0 | 0.0 | 25.0 | 37.5 | 12.5 | 25.0 | 25.0 | 25.0 |" in table
    assert "| 5 | domino 1 | 2 | 100 | 100 | 50 |" in table
    assert (
        "|  |  | 0 % (1) |  | 100 % (1) |  | 0 % (1) | 100 % (1) | 100 % (1) | 100 % (1) |" in table
    )
    assert "| 5 | arm 3 | 2 | 0 | 0 | 0 |" in table
    told["before"]["area"] = None  # masks that are all right, or all wrong
    assert "| 5 | 66.7 / 50.0 |  | 80.0 / 50.0 | 0.88 | 75.0 / 37.5 |" in error_analysis.markdown(
        {"5": found}
    )


def test_examined_refuses_an_environment_without_names(
    tabletop: SimpleNamespace, tmp_path: Path
) -> None:
    tabletop.train.names = {}
    with pytest.raises(GboptError, match=r"no names, .* remove environment,"):
        error_analysis.examined(tabletop, CONFIG, Cache(tmp_path))
