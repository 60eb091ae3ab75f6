"""Masks that another program made, read from label images and COCO files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from support.fakes import make_proposals
from support.moving_squares import SIZE, inputs_of, picture, place

from experiments.methods import make_method
from experiments.methods.contract import Inputs
from experiments.methods.mask_file import MaskFile
from gbopt_ros.io.datasets.davis import write_label_image
from gbopt_ros.masks import decode_all, encode
from gbopt_ros.structures import GboptError

FIRST, SECOND = place(4, 4), place(10, 10)  # share 6 x 6 pixels
CLIP = [picture({})] * 2


def clip(recording: str = "cups") -> Inputs:
    return inputs_of(CLIP, [make_proposals(np.zeros((0, *SIZE), bool))] * 2, recording=recording)


def result(image_id: int, mask: np.ndarray, score: float) -> dict[str, object]:
    return {"image_id": image_id, "segmentation": encode(mask), "score": score}


def masks_of(path: Path, recording: str = "cups") -> list[list[np.ndarray]]:
    found = MaskFile(path).masks(clip(recording))
    return [list(decode_all(p.rles, SIZE)) for p in found]


def test_label_images_of_a_recording(tmp_path: Path) -> None:
    label = FIRST.astype(np.uint8) * 3
    label[SECOND] = 7
    for number in range(2):
        write_label_image(tmp_path / "cups" / f"{number:05d}.png", label * (1 - number), [])
    for path in (tmp_path, tmp_path / "cups"):  # of all recordings, of this one
        first, second = MaskFile(path).masks(clip())
        assert first.scores.tolist() == [1.0, 1.0]
        np.testing.assert_array_equal(decode_all(first.rles, SIZE), [FIRST & ~SECOND, SECOND])
        assert len(second) == 0


def test_a_result_list_counts_frames_and_gives_shared_pixels_to_the_best(tmp_path: Path) -> None:
    path = tmp_path / "cups.json"
    path.write_text(
        json.dumps([result(1, FIRST, 0.4), result(1, SECOND, 0.9), result(5, FIRST, 1)])
    )
    none, masks = masks_of(tmp_path)
    assert none == []
    np.testing.assert_array_equal(masks, [SECOND, FIRST & ~SECOND])


@pytest.mark.parametrize("indexed", [True, False])
def test_a_dataset_names_frames_by_index_or_order(tmp_path: Path, indexed: bool) -> None:
    names = ("10.jpg", "9.jpg")  # in the natural order, the second comes first
    images = [
        {"id": 40 + i, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        | ({"frame_index": i} if indexed else {})
        for i, name in enumerate(names)
    ]
    content = {"images": images, "annotations": [result(40, FIRST, 0.5)], "categories": []}
    (tmp_path / "masks.json").write_text(json.dumps(content))
    found = masks_of(tmp_path / "masks.json")
    assert [len(masks) for masks in found] == ([1, 0] if indexed else [0, 1])


@pytest.mark.parametrize("index", [None, "first", 0.5])
def test_a_frame_index_is_a_whole_number(tmp_path: Path, index: object) -> None:
    image = {"id": 1, "file_name": "1.jpg", "height": SIZE[0], "width": SIZE[1]}
    content = {"images": [image | {"frame_index": index}], "annotations": [], "categories": []}
    (tmp_path / "masks.json").write_text(json.dumps(content))
    with pytest.raises(GboptError, match=r"image 1: .*frame_index.* a whole number"):
        masks_of(tmp_path / "masks.json")


def test_errors_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match=r"no masks of recording 'cups'; expected a JSON file"):
        masks_of(tmp_path)
    path = tmp_path / "late.json"
    path.write_text(json.dumps([result(7, FIRST, 0.5)]))
    with pytest.raises(GboptError, match=r"frames \[7\] to \[7\], none of frames 0 to 1 of cups"):
        masks_of(path)
    path.write_text(json.dumps([result(0, FIRST[:40], 0.5)]))
    with pytest.raises(GboptError, match=r"size \[?\(?40, 64"):
        masks_of(path)
    small = tmp_path / "small"
    write_label_image(small / "00000.png", FIRST[:40].astype(np.uint8), [])
    with pytest.raises(GboptError, match=r"masks of size \(40, 64\), the frames have \(48, 64\)"):
        masks_of(small)


def test_make_method_takes_the_path_and_the_digest_the_content(tmp_path: Path) -> None:
    path = tmp_path / "rvos.json"
    path.write_text("[]")
    method = make_method(f"file:{path}")
    assert isinstance(method, MaskFile)
    assert method.label == "masks of rvos"
    before = method.digest
    path.write_text("[ ]")
    assert MaskFile(path).digest != before
