"""DAVIS folders: label images are read by value, frames found by name, faults told."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gbopt_ros.io.datasets.davis import (
    load_davis,
    load_sequence,
    object_masks,
    read_label_image,
    read_label_images,
    write_label_image,
)
from gbopt_ros.masks import decode_all
from gbopt_ros.structures import GboptError

LABEL = np.array([[0, 1, 2], [255, 0, 1]], np.uint8)


def write(path: Path, values: np.ndarray = LABEL, palette: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image.putpalette([7, 7, 7] * 256)  # all colours alike: only values can tell objects
    image.save(path)


def write_frame(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((2, 3, 3), np.uint8))


def davis_root(root: Path, names: tuple[str, ...] = ("cat", "dog")) -> Path:
    for name in names:
        for t in range(3):
            write_frame(root / "JPEGImages/480p" / name / f"{t:05d}.jpg")
            write(root / "Annotations_unsupervised/480p" / name / f"{t:05d}.png")
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("dog\ncat\n")
    return root


@pytest.mark.parametrize("palette", [True, False])
def test_read_label_image_gives_values_not_colours(tmp_path: Path, palette: bool) -> None:
    write(tmp_path / "a.png", palette=palette)
    np.testing.assert_array_equal(read_label_image(tmp_path / "a.png"), LABEL)


def test_write_label_image_keeps_values_and_shows_colours(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.png"
    write_label_image(path, LABEL, [(10, 20, 30), (40, 50, 60)])
    np.testing.assert_array_equal(read_label_image(path), LABEL)
    shown = np.array(Image.open(path).convert("RGB"))
    assert shown[0].tolist() == [[0, 0, 0], [10, 20, 30], [40, 50, 60]]
    assert shown[1, 0].tolist() == [255, 255, 255]
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_load_davis_2017_layout(tmp_path: Path) -> None:
    root = davis_root(tmp_path)
    (root / "Annotations_unsupervised/480p/dog/00001.png").unlink()
    (root / "Annotations_unsupervised/480p/dog/.00009.part.png").write_bytes(b"")
    dog, cat = load_davis(root)
    assert (dog.name, cat.name) == ("dog", "cat")
    assert dog.frame_indices == (0, 2)
    assert [path.name for path in dog.masks] == ["00000.png", "00002.png"]
    np.testing.assert_array_equal(cat.labels(), np.stack([LABEL] * 3))


def test_load_sequence_refuses_a_folder_of_several(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="expected one sequence, got 2: give its folder"):
        load_sequence(davis_root(tmp_path))


def test_object_masks_are_by_value_and_leave_out_what_is_void() -> None:
    masks = object_masks(LABEL)
    assert list(masks) == [1, 2]
    found = decode_all(list(masks.values()), (2, 3))
    np.testing.assert_array_equal(found, [LABEL == 1, LABEL == 2])
    assert object_masks(np.full((2, 3), 255, np.uint8)) == {}


def test_load_davis_counts_labels_without_frames_from_0(tmp_path: Path) -> None:
    write(tmp_path / "Annotations/480p/cat/00010.png")
    write(tmp_path / "Annotations/480p/cat/00020.png")
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/train.txt").write_text("cat\n")
    (cat,) = load_davis(tmp_path, "train")
    assert cat.frame_indices == (0, 1)


def test_load_davis_reads_a_folder_of_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "davis-cat"
    for t in range(3):
        write_frame(folder / f"{t:05d}.jpg")
    write(folder / "00001.png")
    write(folder / "00002.png")
    (cat,) = load_davis(folder)
    assert (cat.name, cat.frame_indices, len(cat)) == ("davis-cat", (1, 2), 2)
    np.testing.assert_array_equal(cat.labels()[1], LABEL)


def test_davis_sequence_labels_of_0_and_255_are_one_object(tmp_path: Path) -> None:
    """255 is the object of DAVIS 2016, but void where anything else is labelled too."""
    binary = np.array([[0, 255], [255, 0]], np.uint8)
    for t in range(2):
        write_frame(tmp_path / f"{t}.jpg")
        write(tmp_path / f"{t}.png", binary)
    (sequence,) = load_davis(tmp_path)
    assert sequence.labels()[0].tolist() == [[0, 1], [1, 0]]
    write(tmp_path / "1.png", np.array([[0, 3], [255, 0]], np.uint8))
    assert sequence.labels().tolist() == [[[0, 255], [255, 0]], [[0, 3], [255, 0]]]


def test_load_davis_refuses_incomplete_folders(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="no such folder"):
        load_davis(tmp_path / "nowhere")
    with pytest.raises(GboptError, match="neither DAVIS"):
        load_davis(tmp_path)
    root = davis_root(tmp_path / "davis")
    with pytest.raises(GboptError, match=r"test-dev\.txt: list of sequences cannot be read"):
        load_davis(root, "test-dev")
    (root / "ImageSets/2017/val.txt").write_text("../dog\n")
    with pytest.raises(GboptError, match="expected the name of a sequence"):
        load_davis(root)
    (root / "ImageSets/2017/val.txt").write_text("bird\n")
    with pytest.raises(GboptError, match="labels of sequence bird belong there"):
        load_davis(root)
    (root / "Annotations_unsupervised/480p/bird").mkdir()
    with pytest.raises(GboptError, match="no label image"):
        load_davis(root)
    write(tmp_path / "pairs" / "00003.png")
    assert load_davis(tmp_path / "pairs")[0].frame_indices == (0,)
    write_frame(tmp_path / "pairs" / "00001.jpg")
    with pytest.raises(GboptError, match=r"00003\.png: label image without a frame"):
        load_davis(tmp_path / "pairs")


@pytest.mark.filterwarnings("error")
def test_read_label_image_refuses_a_large_one_without_a_warning(tmp_path: Path) -> None:
    """Pillow has a limit of its own, 89 million pixels."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9_500, 9_500), np.uint8))
    with pytest.raises(GboptError, match="9500x9500 pixels are more than 64000000"):
        read_label_image(tmp_path / "a.png")


def test_read_label_image_refuses_bad_files(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="is missing"):
        read_label_image(tmp_path / "a.png")
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(GboptError, match="expected a palette or 8-bit grey PNG, got mode RGB"):
        read_label_image(tmp_path / "a.png")
    write(tmp_path / "b.png", np.zeros((64, 64), np.uint8))
    whole = (tmp_path / "b.png").read_bytes()
    for damaged in (b"no image", whole[: len(whole) // 2]):
        (tmp_path / "b.png").write_bytes(damaged)
        with pytest.raises(GboptError, match="cannot be read"):
            read_label_image(tmp_path / "b.png")
    write(tmp_path / "c.png")
    write(tmp_path / "d.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(GboptError, match=r"d\.png: label image of \(4, 4\), the first is \(2, 3\)"):
        read_label_images([tmp_path / "c.png", tmp_path / "d.png"])
