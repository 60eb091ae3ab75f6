"""Masks that leave for an annotation tool, and labels that come back.

An exported image is named by its number and by the SHA-256 of its content, as in a training set. So
labels find their image again, whatever a tool does to ids, folders and the beginning of names, and
wherever the image was exported from. No file that labels name is opened.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from gbopt_ros.io.datasets import yolo
from gbopt_ros.io.datasets.coco import (
    ANNOTATIONS_NAME,
    CATEGORY,
    IMAGES_NAME,
    CocoDataset,
    CocoImage,
    coco_annotation,
    load_coco,
)
from gbopt_ros.io.files import replacing_folder
from gbopt_ros.io.json_file import to_json
from gbopt_ros.io.selection_format import read_selection
from gbopt_ros.learning.data.image_file import DIGEST_DIGITS, digest_of
from gbopt_ros.learning.data.verdicts import FRAME_FACTS, StoredFrame, Verdict, stored_masks
from gbopt_ros.structures import GboptError, Rle

log = logging.getLogger(__name__)

FORMATS = ("coco", "yolo", "fiftyone")
_DIGEST = re.compile(rf"(?=([0-9a-f]{{{DIGEST_DIGITS}}}))")
_MasksOf = Callable[[tuple[int, int]], tuple[Rle, ...]]


@dataclass(frozen=True)
class _Layout:
    """Where an export has its parts, and what tools want of its entries.

    Attributes:
        images: folder of the images.
        labels: COCO file.
        confidence: key of the confidence.
        crowd: `iscrowd` of every mask.
    """

    images: str = IMAGES_NAME
    labels: str = ANNOTATIONS_NAME
    confidence: str = "confidence"
    crowd: int = 0


# FiftyOne has a `confidence` of its own, the score. It writes masks back as polygons, two pixels
# off, unless they are crowds.
_FIFTYONE = _Layout("data", "labels.json", "selection_confidence", 1)


@dataclass(frozen=True)
class Exported:
    """The number of images and masks that were written."""

    images: int
    masks: int


def replay_frames(folder: Path) -> list[StoredFrame]:
    """The frames of an output of `gbopt replay`. Raises GboptError as `read_selection`."""
    return [
        StoredFrame(
            number,
            frame.image_path,
            frame.image_path.stat().st_size,
            frame.size,
            frame.recording,
            frame.clip_id,
            frame.frame_index,
            frame.stamp_ns,
            frame.model_version,
            stored_masks(frame),
        )
        for number, frame in enumerate(read_selection(folder))
    ]


def _content(frame: StoredFrame, has_left: Callable[[StoredFrame], bool]) -> bytes | None:
    """The image file of a frame; None if both are gone."""
    try:
        return frame.path.read_bytes()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and has_left(frame):
            return None
        raise GboptError(f"{frame.path}: cannot be read: {error.strerror}") from error


def export_labels(
    frames: Iterable[StoredFrame],
    out: Path,
    layout: str,
    has_left: Callable[[StoredFrame], bool] = lambda frame: False,
) -> Exported:
    """Write images and their masks as a COCO or a YOLO dataset, the whole folder or nothing.

    `out` gets `images/` and `annotations.json`, a COCO file whose entries also have `score`,
    `confidence`, `verified` and, where it is known, `track_id`; entries of images have `recording`,
    `clip_id`, `frame_index`, `stamp_ns` and `model_version`. YOLO has no place for these: it gets
    `labels/` and `data.yaml` beside them. Equal images are written once, with the masks of the
    frame that was added last. Rejected masks stay behind. FiftyOne gets `data/` and `labels.json`,
    in which the confidence is called `selection_confidence`.

    Args:
        frames: of a training set, or of `replay_frames`.
        out: must not exist, or be an empty folder.
        layout: one of `FORMATS`.
        has_left: whether a frame has left the training set since `frames` was read, and took its
            image along. Such frames are left out, with a warning.

    Raises:
        GboptError: there is no frame, an image cannot be read, or `out` cannot be written.
    """
    newest = sorted(frames, key=lambda frame: frame.id)
    ordered = sorted(newest, key=lambda frame: (frame.recording, frame.frame_index))
    if not ordered:
        raise GboptError("there is no frame with masks to export: select or learn some first")
    names_of = _FIFTYONE if layout == "fiftyone" else _Layout()
    with replacing_folder(out) as folder:
        images = folder / names_of.images
        images.mkdir(parents=True)
        names: dict[str, str] = {}  # by digest
        last: dict[str, StoredFrame] = {}
        gone: list[StoredFrame] = []
        for frame in ordered:
            content = _content(frame, has_left)
            if content is None:
                gone.append(frame)
                continue
            digest = digest_of(content)
            if digest not in names:
                names[digest] = f"{len(names):06d}-{digest}{frame.path.suffix}"
                (images / names[digest]).write_bytes(content)
            if digest not in last or frame.id > last[digest].id:
                last[digest] = frame
        if not last:
            raise GboptError(f"{out}: all frames left the training set meanwhile; export again")
        written = {names[digest]: frame for digest, frame in last.items()}
        text = to_json(_coco(written, names_of))
        (folder / names_of.labels).write_text(text, encoding="utf-8")
        if layout == "yolo":
            _write_yolo(folder, written)
    if gone:
        log.warning("%d frames left the training set meanwhile and are left out", len(gone))
    return Exported(len(written), sum(len(frame.selected) for frame in written.values()))


def _coco(frames: Mapping[str, StoredFrame], layout: _Layout) -> dict[str, object]:
    """The COCO dictionary of frames by the names of their images."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, (name, frame) in enumerate(frames.items(), start=1):
        height, width = frame.size
        entry: dict[str, object] = {"id": number, "file_name": name}
        entry |= {"height": height, "width": width}
        images.append(entry | {fact: getattr(frame, fact) for fact in FRAME_FACTS})
        for mask in frame.selected:
            facts = {"score": mask.score, layout.confidence: mask.confidence}
            facts["verified"] = mask.verdict == Verdict.VERIFIED
            if mask.track_id is not None:
                facts["track_id"] = mask.track_id
            annotations.append(
                coco_annotation(len(annotations) + 1, number, mask.rle, layout.crowd, **facts)
            )
    info = {"description": "masks of gbopt_ros"}
    return {
        "info": info, "licenses": [], "images": images, "annotations": annotations,
        "categories": [CATEGORY],
    }  # fmt: skip


