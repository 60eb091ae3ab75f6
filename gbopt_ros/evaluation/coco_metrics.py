"""Class-agnostic COCO mask metrics by pycocotools, and their paired bootstrap."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gbopt_ros.evaluation.results import CocoResult, check_results
from gbopt_ros.io.datasets.coco import CATEGORY, CocoDataset
from gbopt_ros.masks import areas, check_rles
from gbopt_ros.structures import GboptError

METRICS = ("AP", "AP50", "AP75", "AR1", "AR3", "AR5")
AP_DETECTIONS = 100  # maximum number of masks an image that AP is computed over
MAX_DETECTIONS = (1, 3, 5, AP_DETECTIONS)
SIZES = {"AP_S": (0, 32**2), "AP_M": (32**2, 96**2), "AP_L": (96**2, 1e10)}
"""Areas of small, medium and large instances, pixels, as COCO has them.

An instance has the area of its mask; COCO takes the `area` of its file, that of the polygons.
"""
_ALL = (0, 1e10)
RESAMPLES = 1000


@dataclass(frozen=True)
class InstanceMetrics:
    """Class-agnostic mask metrics, percent.

    Attributes:
        AP: average precision over 100 masks an image, mean over IoU 0.50, 0.55 ... 0.95.
        AP50, AP75: the same at IoU 0.50 and at 0.75.
        AR1, AR3, AR5: recall of the 1, 3, 5 best masks of each image, mean over the same IoUs.
        AP_S, AP_M, AP_L: AP of the instances of each of `SIZES`; None where there are none.
    """

    AP: float
    AP50: float
    AP75: float
    AR1: float
    AR3: float
    AR5: float
    AP_S: float | None = None
    AP_M: float | None = None
    AP_L: float | None = None

    def to_dict(self) -> dict[str, float]:
        """The metrics by name, in the order of `METRICS`, then those by size that there are."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def evaluate_instances(
    gt: CocoDataset, results: Sequence[CocoResult | Mapping[str, Any]]
) -> InstanceMetrics:
    """COCO metrics of scored masks against the instances of a dataset, classes ignored.

    Raises:
        GboptError: `gt` has no instance or a broken mask, or a result does not fit `gt`.
    """
    evaluation = _match(gt, results, [_ALL, *SIZES.values()])
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    # COCOeval.summarize reads AP50 and AP75 at the third detection limit, so the arrays are read
    # here. Axes: IoU, (recall,) category, area, detection limit.
    by_area = evaluation.eval["precision"][:, :, 0, :, MAX_DETECTIONS.index(AP_DETECTIONS)]
    precision = by_area[..., 0]
    recall = evaluation.eval["recall"][:, 0, 0]
    of_sizes = [100 * float(by_area[..., i].mean()) for i in range(1, len(SIZES) + 1)]
    return InstanceMetrics(
        AP=100 * float(precision.mean()),
        AP50=100 * float(precision[_iou_index(0.50)].mean()),
        AP75=100 * float(precision[_iou_index(0.75)].mean()),
        AR1=100 * float(recall[:, MAX_DETECTIONS.index(1)].mean()),
        AR3=100 * float(recall[:, MAX_DETECTIONS.index(3)].mean()),
        AR5=100 * float(recall[:, MAX_DETECTIONS.index(5)].mean()),
        # COCOeval gives -1 where there is no instance.
        **{name: ap if ap >= 0 else None for name, ap in zip(SIZES, of_sizes, strict=True)},
    )


def paired_difference(
    gt: CocoDataset,
    results_a: Sequence[CocoResult | Mapping[str, Any]],
    results_b: Sequence[CocoResult | Mapping[str, Any]],
) -> tuple[float, float]:
    """The AP of `b` minus that of `a`, and its standard error, percentage points.

    Paired bootstrap over images: both results are evaluated on the same resampled images, so the
    difficulty of the images cancels. The error is that of the choice of test images, not of the
    training seeds. It is infinite where a single image has instances.

    Raises:
        GboptError: no instance, or a result does not fit `gt`.
    """
    a, b = (_matches_of(_match(gt, results)) for results in (results_a, results_b))
    images = len(a.instances)
    labelled = int(np.count_nonzero(a.instances))
    generator = np.random.default_rng(0)
    differences: list[float] = []
    while len(differences) < RESAMPLES:
        counts = generator.multinomial(images, np.full(images, 1 / images))
        if counts @ a.instances > 0:  # a resample without instances has no AP
            differences.append(_average_precision(b, counts) - _average_precision(a, counts))
    once = np.ones(images, np.int64)
    difference = _average_precision(b, once) - _average_precision(a, once)
    if labelled < 2:
        return difference, math.inf
    # A resample of n images has n - 1 degrees of freedom.
    return difference, float(np.std(differences, ddof=1)) * math.sqrt(labelled / (labelled - 1))


