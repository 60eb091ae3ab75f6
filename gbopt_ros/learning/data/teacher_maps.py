"""Foreground maps of a teacher, computed once for a dataset and kept as PNGs.

A large network for salient objects knows things that the labels of a dataset leave out. The
background network learns its maps beside the labels (distillation, Hinton et al. 2015).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from gbopt_ros.io.datasets.coco import CocoDataset
from gbopt_ros.io.files import replacing, sha256_of
from gbopt_ros.structures import BackgroundNetwork


def maps_folder(parent: Path, teacher: Path, dataset: Path) -> Path:
    """The folder for the maps of a dataset, another one for every teacher and every dataset.

    Args:
        teacher: weights file; its content counts.
        dataset: folder; its place counts.

    Raises:
        OSError: the teacher cannot be read.
    """
    place = dataset.resolve()
    origin = f"{sha256_of(teacher)} {place}"
    return parent / f"{place.name}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"


def map_path(folder: Path, file_name: str) -> Path:
    """The file of the map of an image; the name of the image may lead out of its dataset."""
    digest = hashlib.sha256(file_name.encode()).hexdigest()[:8]
    return folder / f"{Path(file_name).stem}-{digest}.png"


def write_teacher_maps(teacher: BackgroundNetwork, dataset: CocoDataset, folder: Path) -> None:
    """Write the map of every image that has none yet: uint8, foreground probability times 255.

    Raises:
        GboptError: an image cannot be read, or a map cannot be written.
    """
    missing = [i for i in dataset.images if not map_path(folder, i.file_name).exists()]
    for image in tqdm(missing, "teacher", unit="image", dynamic_ncols=True, disable=not missing):
        (background,) = teacher.background([dataset.load_image(image)])
        _, encoded = cv2.imencode(".png", np.rint((1 - background) * 255).astype(np.uint8))
        with replacing(map_path(folder, image.file_name)) as aside:
            aside.write_bytes(encoded)  # `tofile` says nothing of a full disk
