"""Foreground maps of a teacher: written once, read with the images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.disk import files_of_at_most

from gbopt_ros.io.datasets.coco import CocoImage, load_coco_dir, write_coco
from gbopt_ros.io.sources.images import read_image
from gbopt_ros.learning.data.augmentation import to_example
from gbopt_ros.learning.data.datasets import CocoInstances, Photographs
from gbopt_ros.learning.data.targets import semantic_target
from gbopt_ros.learning.data.teacher_maps import map_path, maps_folder, write_teacher_maps
from gbopt_ros.masks import encode_all
from gbopt_ros.structures import GboptError, Image


class Teacher:
    """Takes the value of an image for the probability of its background."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def background(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        self.seen += [int(image[0, 0, 0]) for image in images]
        return [image[..., 0].astype(np.float32) / 255 for image in images]


def test_write_teacher_maps_writes_what_is_missing(tmp_path: Path) -> None:
    images = [CocoImage(i, f"{i}.png", 6, 8) for i in (1, 2)]
    (tmp_path / "images").mkdir()
    for image in images:
        pixels = np.full((6, 8, 3), 50 * image.id, np.uint8)
        cv2.imwrite(str(tmp_path / "images" / image.file_name), pixels)
    rles = {image.id: encode_all(np.ones((1, 6, 8), bool)) for image in images}
    write_coco(tmp_path / "annotations.json", images, rles)
    dataset, folder, teacher = load_coco_dir(tmp_path), tmp_path / "maps", Teacher()
    loaders = {image.file_name: partial(dataset.load_image, image) for image in images}
    write_teacher_maps(teacher, loaders, folder)
    assert teacher.seen == [50, 100]
    map_path(folder, "2.png").unlink()
    write_teacher_maps(teacher, loaders, folder)
    assert teacher.seen == [50, 100, 100]
    drawn = [CocoInstances(dataset, complete=False, teacher=folder)[i] for i in range(2)]
    for labelled, expected in zip(drawn, (205, 155), strict=True):
        assert labelled.foreground is not None and not labelled.complete
        assert np.array_equal(labelled.foreground, np.full((6, 8), expected))
    assert CocoInstances(dataset)[0].foreground is None and CocoInstances(dataset)[0].complete


def test_write_teacher_maps_on_a_full_disk_leaves_no_part_of_a_map(tmp_path: Path) -> None:
    """The parts of a small file wait in memory until it is closed."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    folder = tmp_path / "maps"
    with pytest.raises(GboptError, match="cannot be written"), files_of_at_most(500):
        write_teacher_maps(Teacher(), {"1.png": lambda: pixels}, folder)
    assert not list(folder.iterdir())


def test_photographs_have_the_map_of_the_teacher_and_no_mask(tmp_path: Path) -> None:
    paths = [tmp_path / f"{value}.png" for value in (50, 100)]
    for value, path in zip((50, 100), paths, strict=True):
        cv2.imwrite(str(path), np.full((6, 8, 3), value, np.uint8))
    folder = tmp_path / "maps"
    write_teacher_maps(Teacher(), {p.name: partial(read_image, p) for p in paths}, folder)
    photographs = Photographs(paths, folder)
    assert len(photographs) == 2
    labelled = photographs[1]
    assert labelled.image.shape == (6, 8, 3) and (labelled.image == 100).all()
    assert labelled.rles == () and not labelled.complete
    assert np.array_equal(labelled.foreground, np.full((6, 8), 155))
    target = semantic_target(to_example(labelled))
    assert target["known"].eq(1).all()
    np.testing.assert_allclose(target["foreground"].numpy(), 155 / 255)


def test_maps_have_one_place_for_each_image_dataset_and_teacher(tmp_path: Path) -> None:
    names = ["a/0.png", "b/0.png", "a/0.jpg", "/elsewhere/0.png", "../../0.png"]
    maps = {map_path(tmp_path, name) for name in names}
    assert len(maps) == 5 and {path.parent for path in maps} == {tmp_path}
    for name, content in (("u2net.onnx", b"1"), ("isnet.onnx", b"2"), ("same.onnx", b"1")):
        (tmp_path / name).write_bytes(content)
    first = maps_folder(tmp_path, tmp_path / "u2net.onnx", Path("a/train"))
    assert first.parent == tmp_path and first.name.startswith("train-")
    assert first == maps_folder(tmp_path, tmp_path / "same.onnx", Path("a/train").absolute())
    assert first != maps_folder(tmp_path, tmp_path / "isnet.onnx", Path("a/train"))
    assert first != maps_folder(tmp_path, tmp_path / "u2net.onnx", Path("b/train"))
