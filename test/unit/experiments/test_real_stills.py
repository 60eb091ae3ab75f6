"""The parts of labelled photographs, and the recall of proposals by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from experiments.real_stills import fit, load_stills, recall_of_best, split
from gbopt_ros.evaluation.results import CocoResult
from gbopt_ros.io.datasets.coco import CocoDataset, CocoImage, load_coco_dir, write_coco
from gbopt_ros.masks import encode_all
from gbopt_ros.structures import GboptError

SIZE = (10, 20)


def square(left: int, width: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[:, left : left + width] = True
    return mask


def stills(folder: Path, count: int) -> Path:
    images = [CocoImage(i, f"{folder.name}-{i}.png", *SIZE) for i in range(1, count + 1)]
    (folder / "images").mkdir(parents=True)
    for image in images:
        cv2.imwrite(str(folder / "images" / image.file_name), np.zeros((*SIZE, 3), np.uint8))
    rles = {image.id: encode_all(square(0, image.id)[None]) for image in images}
    write_coco(folder / "some-name.json", images, rles)
    return folder


def test_split_keeps_every_fifth_photograph_of_the_first_folder_apart(tmp_path: Path) -> None:
    split([stills(tmp_path / "a", 7), stills(tmp_path / "b", 6)], tmp_path / "out")
    validation = load_coco_dir(tmp_path / "out/validation")
    assert [image.file_name for image in validation.images] == ["a-1.png", "a-6.png"]
    train = load_coco_dir(tmp_path / "out/train")
    names = [image.file_name for image in train.images]
    assert names == [f"a-{i}.png" for i in (2, 3, 4, 5, 7)] + [f"b-{i}.png" for i in range(1, 7)]
    assert train.rles_by_image[1] == encode_all(square(0, 2)[None])
    assert train.load_image(train.images[-1]).shape == (*SIZE, 3)


def test_fit_tells_what_has_no_label_from_what_is_missed() -> None:
    assert fit(square(0, 8), square(0, 4)) == pytest.approx((0.5, 1.0))  # more than is labelled
    assert fit(square(0, 4), square(2, 4)) == pytest.approx((1 / 3, 0.5))


def test_split_refuses_two_photographs_of_one_name(tmp_path: Path) -> None:
    """Both would show the second one, with the labels of each."""
    with pytest.raises(GboptError, match=r"a-2.png: several photographs have this name"):
        split([stills(tmp_path / "x" / "a", 3), stills(tmp_path / "y" / "a", 3)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_split_keeps_folders_of_photographs(tmp_path: Path) -> None:
    folder = stills(tmp_path / "a", 2)
    labels = folder / "some-name.json"
    labels.write_text(labels.read_text().replace("a-", "left/a-"))
    (folder / "images/left").mkdir()
    for path in folder.glob("images/*.png"):
        path.rename(folder / "images/left" / path.name)
    split([folder], tmp_path / "out")
    validation = load_coco_dir(tmp_path / "out/validation")
    assert validation.load_image(validation.images[0]).shape == (*SIZE, 3)


def test_load_stills_wants_one_annotation_file(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match=r"expected one annotation file \*.json, found 0"):
        load_stills(tmp_path)


def test_recall_of_the_best_is_the_mean_over_ten_ious() -> None:
    """One object is found at an IoU of 0.8, so up to 0.8; the other after 15 masks, so never."""
    truth = encode_all(np.stack([square(0, 5), square(10, 5)]))
    dataset = CocoDataset((CocoImage(1, "a", *SIZE),), {1: truth})
    masks = [square(0, 4), *[square(17, 2)] * 14, square(10, 5)]
    results = [
        CocoResult(image_id=1, segmentation=rle, score=1 - 0.01 * place)
        for place, rle in enumerate(encode_all(np.stack(masks)))
    ]
    assert recall_of_best(dataset, results) == pytest.approx(100 * 7 / 10 / 2)
    assert recall_of_best(dataset, results[1:]) == pytest.approx(100 / 2)
