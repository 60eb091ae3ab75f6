"""Recordings of Rerun, read back by Rerun."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gbopt_ros.io.rerun_file import check_new, write_rerun
from gbopt_ros.masks import encode
from gbopt_ros.structures import GboptError

SIZE = 24, 32
START_NS = 1_700_000_000_000_000_123


def square(left: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[4:12, left : left + 8] = True
    return mask


def write_replay(folder: Path, tracks: tuple[int, int] | None) -> None:
    """Two frames: with two masks, and with none."""
    (folder / "frames").mkdir(parents=True)
    images, annotations = [], []
    for i, index in enumerate((3, 5)):
        cv2.imwrite(str(folder / "frames" / f"{index}.jpg"), np.full((*SIZE, 3), 90, np.uint8))
        energy = {"background": -0.5, "flow": 0.25 * i, "regularization": -1.0}
        images.append({
            "id": i + 1, "file_name": f"{index}.jpg", "height": SIZE[0], "width": SIZE[1],
            "frame_index": index, "stamp_ns": START_NS + i * 10**8, "clip_id": 0, "energy": energy,
        })  # fmt: skip
    for i, left in enumerate((2, 16)):
        entry = {
            "id": i + 1, "image_id": 1, "segmentation": encode(square(left)), "score": 0.5,
            "confidence": 0.25 + 0.5 * i,
        }  # fmt: skip
        annotations.append(entry | ({"track_id": tracks[i]} if tracks else {}))
    content = {"info": {"recording": "cups"}, "images": images, "annotations": annotations}
    (folder / "selected.json").write_text(json.dumps(content))


def columns(path: Path) -> dict[str, dict[str, list[Any]]]:
    """The columns of every entity of a recording, rows in the order of their time."""
    rerun = pytest.importorskip("rerun.chunk", reason="needs the extra `rerun` (rerun-sdk)")
    found: dict[str, dict[str, list[Any]]] = {}
    for chunk in rerun.RrdReader(path).stream():
        entity = found.setdefault(str(chunk.entity_path), {})
        batch = chunk.to_record_batch()
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            if "timestamp" in str(values.type):
                values = values.cast("int64")
            entity.setdefault(name, []).extend(values.to_pylist())
    return found


@pytest.mark.parametrize(("tracks", "ids"), [((7, 300), (7, 300)), (None, (1, 2))])
def test_recording_has_frames_masks_and_numbers(
    tmp_path: Path, tracks: tuple[int, int] | None, ids: tuple[int, int]
) -> None:
    pytest.importorskip("rerun", reason="needs the extra `rerun` (rerun-sdk)")
    write_replay(tmp_path / "replay", tracks)
    path = tmp_path / "out.rrd"
    check_new(path)
    assert write_rerun(tmp_path / "replay", path) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.rrd", "replay"]
    found = columns(path)
    masks, camera = found["/camera/masks"], found["/camera"]
    assert masks["frame"] == camera["frame"] == [3, 5]
    assert masks["time"] == camera["time"] == [START_NS, START_NS + 10**8]
    expected = ids[0] * square(2).astype(np.uint16) + ids[1] * square(16).astype(np.uint16)
    (name,) = (name for name in masks if name.endswith(":buffer"))
    first, second = (np.frombuffer(bytes(row[0]), np.uint16).reshape(SIZE) for row in masks[name])
    np.testing.assert_array_equal(first, expected)
    assert not second.any()
    (name,) = (name for name in camera if name.endswith(":blob"))
    jpeg = (tmp_path / "replay" / "frames" / "3.jpg").read_bytes()
    assert bytes(camera[name][0][0]) == jpeg

    def scalars(entity: str) -> list[float]:
        (name,) = (name for name in found[entity] if name.endswith(":scalars"))
        return [row[0] for row in found[entity][name]]

    assert scalars(f"/confidence/{ids[0]}") == [0.25]
    assert scalars(f"/confidence/{ids[1]}") == [0.75]
    assert scalars("/energy/flow") == [0.0, 0.25]
    assert scalars("/energy/background") == [-0.5, -0.5]


def test_write_rerun_leaves_nothing_if_it_fails(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="needs the extra `rerun` (rerun-sdk)")
    write_replay(tmp_path / "replay", None)
    (tmp_path / "replay" / "frames" / "5.jpg").unlink()
    with pytest.raises(GboptError, match=r"5\.jpg: frame of the replay output is missing"):
        write_rerun(tmp_path / "replay", tmp_path / "out.rrd")
    assert [p.name for p in tmp_path.iterdir()] == ["replay"]


@pytest.mark.parametrize("energy", [None, {"flow": "low"}])
def test_write_rerun_refuses_energies_that_are_no_numbers(tmp_path: Path, energy: Any) -> None:
    pytest.importorskip("rerun", reason="needs the extra `rerun` (rerun-sdk)")
    write_replay(tmp_path / "replay", None)
    selected = tmp_path / "replay" / "selected.json"
    content = json.loads(selected.read_text())
    content["images"][0]["energy"] = energy
    selected.write_text(json.dumps(content))
    with pytest.raises(GboptError, match=r"selected\.json: images\[0\]: .*energy.*: expected a"):
        write_rerun(tmp_path / "replay", tmp_path / "out.rrd")


def test_check_new_refuses_what_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", pytest)  # any module: it is only imported
    (tmp_path / "old.rrd").touch()
    with pytest.raises(GboptError, match="it exists; name a new file"):
        check_new(tmp_path / "old.rrd")
    with pytest.raises(GboptError, match="there is no folder"):
        check_new(tmp_path / "missing" / "new.rrd")
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(GboptError, match=r"pip install 'gbopt_ros\[rerun\]'"):
        check_new(tmp_path / "new.rrd")
