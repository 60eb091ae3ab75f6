"""COCO result lists: masks with scores, made from proposals, read from files, and checked."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from pycocotools import mask as coco_mask

from gbopt_ros.io.datasets.coco import CocoDataset
from gbopt_ros.masks import is_consistent
from gbopt_ros.structures import GboptError, Proposals, Rle

logger = logging.getLogger(__name__)


class CocoResult(TypedDict):
    """One mask of a COCO result list; `score` ranks it among all masks of all images."""

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


def check_results(gt: CocoDataset, results: Sequence[Mapping[str, Any]]) -> None:
    """Raise GboptError unless every result is a scored mask of an image of `gt`."""
    sizes = {image.id: [image.height, image.width] for image in gt.images}
    for number, result in enumerate(results):
        for key in ("image_id", "segmentation", "score"):
            if key not in result:
                raise GboptError(f"result {number}: has no {key!r}")
        image_id, rle, score = result["image_id"], result["segmentation"], result["score"]
        if not isinstance(image_id, int) or image_id not in sizes:
            raise GboptError(
                f"result {number}: image id {image_id!r} is not in the ground truth; "
                "use the ids of its `images`"
            )
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise GboptError(f"result {number}: score must be a finite number, got {score!r}")
        if list(rle["size"]) != sizes[image_id]:
            raise GboptError(
                f"result {number}: mask of size {list(rle['size'])} on image {image_id} of size "
                f"{sizes[image_id]} (height, width)"
            )
        if not is_consistent(rle):
            raise GboptError(
                f"result {number}: the run lengths of its mask do not add up to {rle['size']}"
            )


def load_results(path: Path, gt: CocoDataset) -> list[CocoResult]:
    """Read a COCO result list, or a COCO dataset whose annotations have a `score`.

    A list names images by id. The images of a dataset are matched with those of `gt` by file
    name without folder and suffix, because ids differ from dataset to dataset; where the names
    do not match, by id.

    Raises:
        GboptError: missing file, not JSON, unknown images, or masks that do not fit them.
    """
    content = _read_json(path)
    try:
        if isinstance(content, list):
            results = [_parse(entry) for entry in content]
        elif isinstance(content, dict) and isinstance(content.get("annotations"), list):
            results = _results_of_dataset(content, gt)
        else:
            raise GboptError("expected a list of results, or a COCO dataset with `annotations`")
        check_results(gt, results)
    except GboptError as error:
        raise GboptError(f"{path}: {error}") from error
    return results


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GboptError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise GboptError(f"{path}: expected JSON: {error}") from error


def _results_of_dataset(content: dict[str, Any], gt: CocoDataset) -> list[CocoResult]:
    matched = _match_images(content.get("images"), gt)
    results: list[CocoResult] = []
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
        results.append(_parse({**annotation, "image_id": image_id}))
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


def _parse(entry: Any) -> CocoResult:
    missing = [
        key
        for key in ("image_id", "segmentation", "score")
        if not isinstance(entry, dict) or key not in entry
    ]
    if missing:
        raise GboptError(f"an entry lacks {', '.join(missing)}")
    segmentation = entry["segmentation"]
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise GboptError("expected run-length encoded masks with `size` and `counts`")
    size, counts = segmentation["size"], segmentation["counts"]
    well_formed = isinstance(size, list) and len(size) == 2
    if not well_formed or not all(isinstance(n, int) and n > 0 for n in size):
        raise GboptError(f"expected a mask size [height, width], got {size!r}")
    if isinstance(counts, list):
        if not all(isinstance(n, int) and n >= 0 for n in counts) or sum(counts) != (
            size[0] * size[1]
        ):
            raise GboptError(f"the run lengths of a mask do not add up to {size}")
        encoded = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)
        counts = encoded["counts"].decode("ascii")
    elif not isinstance(counts, str):
        raise GboptError(f"expected `counts` as text or list, got {type(counts).__name__}")
    return CocoResult(
        image_id=entry["image_id"],
        segmentation=Rle(size=size, counts=counts),
        score=entry["score"],
    )
