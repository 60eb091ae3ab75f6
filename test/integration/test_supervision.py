"""Masks that go through `supervision`, as a COCO and as a YOLO dataset, and come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.learning.data.verdicts import Verdict
from gbopt_ros.learning.store.store import Reviewed, Store
from gbopt_ros.masks import decode, encode_all

supervision = pytest.importorskip("supervision", reason="pip install supervision")
SIZE = (40, 60)


def masks() -> np.ndarray:
    """(3, 40, 60) bool: a rectangle, a disc and a ring."""
    found = np.zeros((3, *SIZE), bool)
    found[0, 4:16, 5:25] = True
    rows, columns = np.indices(SIZE)
    found[1] = np.hypot(rows - 26, columns - 14) < 9
    distance = np.hypot(rows - 20, columns - 44)
    found[2] = (distance < 14) & (distance > 6)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    path = tmp_path / "0.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8))
    frame = SelectedFrame(
        "bench", 0, 0, 0, path, SIZE, encode_all(masks()), (0.9, 0.8, 0.7), (0.6, 0.5, 0.4)
    )
    made = Store(tmp_path / "store")
    with made.training_set() as training_set:
        training_set.add([frame])
    return made


def load(folder: Path, layout: str) -> Any:
    images = str(folder / "images")
    if layout == "coco":
        return supervision.DetectionDataset.from_coco(
            images, str(folder / "annotations.json"), force_masks=True
        )
    return supervision.DetectionDataset.from_yolo(
        images, str(folder / "labels"), str(folder / "data.yaml"), force_masks=True
    )


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.count_nonzero(first & second) / np.count_nonzero(first | second))


@pytest.mark.parametrize("layout", ["coco", "yolo"])
def test_supervision_loads_an_export_and_its_own_copy_is_imported(
    store: Store, tmp_path: Path, layout: str
) -> None:
    """One mask is removed. The disc comes back as its outline, and is kept as it is stored.

    Its YOLO has rounded shares of the image.
    """
    store.export(tmp_path / "out", layout)
    dataset = load(tmp_path / "out", layout)
    assert dataset.classes == ["object"]
    ((path, image, detections),) = list(dataset)
    assert image.shape == (*SIZE, 3)
    loaded = [iou(f, m) for f, m in zip(detections.mask, masks(), strict=True)]
    assert min(loaded) > 0.85 and (layout == "yolo" or loaded == [1.0] * 3)
    detections.data.clear()  # `iscrowd` of 0 would fill the hole of the ring
    kept = detections[1:] if layout == "coco" else detections[1:2]  # its YOLO has no holes
    copy = supervision.DetectionDataset(["thing"], [path], {path: kept})
    if layout == "coco":
        labels = tmp_path / "copy.json"
        copy.as_coco(annotations_path=str(labels), approximation_percentage=0)
    else:
        labels = tmp_path / "copy"
        copy.as_yolo(annotations_directory_path=str(labels / "labels"), approximation_percentage=0)
    assert store.import_labels(labels) == Reviewed(1, len(kept), 3 - len(kept))
    with store.training_set() as training_set:
        (frame,) = training_set.frames()
    # The ring is a COCO crowd, whose masks come after the others.
    found = [iou(decode(mask.rle), m) for mask, m in zip(frame.selected, masks()[1:], strict=False)]
    assert found == [1.0] * len(kept) if layout == "coco" else found[0] > 0.95
    assert [mask.verdict for mask in frame.masks[len(kept) :]] == [Verdict.REJECTED] * (
        3 - len(kept)
    )