def _write_yolo(folder: Path, frames: Mapping[str, StoredFrame]) -> None:
    labels = folder / yolo.LABELS_NAME
    labels.mkdir()
    for name, frame in frames.items():
        text = yolo.format_labels([mask.rle for mask in frame.selected])
        (labels / name).with_suffix(".txt").write_text(text, encoding="utf-8")
    data = {"path": ".", "train": IMAGES_NAME, "val": IMAGES_NAME, "names": {0: CATEGORY["name"]}}
    (folder / yolo.DATA_NAME).write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


@dataclass(frozen=True)
class Labels:
    """What a person says about images.

    Attributes:
        masks: of each image that is known, by the name of its file in the training set; an image
            without a mask has none that is right.
        unknown: names of images that the training set does not have.
    """

    masks: dict[str, tuple[Rle, ...]]
    unknown: tuple[str, ...]


def read_labels(path: Path, sizes: Mapping[str, tuple[int, int]]) -> Labels:
    """The labels in a COCO file, in a folder with one, or in a YOLO folder.

    `iscrowd` does not count: tools set it on the masks of a brush, too.

    Args:
        sizes: (height, width) of the images of the training set, by the names of their files.

    Raises:
        GboptError: it cannot be read, a mask is malformed, an image has another size or two
            entries, or no image is known.
    """
    known = {Path(name).stem: name for name in sizes}
    is_yolo = path.is_dir() and (path / yolo.LABELS_NAME).is_dir()
    masks: dict[str, tuple[Rle, ...]] = {}
    unknown = []
    for name, masks_of in _of_yolo(path) if is_yolo else _of_coco(path):
        image = next((known[d] for d in _DIGEST.findall(name) if d in known), None)
        if image is None:
            unknown.append(name)
        elif image in masks:
            raise GboptError(f"{path}: two entries for {name}; label each image once")
        else:
            masks[image] = masks_of(sizes[image])
    if not masks:
        raise GboptError(
            f"{path}: none of its {len(unknown)} images is in the training set; expected the names "
            "that `gbopt export` gave them, in full"
        )
    return Labels(masks, tuple(unknown))


def _of_coco(path: Path) -> Iterator[tuple[str, _MasksOf]]:
    """The images of a COCO dataset, and their masks once their size is known."""
    coco = load_coco(_coco_file(path) if path.is_dir() else path)
    for image in coco.images:
        yield image.file_name, partial(_coco_masks, coco, image)


def _coco_file(folder: Path) -> Path:
    """The COCO file of a folder of ours, or of a tool: each has a name of its own for it."""
    if (ours := folder / ANNOTATIONS_NAME).is_file():
        return ours
    found = sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")])
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise GboptError(
            f"{folder}: expected {ANNOTATIONS_NAME}, or one other .json file; there are: {names}; "
            "name the file itself"
        )
    return found[0]


def _coco_masks(coco: CocoDataset, image: CocoImage, size: tuple[int, int]) -> tuple[Rle, ...]:
    if (image.height, image.width) != size:
        raise GboptError(
            f"{image.file_name}: {image.height}x{image.width} (height x width), expected "
            f"{size[0]}x{size[1]}; label the image as it was exported"
        )
    return coco.rles_by_image[image.id] + coco.crowd_by_image.get(image.id, ())


def _of_yolo(path: Path) -> Iterator[tuple[str, _MasksOf]]:
    """The label files of a YOLO folder, and their masks once the size of the image is known."""
    for file in sorted((path / yolo.LABELS_NAME).rglob("*.txt")):
        yield file.name, partial(yolo.read_labels, file)
