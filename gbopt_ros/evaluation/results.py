"""COCO result lists: masks with scores, made from proposals, read from files, and checked."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from gbopt_ros.io.datasets.coco import CocoDataset, segmentation_to_rle
from gbopt_ros.io.json_file import Fields, read_json
from gbopt_ros.io.selection_format import SOURCE_NAME
from gbopt_ros.structures import GboptError, Proposals, Rle

logger = logging.getLogger(__name__)


class CocoResult(TypedDict):
    """One mask of a COCO result list; `score` ranks it among the masks of all images."""

    image_id: int
    segmentation: Rle
    score: float


def results_of(proposals_by_image: Mapping[int, Proposals]) -> list[CocoResult]:
    """The proposals of every image id as a COCO result list."""
    return [
        CocoResult(image_id=image_id, segmentation=rle, score=float(score))
        for image_id, proposals in proposals_by_image.items()
        for rle, score in zip(proposals.rles, proposals.scores, strict=True)
    ]


def check_results(gt: CocoDataset, results: Sequence[Any]) -> None:
    """Raise GboptError unless every result is a scored mask of an image of `gt`."""
    _checked(gt, [Fields(result, f"result {number}") for number, result in enumerate(results)])


def load_results(path: Path, gt: CocoDataset) -> list[CocoResult]:
    """Read a COCO result list, or a COCO dataset whose annotations have a `score`.

    A list names images by id. The images of a dataset are matched with those of `gt` by file name
    without folder and suffix; those without a match are left out. A replay of a folder also tells
    the name that an image had there, which counts unless more of its own names match. Where no name
    does, they are matched by id, and then `gt` must have all of them.

    Raises:
        GboptError: missing file, not JSON, unknown images, or masks that do not fit them.
    """
    content = read_json(path)
    if isinstance(content, dict) and "annotations" in content:
        return _checked(gt, _results_of_dataset(Fields(content, str(path)), gt))
    if not isinstance(content, list):
        raise GboptError(
            f"{path}: expected a list of results, or a COCO dataset with `annotations`"
        )
    return _checked(gt, [Fields(e, f"{path}: result {i}") for i, e in enumerate(content)])


def _checked(gt: CocoDataset, entries: Sequence[Fields]) -> list[CocoResult]:
    sizes = {image.id: (image.height, image.width) for image in gt.images}
    results = []
    for entry in entries:
        image_id, score = entry.integer("image_id"), entry.number("score")
        if image_id not in sizes:
            raise GboptError(
                f"{entry.where}: image id {image_id} is not in the ground truth; "
                "use the ids of its `images`"
            )
        segmentation = entry.object("segmentation").content  # results have no polygons
        rle = segmentation_to_rle(segmentation, sizes[image_id], entry.where)
        results.append(CocoResult(image_id=image_id, segmentation=rle, score=score))
    return results


def _results_of_dataset(content: Fields, gt: CocoDataset) -> list[Fields]:
    images = content.objects("images")
    known = {image.integer("id") for image in images}
    matched = _match_images(images, gt)
    results = []
    for entry in content.objects("annotations"):
        image_id = entry.integer("image_id")
        if image_id not in known:
            raise GboptError(f"{entry.where}: 'image_id' is that of no image")
        if image_id in matched and not entry.flag("iscrowd", default=0):
            results.append(Fields({**entry.content, "image_id": matched[image_id]}, entry.where))
    if known and not matched:
        raise GboptError(
            f"{content.where}: which of its {len(images)} images are in the ground truth, neither "
            "file names nor ids tell"
        )
    return results


def _match_images(images: Sequence[Fields], gt: CocoDataset) -> dict[int, int]:
    """The `gt` id of each image id of another dataset that is in `gt` too.

    Labelled images without a counterpart are told of: all their objects will count as missed.
    """
    matched, by = _matches(images, gt)
    logger.info("%d of %d images matched with the labels by %s", len(matched), len(images), by)
    missing = {image.id for image in gt.images} - set(matched.values())
    if missing:
        logger.warning(
            "%d of %d labelled images are not among those of the results: all their objects count "
            "as missed",
            len(missing),
            len(gt.images),
        )
    return matched


def _matches(images: Sequence[Fields], gt: CocoDataset) -> tuple[dict[int, int], str]:
    # Labels may be of the images of a folder, or of the frames that a replay of it wrote.
    by_name = max((_same_names(images, gt, key) for key in (SOURCE_NAME, "file_name")), key=len)
    if by_name:
        return by_name, "file name"
    # Two datasets that number their own images have some ids in common, of different images.
    ids = {image.integer("id") for image in images}
    return {key: key for key in ids} if ids <= {image.id for image in gt.images} else {}, "id"


def _same_names(images: Sequence[Fields], gt: CocoDataset, key: str) -> dict[int, int]:
    """The `gt` ids of the images with a name of `gt`, empty if a name is that of two.

    Args:
        key: of the name; images without it have their `file_name`.
    """
    names = {image.integer("id"): image.text("file_name") for image in images}
    names |= {image.integer("id"): image.text(key) for image in images if key in image}
    stems = {number: Path(name).stem for number, name in names.items()}
    gt_ids = {Path(str(im.extra.get(key, im.file_name))).stem: im.id for im in gt.images}
    found = {number: gt_ids[stem] for number, stem in stems.items() if stem in gt_ids}
    unique = len(gt_ids) == len(gt.images) and len(set(found.values())) == len(found)
    return found if unique else {}
