"""DAVIS: sequences of frames with label images, in which each object has a value.

Two layouts are read:

    ROOT/JPEGImages/480p/SEQUENCE/00000.jpg              DAVIS 2017 unsupervised
    ROOT/Annotations_unsupervised/480p/SEQUENCE/00000.png
    ROOT/ImageSets/2017/val.txt                          a sequence a line

    SEQUENCE/00000.jpg, SEQUENCE/00000.png               a folder of pairs

Label images are palette or grey PNGs: 0 is background, 1, 2 ... are objects, and the metrics ignore
255, void. In a sequence with the values 0 and 255 alone, as in DAVIS 2016, 255 is the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL.PngImagePlugin import PngImageFile

from gbopt_ros import masks as mask_ops
from gbopt_ros.io.files import replacing
from gbopt_ros.io.limits import MAX_PIXELS
from gbopt_ros.io.sources.folder import list_images, natural_key
from gbopt_ros.io.sources.images import check_pixels
from gbopt_ros.structures import GboptError, Rle

VOID = 255
LabelImage = NDArray[np.uint8]
"""(H, W) uint8: 0 background, an object's number, or `VOID`."""

_ANNOTATIONS = ("Annotations_unsupervised", "Annotations")


@dataclass(frozen=True)
class DavisSequence:
    """T labelled frames.

    Attributes:
        name: name of the sequence.
        masks: T files of label images, in the order of the frames.
        frame_indices: T positions of the labelled frames among all frames of the sequence.
        frames: T files of these frames; () where the labels are alone.
    """

    name: str
    masks: tuple[Path, ...]
    frame_indices: tuple[int, ...]
    frames: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.masks)

    def labels(self) -> NDArray[np.uint8]:
        """(T, H, W) uint8.

        Raises:
            GboptError: a label image cannot be read, or has another size than the first one.
        """
        labels = read_label_images(self.masks)
        values = np.bincount(labels.ravel(), minlength=VOID + 1)
        if values[VOID] and not values[1:VOID].any():
            labels[labels == VOID] = 1
        return labels


def load_davis(
    folder: Path, subset: str = "val", resolution: str = "480p"
) -> tuple[DavisSequence, ...]:
    """The sequences of a DAVIS folder, or the single one of a folder of frame and label pairs.

    Args:
        subset: name of the list in ImageSets/2017.
        resolution: name of the folder below JPEGImages and the annotations.

    Raises:
        GboptError: neither layout, or a listed sequence is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise GboptError(f"{folder}: no such folder; give the folder of DAVIS or of a sequence")
    found = [folder / name / resolution for name in _ANNOTATIONS]
    annotations = next((path for path in found if path.is_dir()), None)
    if annotations is None:
        return (_flat_sequence(folder),)
    names = _subset(folder / "ImageSets" / "2017" / f"{subset}.txt")
    images = folder / "JPEGImages" / resolution
    return tuple(_sequence(name, annotations / name, images / name) for name in names)


def load_sequence(folder: Path) -> DavisSequence:
    """The sequence of a folder of frame and label pairs; raises GboptError as `load_davis`."""
    first, *others = load_davis(folder)
    if others:
        raise GboptError(f"{folder}: expected one sequence, got {1 + len(others)}: give its folder")
    return first


def object_masks(label: LabelImage) -> dict[int, Rle]:
    """The mask of every object of a label image by its value; what is void is none."""
    values = np.setdiff1d(label, [0, VOID])
    masks = mask_ops.encode_all(label[None] == values[:, None, None])
    return dict(zip(values.tolist(), masks, strict=True))


def _subset(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise GboptError(f"{path}: list of sequences cannot be read ({error.strerror})") from error
    names = list(dict.fromkeys(lines))
    if not names or any(Path(name).name != name for name in names):
        raise GboptError(f"{path}: expected the name of a sequence on each line")
    return names


def _flat_sequence(folder: Path) -> DavisSequence:
    if not any(path.suffix.lower() == ".png" for path in folder.iterdir()):
        raise GboptError(
            f"{folder}: neither DAVIS ({_ANNOTATIONS[0]}, ImageSets) nor a sequence of frames with "
            "a PNG of labels beside each"
        )
    return _sequence(folder.resolve().name, folder, folder)


def _sequence(name: str, mask_dir: Path, image_dir: Path) -> DavisSequence:
    if not mask_dir.is_dir():
        raise GboptError(f"{mask_dir}: no such folder; the labels of sequence {name} belong there")
    masks = tuple(sorted(mask_dir.glob("[!.]*.png"), key=natural_key))
    if not masks:
        raise GboptError(f"{mask_dir}: no label image (.png) in this folder")
    images = list_images(image_dir) if image_dir.is_dir() else []
    frames = [path for path in images if path not in masks]
    if not frames:  # the labels alone are enough to measure with
        return DavisSequence(name, masks, tuple(range(len(masks))))
    positions = {path.stem: i for i, path in enumerate(frames)}
    unpaired = [path for path in masks if path.stem not in positions]
    if unpaired:
        raise GboptError(f"{unpaired[0]}: label image without a frame of its name in {image_dir}")
    indices = tuple(positions[path.stem] for path in masks)
    return DavisSequence(name, masks, indices, tuple(frames[index] for index in indices))


def read_label_images(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """(T, H, W) uint8, the values of T label images of one size.

    Raises:
        GboptError: an unreadable image, or one of another size than the first.
    """
    first = read_label_image(paths[0])
    labels = np.empty((len(paths), *first.shape), np.uint8)
    for t, path in enumerate(paths):
        label = read_label_image(path)
        if label.shape != first.shape:
            raise GboptError(f"{path}: label image of {label.shape}, the first is {first.shape}")
        labels[t] = label
    return labels


def read_label_image(path: Path) -> LabelImage:
    """The values of a palette or grey PNG, not its colours.

    Raises:
        GboptError: the file is missing, no image, or in colour.
    """
    try:
        with PngImageFile(path) as image:  # `Image.open` warns of large images
            if image.mode not in ("P", "L"):
                raise GboptError(f"expected a palette or 8-bit grey PNG, got mode {image.mode}")
            check_pixels(image.width, image.height, MAX_PIXELS)
            return np.array(image, np.uint8)
    except FileNotFoundError as error:
        raise GboptError(f"{path}: label image is missing") from error
    except GboptError as error:
        raise GboptError(f"{path}: {error}") from error
    except Exception as error:  # damaged bytes make Pillow raise anything
        raise GboptError(f"{path}: label image cannot be read ({error})") from error


def write_label_image(
    path: Path, labels: LabelImage, colours: Sequence[tuple[int, int, int]]
) -> None:
    """Write a palette PNG atomically, its folder included.

    Args:
        colours: RGB of objects 1, 2 ...; background is black, further values are white.

    Raises:
        GboptError: it cannot be written.
    """
    white = [(255, 255, 255)] * (VOID - len(colours))
    image = PilImage.fromarray(labels)
    image.putpalette([v for colour in [(0, 0, 0), *colours, *white] for v in colour])
    with replacing(path) as aside:
        image.save(aside, format="PNG")
