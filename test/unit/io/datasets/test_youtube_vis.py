"""YouTube-VIS annotations: every form of mask, absent objects, and what is malformed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbopt_ros import masks as mask_ops
from gbopt_ros.io.datasets.youtube_vis import load_youtube_vis
from gbopt_ros.structures import GboptError

MASK = np.zeros((4, 6), bool)
MASK[1:3, 2:5] = True
RUNS = {"size": [4, 6], "counts": [9, 2, 2, 2, 2, 2, 5]}  # down the columns, as COCO has it
A = ["a/00000.jpg", "a/00005.jpg", "a/00010.jpg"]
POLYGON = [[2, 1, 5, 1, 5, 3, 2, 3]]


def content() -> dict[str, Any]:
    """Two videos; the object of the first is absent from its second frame."""
    return {
        "videos": [
            {"id": 5, "height": 4, "width": 6, "file_names": A},
            {"id": 2, "height": 4, "width": 6, "file_names": ["b/00000.jpg"]},
        ],
        "categories": [{"id": 1, "name": "fish"}, {"id": 9, "name": "person"}],
        "annotations": [
            {
                "id": 1, "video_id": 5, "category_id": 9, "iscrowd": 0,
                "segmentations": [RUNS, None, mask_ops.encode(MASK)],
            },
            {"id": 2, "video_id": 2, "category_id": 1, "segmentations": [POLYGON], "iscrowd": 1},
        ],
    }  # fmt: skip


def save(folder: Path, what: Any, json_name: str = "instances.json") -> Path:
    path = folder / json_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(what if isinstance(what, str) else json.dumps(what))
    images = "train/JPEGImages" if json_name.startswith("train") else "JPEGImages"
    (folder / images).mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("json_name", ["instances.json", "train/instances.json", "train.json"])
def test_load_youtube_vis_reads_all_forms_of_masks(tmp_path: Path, json_name: str) -> None:
    found = load_youtube_vis(save(tmp_path, content(), json_name))
    assert found.categories == ("fish", "person")
    assert found.annotations == tmp_path / json_name
    assert found.image_dir.name == "JPEGImages"
    a, b = found.videos
    assert (a.name, a.size, a.file_names) == ("a", (4, 6), ("00000.jpg", "00005.jpg", "00010.jpg"))
    assert (a.categories, b.categories) == ({"person"}, {"fish"})
    (person,), (fish,) = a.objects, b.objects
    assert person.rles[1] is None
    for rle in (person.rles[0], person.rles[2], fish.rles[0]):
        assert rle is not None
        np.testing.assert_array_equal(mask_ops.decode(rle), MASK)
    assert (person.crowd, fish.crowd) == (False, True)


@pytest.mark.parametrize("absent", [None, [], {"size": [4, 6], "counts": [24]}])
def test_load_youtube_vis_takes_empty_masks_for_absent_objects(tmp_path: Path, absent: Any) -> None:
    changed = content()
    changed["annotations"][1]["segmentations"] = [absent]
    _, b = load_youtube_vis(save(tmp_path, changed)).videos
    assert b.objects[0].rles == (None,)


def test_load_youtube_vis_refuses_other_folders(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="no such folder; give the folder of YouTube-VIS"):
        load_youtube_vis(tmp_path / "nowhere")
    with pytest.raises(GboptError, match="it has none of instances"):
        load_youtube_vis(tmp_path)
    (tmp_path / "instances.json").write_text("{}")
    with pytest.raises(GboptError, match="JPEGImages: no such folder"):
        load_youtube_vis(tmp_path)


def test_load_youtube_vis_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="expected JSON"):
        load_youtube_vis(save(tmp_path, "{"))
    test_split = {key: value for key, value in content().items() if key != "annotations"}
    with pytest.raises(
        GboptError, match="files of the validation and test splits have no annotations"
    ):
        load_youtube_vis(save(tmp_path, test_split))
    with pytest.raises(GboptError, match="expected a JSON object"):
        load_youtube_vis(save(tmp_path, [1]))


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("videos", 0, "id"), 2, "video ids must be distinct"),
        (("videos", 0, "id"), "x", "'id': expected a whole number of 64 bits, got 'x'"),
        (
            ("videos", 0, "height"),
            0,
            r"videos\[0\]: 'height': expected a whole number of 64 bits, at least 1, got 0",
        ),
        (("videos", 0, "file_names"), [], r"videos\[0\]: expected `file_names` such as"),
        (("videos", 0, "file_names"), ["a/../0.jpg"] * 3, "expected `file_names` such as"),
        (("videos", 0, "file_names"), ["/a/0.jpg"] * 3, "expected `file_names` such as"),
        (("videos", 0, "file_names"), ["../0.jpg"] * 3, "expected `file_names` such as"),
        (("videos", 0, "file_names"), ["a/0.txt"] * 3, "expected `file_names` such as"),
        (("videos", 0, "file_names"), ["a/0.jpg"] * 3, "expected distinct frames of one folder"),
        (("videos", 1, "file_names"), ["a/7.jpg"], "several videos .* folder 'a'"),
        (("categories", 0, "name"), "person", "names of categories must be distinct"),
        (("annotations", 0, "video_id"), 7, "unknown video 7"),
        (("annotations", 0, "category_id"), 7, "unknown category 7"),
        (("annotations", 0, "segmentations"), [None], "for the 3 frames of its video, got 1"),
        (("annotations", 0, "segmentations"), None, "'segmentations': expected a list, got None"),
        (
            ("annotations", 1, "segmentations"),
            ["x"],
            r"annotations\[1\]: frame 0: bad segmentation",
        ),
        (
            ("annotations", 1, "segmentations"),
            [{"size": [4, 6], "counts": [3, 4]}],
            "frame 0: bad segmentation: run lengths of a mask do not fill",
        ),
        (
            ("annotations", 1, "segmentations"),
            [{"size": [6, 4], "counts": [9, 2, 13]}],
            r"bad segmentation: size \[6, 4\], expected \[4, 6\]",
        ),
    ],
)
def test_load_youtube_vis_refuses_malformed_entries(
    tmp_path: Path, where: tuple[str, int, str], value: Any, message: str
) -> None:
    broken = copy.deepcopy(content())
    kind, index, key = where
    broken[kind][index][key] = value
    with pytest.raises(GboptError, match=message):
        load_youtube_vis(save(tmp_path, broken))
