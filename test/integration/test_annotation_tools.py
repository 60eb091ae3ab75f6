"""Masks that go through the libraries of annotation tools, are edited there, and come back.

The libraries want older NumPy and OpenCV than this package runs with. So they have an environment
of their own, as they have in life; `GBOPT_TOOLS_PYTHON` names its Python:

    python3 -m venv tools
    tools/bin/pip install -r test/support/annotation_tools/requirements.txt
    GBOPT_TOOLS_PYTHON=tools/bin/python .venv/bin/python -m pytest \
      test/integration/test_annotation_tools.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.learning.data.verdicts import StoredFrame, StoredMask, Verdict
from gbopt_ros.learning.store.store import Reviewed, Store
from gbopt_ros.masks import checked_rle, decode, encode, encode_all, iou_matrix

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "test" / "support" / "annotation_tools"
PYTHON = os.environ.get("GBOPT_TOOLS_PYTHON", sys.executable)
SIZE = (60, 80)
POLYGON = [3, 3, 13, 3, 13, 11, 3, 11]  # x0, y0, x1, y1 ...


def masks(number: int) -> np.ndarray:
    """(2, 60, 80) bool: a ring, and an object that something in front of it cuts in two."""
    rows, columns = np.indices(SIZE)
    distance = np.hypot(rows - 22, columns - 24 - 2 * number)
    found = np.zeros((2, *SIZE), bool)
    found[0] = (distance < 13) & (distance > 5)
    found[1] = np.hypot(rows - 44, (columns - 50) / 2) < 11
    found[1, :, 46 + number : 52 + number] = False
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    frames = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), np.uint8)
        cv2.imwrite(str(path), pixels)
        frames.append(
            SelectedFrame("desk", number // 2, number, 9 + number, path, SIZE,
                          encode_all(masks(number)), (0.9, 0.4), (0.75, 0.25), "v0003", (5, 6))
        )  # fmt: skip
    made = Store(tmp_path / "store")
    with made.training_set() as training_set:
        training_set.add(frames)
    return made


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    """What a person does: a ring grows, a mask of frame 1 is removed, one of frame 2 is drawn."""
    rows, columns = np.indices(SIZE)
    grown = masks(0)[0] | (np.hypot(rows - 22, columns - 34) < 12)
    path = tmp_path / "edits.json"
    edit = {"changed": 1, "mask": grown.tolist(), "removed": 4, "polygon": POLYGON}
    path.write_text(json.dumps(edit))
    return path


def run(tool: str, *arguments: str | Path) -> None:
    """Run a script by the Python that has the libraries, without a network."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"FIFTYONE_DO_NOT_TRACK": "true", "HOME": str(Path(arguments[-1]).parent)}
    done = subprocess.run(
        [PYTHON, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300
    )
    missing = re.search(rf"No module named '({tool}\b|pycocotools)", done.stderr)
    if missing:
        pytest.skip(f"no {tool} for {PYTHON}; GBOPT_TOOLS_PYTHON names a Python that has it")
    assert done.returncode == 0, done.stderr


def edited(store: Store, edits: Path, export: Path, layout: str = "coco") -> None:
    """Export, and tell the edits the name of the image of frame 2."""
    store.export(export, layout)
    (labels,) = export.glob("*.json")
    content: dict[str, Any] = json.loads(labels.read_text())
    edit = json.loads(edits.read_text()) | {"image": content["images"][2]["file_name"]}
    edits.write_text(json.dumps(edit))


def check_imported(store: Store, edits: Path, labels: Path, *, as_outlines: bool) -> None:
    """Take labels over; what nobody changed is as it was, to the last bit, but verified.

    Args:
        as_outlines: whether the tool made outlines of masks: what was changed lost its hole.
    """
    with store.training_set() as training_set:
        before = training_set.frames()
    assert store.import_labels(labels) == Reviewed(3, 6, 1)
    with store.training_set() as training_set:
        after = training_set.frames()
    first, second, third = ({mask.rle["counts"]: mask for mask in frame.masks} for frame in after)
    ring, *others = (mask for frame in before for mask in frame.masks)
    assert second.pop(others[2].rle["counts"]) == replace(others[2], verdict=Verdict.REJECTED)
    for mask, found in zip(
        [others[0], others[1], *others[3:]], (first, second, third, third), strict=True
    ):
        assert found.pop(mask.rle["counts"]) == replace(mask, verdict=Verdict.VERIFIED)
    assert not second
    (changed,), (drawn,) = first.values(), third.values()
    expected = np.array(json.loads(edits.read_text())["mask"], bool)
    if as_outlines:
        filled = cv2.morphologyEx(expected.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((11, 11)))
        assert iou_matrix([changed.rle], [encode(filled > 0)])[0, 0] > 0.9
    else:
        assert np.array_equal(decode(changed.rle), expected)
    assert changed == StoredMask(changed.rle, 1.0, 1.0, Verdict.VERIFIED, ring.track_id)
    assert drawn == StoredMask(checked_rle([POLYGON], SIZE), 1.0, 1.0, Verdict.VERIFIED)
    assert [facts(frame) for frame in after] == [facts(frame) for frame in before]


def facts(frame: StoredFrame) -> StoredFrame:
    return replace(frame, masks=())


@pytest.mark.parametrize("mode", ["mask", "guess", "cvat"])
def test_datumaro_gives_masks_back_as_masks_or_as_polygons(
    store: Store, edits: Path, tmp_path: Path, mode: str
) -> None:
    edited(store, edits, tmp_path / "out")
    run("datumaro", SCRIPTS / "datumaro_tool.py", tmp_path / "out", edits, tmp_path / "back", mode)
    check_imported(store, edits, tmp_path / "back", as_outlines=False)


def test_label_studio_gives_every_part_back_as_a_polygon(
    store: Store, edits: Path, tmp_path: Path
) -> None:
    edited(store, edits, tmp_path / "out")
    tasks, tool = tmp_path / "tasks.json", SCRIPTS / "label_studio_tool.py"
    run("label_studio_sdk", ROOT / "examples" / "label_studio_tasks.py", tmp_path / "out", tasks)
    run("label_studio_sdk", tool, tasks, edits, tmp_path / "back")
    check_imported(store, edits, tmp_path / "back", as_outlines=True)


def test_fiftyone_gives_masks_back_as_masks(store: Store, edits: Path, tmp_path: Path) -> None:
    edited(store, edits, tmp_path / "out", "fiftyone")
    run("fiftyone", SCRIPTS / "fiftyone_tool.py", tmp_path / "out", edits, tmp_path / "back")
    check_imported(store, edits, tmp_path / "back", as_outlines=False)
