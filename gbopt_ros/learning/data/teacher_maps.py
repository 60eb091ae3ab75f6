"""Foreground maps of a teacher, computed once for a dataset and kept as PNGs.

A large network for salient objects knows things that the labels of a dataset leave out. The
background network learns its maps beside the labels (distillation, Hinton et al. 2015).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gbopt_ros.io.files import replacing, sha256_of
from gbopt_ros.io.sources.images import read_image
from gbopt_ros.structures import BackgroundNetwork, Image


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


def write_teacher_maps(
    teacher: BackgroundNetwork, images: Mapping[str, Callable[[], Image]], folder: Path
) -> None:
    """Write the map of every image that has none yet: uint8, foreground probability times 255.

    Args:
        images: what loads an image, by its name in the dataset.

    Raises:
        GboptError: an image cannot be read, or a map cannot be written.
    """
    missing = [name for name in images if not map_path(folder, name).exists()]
    for name in tqdm(missing, "teacher", unit="image", dynamic_ncols=True, disable=not missing):
        (background,) = teacher.background([images[name]()])
        _, encoded = cv2.imencode(".png", np.rint((1 - background) * 255).astype(np.uint8))
        with replacing(map_path(folder, name)) as aside:
            aside.write_bytes(encoded)  # `tofile` says nothing of a full disk


def read_map(folder: Path, file_name: str) -> NDArray[np.uint8]:
    """(H, W) uint8, the map of an image. Raises GboptError if it cannot be read."""
    return np.ascontiguousarray(read_image(map_path(folder, file_name))[..., 0])
