"""COCO instance datasets: a folder with `annotations.json` and `images/`, read and written.

Every annotation is of the one category "object", and may have a `name` of its own. Reading accepts
polygons, uncompressed and compressed run-length encodings; writing always gives compressed ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gbopt_ros import masks as mask_ops
from gbopt_ros.io.files import write_text
from gbopt_ros.io.json_file import Fields, to_json
from gbopt_ros.io.sources.images import read_image
from gbopt_ros.structures import GboptError, Image, LabelledImage, Rle

ANNOTATIONS_NAME = "annotations.json"
IMAGES_NAME = "images"
COCO_SPLIT = "train2017"  # training split of the released dataset
CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}
_IMAGE_KEYS = ("id", "file_name", "height", "width")


@dataclass(frozen=True)
class CocoImage:
    """One image entry.

    Attributes:
        id: unique in its dataset.
        file_name: path below the image folder.
        height, width: pixels.
        extra: every other key of the entry, such as `stamp_ns` and `frame_index`.
    """

    id: int
    file_name: str
    height: int
    width: int
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CocoDataset:
    """Images with their instance masks.

    Attributes:
        images: in the order of the file.
        rles_by_image: RLEs of the instances of each image id, () where there are none.
        image_dir: folder of the image files, None where only the labels are at hand.
        crowd_by_image: RLEs of the `iscrowd` regions, for image ids that have some.
        names_by_image: the name of each instance in `rles_by_image`, "" where it has none; empty
            where no instance has a name.
    """

    images: tuple[CocoImage, ...]
    rles_by_image: dict[int, tuple[Rle, ...]]
    image_dir: Path | None = None
    crowd_by_image: dict[int, tuple[Rle, ...]] = field(default_factory=dict)
    names_by_image: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def load_image(self, image: CocoImage) -> Image:
        """(H, W, 3) uint8, RGB. Raises GboptError if the file is absent or not as described."""
        if self.image_dir is None:
            raise GboptError(
                f"{image.file_name}: this dataset was read without an image folder; give one"
            )
        path = self.image_dir / image.file_name
        pixels = read_image(path)
        if pixels.shape[:2] != (image.height, image.width):
            raise GboptError(
                f"{path}: expected {image.height}x{image.width} (height x width) as in its "
                f"annotations, got {pixels.shape[0]}x{pixels.shape[1]}"
            )
        return pixels

    def labelled(self, image: CocoImage) -> LabelledImage:
        """The image with its instance masks; crowd regions become ignore regions."""
        return LabelledImage(
            self.load_image(image),
            self.rles_by_image.get(image.id, ()),
            self.crowd_by_image.get(image.id, ()),
        )

    def to_coco(self) -> dict[str, Any]:
        """The dataset as a class-agnostic COCO dictionary."""
        annotations: list[dict[str, Any]] = []
        for image in self.images:
            rles = self.rles_by_image.get(image.id, ())
            names = self.names_by_image.get(image.id, ("",) * len(rles))
            described = [(rle, 0, name) for rle, name in zip(rles, names, strict=True)]
            described += [(rle, 1, "") for rle in self.crowd_by_image.get(image.id, ())]
            for rle, crowd, name in described:
                number = len(annotations) + 1
                named = {"name": name} if name else {}
                annotations.append(coco_annotation(number, image.id, rle, crowd, **named))
        return {
            "images": [
                {
                    **image.extra,
                    "id": image.id,
                    "file_name": image.file_name,
                    "height": image.height,
                    "width": image.width,
                }
                for image in self.images
            ],
            "annotations": annotations,
            "categories": [dict(CATEGORY)],
        }


def coco_annotation(
    number: int, image_id: int, rle: Rle, crowd: int = 0, **extra: Any
) -> dict[str, Any]:
    """The entry of a mask.

    Args:
        number: its id.
        crowd: `iscrowd`.
        extra: further keys.
    """
    x0, y0, x1, y1 = (float(value) for value in mask_ops.boxes_xyxy([rle])[0])
    return {
        "id": number,
        "image_id": image_id,
        "category_id": CATEGORY["id"],
        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"]},
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(mask_ops.areas([rle])[0]),
        "iscrowd": crowd,
        **extra,
    }


def load_coco(json_path: str | Path, image_dir: str | Path | None = None) -> CocoDataset:
    """Read a COCO instance file. Raises GboptError on a missing file, or one with wrong content."""
    content = Fields.read(Path(json_path))
    images = tuple(_parse_image(entry) for entry in content.objects("images"))
    by_id = {image.id: image for image in images}
    if len(by_id) != len(images):
        raise GboptError(f"{json_path}: image ids must be distinct")
    instances: dict[int, list[Rle]] = {image.id: [] for image in images}
    names: dict[int, list[str]] = {image.id: [] for image in images}
    crowds: dict[int, list[Rle]] = {}
    for entry in content.objects("annotations"):
        image = by_id.get(entry.integer("image_id"))
        if image is None:
            raise GboptError(f"{entry.where}: the unknown image {entry.integer('image_id')}")
        rle = segmentation_to_rle(
            entry.content.get("segmentation"),
            (image.height, image.width),
            f"{entry.where} of image {image.id}",
        )
        if entry.flag("iscrowd", default=0):
            crowds.setdefault(image.id, []).append(rle)
        else:
            instances[image.id].append(rle)
            named = entry.content.get("name") is not None
            names[image.id].append(entry.text("name") if named else "")
    has_names = any(name for of_image in names.values() for name in of_image)
    return CocoDataset(
        images,
        {key: tuple(rles) for key, rles in instances.items()},
        None if image_dir is None else Path(image_dir),
        {key: tuple(rles) for key, rles in crowds.items()},
        {key: tuple(found) for key, found in names.items()} if has_names else {},
    )


def load_coco_dir(folder: str | Path, split: str = COCO_SPLIT) -> CocoDataset:
    """Read `annotations.json` with the image folder `images`, if that exists, of a folder.

    A folder without them may be the released COCO: `annotations/instances_<split>.json` and
    `<split>`. Raises GboptError if it is neither, and as `load_coco`.
    """
    folder = Path(folder)
    annotations, images = folder / ANNOTATIONS_NAME, folder / IMAGES_NAME
    as_released = folder / "annotations" / f"instances_{split}.json"
    if not annotations.exists():
        if not as_released.is_file():
            raise GboptError(
                f"{folder}: expected a COCO folder; neither {ANNOTATIONS_NAME} nor "
                f"annotations/{as_released.name} is in it"
            )
        annotations, images = as_released, folder / split
    return load_coco(annotations, images if images.is_dir() else None)


def write_coco(
    path: str | Path,
    images: Sequence[CocoImage],
    rles_by_image: Mapping[int, Sequence[Rle]],
    crowd_by_image: Mapping[int, Sequence[Rle]] | None = None,
    names_by_image: Mapping[int, Sequence[str]] | None = None,
) -> None:
    """Write a COCO instance file atomically. Raises GboptError if it cannot be written."""
    path = Path(path)
    dataset = CocoDataset(
        tuple(images),
        {key: tuple(rles) for key, rles in rles_by_image.items()},
        crowd_by_image={key: tuple(rles) for key, rles in (crowd_by_image or {}).items()},
        names_by_image={key: tuple(names) for key, names in (names_by_image or {}).items()},
    )
    write_text(path, to_json(dataset.to_coco()))


def _parse_image(entry: Fields) -> CocoImage:
    return CocoImage(
        entry.integer("id"),
        entry.text("file_name"),
        *image_size(entry),
        {key: value for key, value in entry.content.items() if key not in _IMAGE_KEYS},
    )


def image_size(entry: Fields) -> tuple[int, int]:
    """(height, width) in pixels, of an entry with these fields. Raises GboptError."""
    size = entry.integer("height", low=1), entry.integer("width", low=1)
    try:
        mask_ops.check_size(size)
    except ValueError as error:
        raise GboptError(f"{entry.where}: {error}") from error
    return size


def segmentation_to_rle(segmentation: Any, size: tuple[int, int], where: str) -> Rle:
    """As `masks.checked_rle`.

    Args:
        where: start of the error message, such as the file and the image.

    Raises:
        GboptError: no mask of this size.
    """
    try:
        return mask_ops.checked_rle(segmentation, size)
    except ValueError as error:
        raise GboptError(f"{where}: bad segmentation: {error}") from error
