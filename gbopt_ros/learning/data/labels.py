"""Masks that leave for an annotation tool, and labels that come back.

An exported image is named by its number and by the SHA-256 of its content, as in a training set. So
labels find their image again, whatever a tool does to ids, folders and the beginning of names, and
wherever the image was exported from. No file that labels name is opened.
"""

from __future__ import annotations

import json
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
from gbopt_ros.io.selection_format import read_selection
from gbopt_ros.learning.data.image_file import DIGEST_DIGITS, digest_of
from gbopt_ros.learning.data.verdicts import FRAME_FACTS, StoredFrame, Verdict, stored_masks
from gbopt_ros.structures import GboptError, Rle

FORMATS = ("coco", "yolo")
_DIGEST = re.compile(rf"(?=([0-9a-f]{{{DIGEST_DIGITS}}}))")
_MasksOf = Callable[[tuple[int, int]], tuple[Rle, ...]]


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


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GboptError(f"{path}: cannot be read: {error.strerror}") from error


def export_labels(frames: Iterable[StoredFrame], out: Path, layout: str) -> Exported:
    """Write images and their masks as a COCO or a YOLO dataset, the whole folder or nothing.

    `out` gets `images/` and `annotations.json`, a COCO file whose entries also have `score`,
    `confidence`, `verified` and, where it is known, `track_id`; entries of images have `recording`,
    `clip_id`, `frame_index`, `stamp_ns` and `model_version`. YOLO has no place for these: it gets
    `labels/` and `data.yaml` beside them. Equal images are written once, with the masks of the
    frame that was added last. Rejected masks stay behind.

    Args:
        frames: of a training set, or of `replay_frames`.
        out: must not exist, or be an empty folder.
        layout: one of `FORMATS`.

    Raises:
        GboptError: there is no frame, an image cannot be read, or `out` cannot be written.
    """
    newest = sorted(frames, key=lambda frame: frame.id)
    ordered = sorted(newest, key=lambda frame: (frame.recording, frame.frame_index))
    if not ordered:
        raise GboptError(f"{out}: there is no frame to export")
    with replacing_folder(out) as folder:
        images = folder / IMAGES_NAME
        images.mkdir(parents=True)
        names: dict[str, str] = {}  # by digest
        last: dict[str, StoredFrame] = {}
        for frame in ordered:
            content = _content(frame.path)
            digest = digest_of(content)
            if digest not in names:
                names[digest] = f"{len(names):06d}-{digest}{frame.path.suffix}"
                (images / names[digest]).write_bytes(content)
            if digest not in last or frame.id > last[digest].id:
                last[digest] = frame
        written = {names[digest]: frame for digest, frame in last.items()}
        text = json.dumps(_coco(written), separators=(",", ":"))
        (folder / ANNOTATIONS_NAME).write_text(text, encoding="utf-8")
        if layout == "yolo":
            _write_yolo(folder, written)
    return Exported(len(written), sum(len(frame.selected) for frame in written.values()))


def _coco(frames: Mapping[str, StoredFrame]) -> dict[str, object]:
    """The COCO dictionary of frames by the names of their images."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, (name, frame) in enumerate(frames.items(), start=1):
        height, width = frame.size
        entry: dict[str, object] = {"id": number, "file_name": name}
        entry |= {"height": height, "width": width}
        images.append(entry | {fact: getattr(frame, fact) for fact in FRAME_FACTS})
        for mask in frame.selected:
            track = {} if mask.track_id is None else {"track_id": mask.track_id}
            annotations.append(
                coco_annotation(
                    len(annotations) + 1, number, mask.rle, score=mask.score,
                    confidence=mask.confidence, verified=mask.verdict == Verdict.VERIFIED, **track,
                )
            )  # fmt: skip
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
    coco = load_coco(path / ANNOTATIONS_NAME if path.is_dir() else path)
    for image in coco.images:
        yield image.file_name, partial(_coco_masks, coco, image)


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