def _match(
    gt: CocoDataset,
    results: Sequence[CocoResult | Mapping[str, Any]],
    areas_px: Sequence[tuple[float, float]] = (_ALL,),
) -> COCOeval:
    """Per-image matches of results and instances at every IoU, for instances of these areas."""
    check_labels(gt)
    check_results(gt, results)
    labelled, detected = COCO(), COCO()
    labelled.dataset = gt.to_coco()
    detected.dataset = {
        "images": labelled.dataset["images"],
        "categories": labelled.dataset["categories"],
        "annotations": [
            {
                "id": number,
                "image_id": result["image_id"],
                "category_id": CATEGORY["id"],
                "segmentation": dict(result["segmentation"]),
                "area": float(areas([result["segmentation"]])[0]),
                "iscrowd": 0,
                "score": float(result["score"]),
            }
            for number, result in enumerate(results, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        labelled.createIndex()
        detected.createIndex()
        evaluation = COCOeval(labelled, detected, "segm")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(MAX_DETECTIONS)
        evaluation.params.areaRng = [list(bounds) for bounds in areas_px]
        evaluation.params.areaRngLbl = [str(bounds) for bounds in areas_px]
        evaluation.evaluate()
    return evaluation


def check_labels(gt: CocoDataset) -> None:
    """Raise GboptError if no image has an instance, or a mask is broken."""
    # A subset of a dataset may carry the labels of images that are not in it.
    if not any(gt.rles_by_image.get(image.id) for image in gt.images):
        raise GboptError(
            f"the ground truth has no instance in its {len(gt)} images; nothing can be measured"
        )
    for image in gt.images:
        for by_image in (gt.rles_by_image, gt.crowd_by_image):
            try:
                check_rles(by_image.get(image.id, ()), (image.height, image.width))
            except ValueError as error:
                raise GboptError(f"ground truth of image {image.id}: {error}") from error


def _iou_index(iou: float) -> int:
    return round((iou - 0.5) / 0.05)


@dataclass(frozen=True)
class _Matches:
    """All detections D of I images, best score first, matched at J IoUs.

    Attributes:
        image: (D,) index of the image.
        hit: (J, D) bool, matches an instance.
        false: (J, D) bool, matches nothing; a match with a crowd region is neither hit nor false.
        instances: (I,) int, number of instances of each image without crowd regions.
    """

    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    false: NDArray[np.bool_]
    instances: NDArray[np.int64]


def _matches_of(evaluation: COCOeval) -> _Matches:
    thresholds = len(evaluation.params.iouThrs)
    scores, image = [np.zeros(0)], [np.zeros(0, int)]
    matched = [np.zeros((thresholds, 0), bool)]
    ignored = [np.zeros((thresholds, 0), bool)]
    instances = np.zeros(len(evaluation.evalImgs), np.int64)
    for i, entry in enumerate(evaluation.evalImgs):
        if entry is None:  # neither instances nor detections
            continue
        scores.append(np.asarray(entry["dtScores"], float))
        image.append(np.full(len(entry["dtScores"]), i))
        matched.append(entry["dtMatches"] > 0)
        ignored.append(np.asarray(entry["dtIgnore"], bool))
        instances[i] = np.count_nonzero(entry["gtIgnore"] == 0)
    # Sorted as COCOeval.accumulate does, so that ties fall in the same order.
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    hits = np.concatenate(matched, axis=1)[:, order]
    crowd = np.concatenate(ignored, axis=1)[:, order]
    return _Matches(
        np.concatenate(image)[order],
        hits & ~crowd,
        ~hits & ~crowd,
        instances,
    )


def _average_precision(matches: _Matches, counts: NDArray[np.int64]) -> float:
    """AP, percent, with image i taken `counts[i]` times, computed as COCOeval does."""
    total = int(counts @ matches.instances)
    weight = counts[matches.image]  # (D,)
    hits = np.cumsum(matches.hit * weight, axis=1)  # (J, D)
    found = hits + np.cumsum(matches.false * weight, axis=1)
    precision = hits / (found + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.pad(envelope, ((0, 0), (0, 1)))  # recalls that are not reached have precision 0
    levels = np.linspace(0, 1, 101)
    at_levels = [
        row[np.searchsorted(recall, levels, side="left")]
        for row, recall in zip(padded, hits / total, strict=True)
    ]
    return 100 * float(np.mean(at_levels))
