"""COCO files: what is written comes back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gbopt_ros.io.datasets.coco import CocoImage, load_coco, write_coco
from gbopt_ros.masks import encode_all

IMAGES = [CocoImage(1, "a.png", 8, 10, {"frame_index": 4}), CocoImage(2, "b.png", 8, 10)]


def columns(*widths: int):
    masks = np.zeros((len(widths), 8, 10), bool)
    for mask, width in zip(masks, widths, strict=True):
        mask[2:6, :width] = True
    return encode_all(masks)


RLES = {1: columns(2, 5), 2: columns(3)}


@pytest.mark.parametrize("names", [{1: ("mug", "duck 3"), 2: ("mug",)}, {1: ("", "duck 3")}])
def test_write_coco_and_load_coco_keep_instances_crowds_and_names(
    tmp_path: Path, names: dict
) -> None:
    crowds = {2: columns(9, 1)}
    write_coco(tmp_path / "labels.json", IMAGES, RLES, crowds, names)
    read = load_coco(tmp_path / "labels.json")
    assert read.images == tuple(IMAGES)
    assert read.rles_by_image == RLES
    assert read.crowd_by_image == crowds
    assert read.names_by_image == {1: names[1], 2: names.get(2, ("",))}
    again = tmp_path / "again.json"
    write_coco(again, read.images, read.rles_by_image, read.crowd_by_image, read.names_by_image)
    assert again.read_bytes() == (tmp_path / "labels.json").read_bytes()


def test_write_coco_without_names(tmp_path: Path) -> None:
    write_coco(tmp_path / "labels.json", IMAGES, RLES)
    assert load_coco(tmp_path / "labels.json").names_by_image == {}
    annotations = json.loads((tmp_path / "labels.json").read_text())["annotations"]
    assert [entry["id"] for entry in annotations] == [1, 2, 3]
    assert not any("name" in entry for entry in annotations)


def test_load_coco_takes_a_null_name_for_none(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    write_coco(path, IMAGES, RLES, names_by_image={1: ("mug", "duck")})
    path.write_text(path.read_text().replace('"mug"', "null"))
    assert load_coco(path).names_by_image == {1: ("", "duck"), 2: ("",)}
