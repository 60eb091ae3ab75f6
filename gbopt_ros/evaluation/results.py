"""COCO result lists: masks with scores, made from proposals, read from files, and checked."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from pycocotools import mask as coco_mask

from gbopt_ros.io.datasets.coco import CocoDataset
from gbopt_ros.io.files import read_json
from gbopt_ros.masks import is_consistent
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
    sizes = {image.id: [image.height, image.width] for image in gt.images}
    for number, result in enumerate(results):
        keys = ("image_id", "segmentation", "score")
        missing = [key for key in keys if not isinstance(result, dict) or key not in result]
        if missing:
            raise GboptError(f"result {number}: lacks {', '.join(missing)}")
        image_id, rle, score = (result[key] for key in keys)
        if not isinstance(image_id, int) or image_id not in sizes:
            raise GboptError(
                f"result {number}: image id {image_id!r} is not in the ground truth; "
                "use the ids of its `images`"
            )
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise GboptError(f"result {number}: score must be a finite number, got {score!r}")
        if not isinstance(rle, dict) or not {"size", "counts"} <= rle.keys():
            raise GboptError(
                f"result {number}: expected a run-length encoded mask with `size` and `counts`"
            )
        if rle["size"] != sizes[image_id]:
            raise GboptError(
                f"result {number}: mask of size {rle['size']} on image {image_id} of size "
                f"{sizes[image_id]} (height, width)"
            )
        if not isinstance(rle["counts"], str):
            kind = type(rle["counts"]).__name__
            raise GboptError(f"result {number}: expected `counts` as text or list, got {kind}")
        if not is_consistent(cast(Rle, rle)):
            raise GboptError(
                f"result {number}: the run lengths of its mask do not add up to {rle['size']}"
            )


def load_results(path: Path, gt: CocoDataset) -> list[CocoResult]:
    """Read a COCO result list, or a COCO dataset whose annotations have a `score`.

    A list names images by id. The images of a dataset are matched with those of `gt` by file name
    without folder and suffix, or by id where the names do not match.

    Raises:
        GboptError: missing file, not JSON, unknown images, or masks that do not fit them.
    """
    content = read_json(path)
    try:
        if isinstance(content, dict) and isinstance(content.get("annotations"), list):
            content = _results_of_dataset(content, gt)
        if not isinstance(content, list):
            raise GboptError("expected a list of results, or a COCO dataset with `annotations`")
        results = [_compressed(entry) for entry in content]
        check_results(gt, results)
    except GboptError as error:
        raise GboptError(f"{path}: {error}") from error
    return [
        CocoResult(image_id=r["image_id"], segmentation=r["segmentation"], score=r["score"])
        for r in results
    ]


def _compressed(entry: Any) -> Any:
    """A result whose run lengths are a valid list gets compressed ones; others stay as they are."""
    rle = entry.get("segmentation") if isinstance(entry, dict) else None
    size, counts = (rle.get("size"), rle.get("counts")) if isinstance(rle, dict) else (None, None)
    if not isinstance(counts, list) or not isinstance(size, list) or len(size) != 2:
        return entry
    lengths = [*size, *counts]
    if not all(isinstance(n, int) and n >= 0 for n in lengths) or sum(counts) != math.prod(size):
        raise GboptError(f"the run lengths of a mask do not add up to {size}")
    encoded = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)
    return {**entry, "segmentation": Rle(size=size, counts=encoded["counts"].decode("ascii"))}


def _results_of_dataset(content: dict[str, Any], gt: CocoDataset) -> list[dict[str, Any]]:
    matched = _match_images(content.get("images"), gt)
    results = []
    for annotation in content["annotations"]:
        if not isinstance(annotation, dict) or "image_id" not in annotation:
            raise GboptError("every annotation needs an 'image_id'")
        if annotation.get("iscrowd"):
            continue
        image_id = matched.get(annotation["image_id"])
        if image_id is None:
            raise GboptError(
                f"annotation of image {annotation['image_id']!r}, which is not in the ground "
                "truth, neither by file name nor by id"
            )
        results.append({**annotation, "image_id": image_id})
    return results


def _match_images(images: Any, gt: CocoDataset) -> dict[int, int]:
    """The `gt` id of each image id of another dataset that is in `gt` too."""
    if not isinstance(images, list) or not all(
        isinstance(image, dict) and isinstance(image.get("id"), int) and "file_name" in image
        for image in images
    ):
        raise GboptError("expected `images` with `id` and `file_name` beside the annotations")
    stems = {image["id"]: Path(str(image["file_name"])).stem for image in images}
    gt_ids = {Path(image.file_name).stem: image.id for image in gt.images}
    by_name = {key: gt_ids[stem] for key, stem in stems.items() if stem in gt_ids}
    unique = len(gt_ids) == len(gt.images) and len(set(by_name.values())) == len(by_name)
    if by_name and unique:
        logger.info("%d images matched with the ground truth by file name", len(by_name))
        return by_name
    known = {image.id for image in gt.images}
    by_id = {key: key for key in stems if key in known}
    logger.info("%d images matched with the ground truth by id", len(by_id))
    return by_id
