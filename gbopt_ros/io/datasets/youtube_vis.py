"""YouTube-VIS (Yang, Fan and Xu, ICCV 2019): videos with the masks of their objects in every frame.

    FOLDER/instances.json             videos, categories, annotations
    FOLDER/JPEGImages/VIDEO/00000.jpg

`FOLDER/train/instances.json` and `FOLDER/train.json` are found too, with their images in
`FOLDER/train/JPEGImages`. An annotation is one object. Its `segmentations` has an entry for each
frame, polygons or run lengths; null, an empty list and an empty mask mean that it is not in view.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gbopt_ros import masks as mask_ops
from gbopt_ros.io.datasets.coco import image_size, segmentation_to_rle
from gbopt_ros.io.json_file import Fields
from gbopt_ros.io.sources.folder import IMAGE_SUFFIXES
from gbopt_ros.structures import GboptError, Rle

_LAYOUTS = (  # annotations, images
    ("instances.json", "JPEGImages"),
    ("train/instances.json", "train/JPEGImages"),
    ("train.json", "train/JPEGImages"),
)


@dataclass(frozen=True)
class VisObject:
    """One object through its video.

    Attributes:
        category: name of its class.
        rles: T COCO RLEs, None in frames that do not show the object.
        crowd: it is a group of objects without masks of their own.
    """

    category: str
    rles: tuple[Rle | None, ...]
    crowd: bool = False


@dataclass(frozen=True)
class VisVideo:
    """One video of T annotated frames.

    Attributes:
        name: name of its folder below the image folder.
        file_names: T names of image files in that folder.
        size: (height, width) in pixels.
        objects: in the order of the file.
    """

    name: str
    file_names: tuple[str, ...]
    size: tuple[int, int]
    objects: tuple[VisObject, ...]

    @property
    def categories(self) -> frozenset[str]:
        """Names of the classes that occur."""
        return frozenset(item.category for item in self.objects)


@dataclass(frozen=True)
class YoutubeVis:
    """A split of YouTube-VIS.

    Attributes:
        videos: in the order of the file, names distinct.
        categories: all class names that the file declares, used or not.
        annotations: the JSON file.
        image_dir: folder with a sub-folder for each video.
    """

    videos: tuple[VisVideo, ...]
    categories: tuple[str, ...]
    annotations: Path
    image_dir: Path


def load_youtube_vis(folder: Path) -> YoutubeVis:
    """Read a YouTube-VIS folder; the image files themselves are not looked at.

    Raises:
        GboptError: no such folder, no annotations or images in it, or a malformed file.
    """
    path, image_dir = _find(Path(folder))
    content = Fields.read(path)
    categories = _categories(content.objects("categories"), path)
    entries = {entry.integer("id"): entry for entry in content.objects("videos")}
    if len(entries) != len(content.items("videos")):
        raise GboptError(f"{path}: video ids must be distinct")
    if "annotations" not in content:
        raise GboptError(f"{path}: files of the validation and test splits have no annotations")
    objects: dict[int, list[VisObject]] = {}
    for entry in content.objects("annotations"):
        number = entry.integer("video_id")
        if number not in entries:
            raise GboptError(f"{entry.where}: the unknown video {number}")
        objects.setdefault(number, []).append(_object(entry, entries[number], categories))
    videos = tuple(_video(e, tuple(objects.get(key, ()))) for key, e in entries.items())
    repeated = [name for name, n in Counter(video.name for video in videos).items() if n > 1]
    if repeated:
        raise GboptError(f"{path}: several videos have their frames in the folder {repeated[0]!r}")
    return YoutubeVis(videos, tuple(categories.values()), path, image_dir)


def _find(folder: Path) -> tuple[Path, Path]:
    """The annotation file and the image folder."""
    if not folder.is_dir():
        raise GboptError(f"{folder}: no such folder; give the folder of YouTube-VIS")
    for json_name, images in _LAYOUTS:
        if (folder / json_name).is_file():
            if not (folder / images).is_dir():
                raise GboptError(
                    f"{folder / images}: no such folder; the frames of YouTube-VIS belong there"
                )
            return folder / json_name, folder / images
    raise GboptError(
        f"{folder}: not a YouTube-VIS folder, it has none of "
        f"{', '.join(json_name for json_name, _ in _LAYOUTS)}"
    )


def _categories(entries: list[Fields], path: Path) -> dict[int, str]:
    categories = {entry.integer("id"): entry.text("name") for entry in entries}
    if len(categories) != len(entries) or len(set(categories.values())) != len(entries):
        raise GboptError(f"{path}: ids and names of categories must be distinct")
    return categories


def _names(video: Fields) -> list[PurePosixPath]:
    """`VIDEO/FRAME` of each frame."""
    paths = [PurePosixPath(name) for name in video.texts("file_names")]
    if not paths or not all(_is_frame_name(p) for p in paths):
        raise GboptError(f"{video.where}: expected `file_names` such as VIDEO/00000.jpg")
    if len({p.parent for p in paths}) > 1 or len(set(paths)) != len(paths):
        raise GboptError(f"{video.where}: expected distinct frames of one folder in `file_names`")
    return paths


def _is_frame_name(path: PurePosixPath) -> bool:
    parts = path.parts
    hidden = any(part.startswith(".") for part in parts)  # ".." among them
    return (
        len(parts) == 2
        and not path.is_absolute()
        and not hidden
        and path.suffix.lower() in IMAGE_SUFFIXES
    )


def _video(entry: Fields, objects: tuple[VisObject, ...]) -> VisVideo:
    names = _names(entry)
    return VisVideo(
        names[0].parts[0], tuple(name.name for name in names), image_size(entry), objects
    )


def _object(entry: Fields, video: Fields, categories: dict[int, str]) -> VisObject:
    category = categories.get(entry.integer("category_id"))
    if category is None:
        raise GboptError(f"{entry.where}: the unknown category {entry.integer('category_id')}")
    frames, segmentations = len(_names(video)), entry.items("segmentations")
    if len(segmentations) != frames:
        raise GboptError(
            f"{entry.where}: expected `segmentations` for the {frames} frames of its video, got "
            f"{len(segmentations)}"
        )
    size, where = image_size(video), f"{entry.where}: frame"
    rles = tuple(_visible(s, size, f"{where} {t}") for t, s in enumerate(segmentations))
    return VisObject(category, rles, entry.flag("iscrowd", default=0))


def _visible(segmentation: Any, size: tuple[int, int], where: str) -> Rle | None:
    """The mask of an object in a frame, None where it is absent or empty."""
    if not segmentation:
        return None
    rle = segmentation_to_rle(segmentation, size, where)
    return rle if mask_ops.areas([rle])[0] else None
