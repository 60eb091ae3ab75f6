"""COCO metrics against values worked out by hand and against pycocotools' own summary."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gbopt_ros import masks as mask_ops
from gbopt_ros.evaluation.coco_metrics import (
    METRICS,
    InstanceMetrics,
    evaluate_instances,
    paired_difference,
)
from gbopt_ros.evaluation.evaluate import evaluate_network
from gbopt_ros.evaluation.results import CocoResult, check_results, results_of
from gbopt_ros.io.datasets.coco import CocoDataset, CocoImage, load_coco
from gbopt_ros.structures import GboptError, Proposals, Rle

SIZE = 64


def square(x: int, y: int, side: int = 10, width: int | None = None) -> Rle:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[y : y + side, x : x + (width or side)] = True
    return mask_ops.encode(mask)


def dataset(*instances: tuple[Rle, ...], crowd: dict[int, tuple[Rle, ...]] | None = None):
    images = tuple(CocoImage(i, f"{i}.png", SIZE, SIZE) for i in range(1, len(instances) + 1))
    return CocoDataset(images, dict(enumerate(instances, start=1)), None, crowd or {})


def result(image_id: int, rle: Rle, score: float) -> CocoResult:
    return CocoResult(image_id=image_id, segmentation=rle, score=score)


def values(metrics: InstanceMetrics, *names: str) -> tuple[float, ...]:
    return tuple(metrics.to_dict()[name] for name in names)


FIVE = tuple(square(12 * i, 0) for i in range(5))


def test_evaluate_instances_of_perfect_masks():
    gt = dataset((square(0, 0), square(20, 20)), (square(5, 5),))
    results = [
        result(1, square(0, 0), 0.9), result(1, square(20, 20), 0.3), result(2, square(5, 5), 0.8)
    ]  # fmt: skip
    metrics = evaluate_instances(gt, results)
    assert values(metrics, "AP", "AP50", "AP75") == pytest.approx((100, 100, 100))
    # With one mask an image, two of the three instances are found.
    assert values(metrics, "AR1") == pytest.approx((200 / 3,))
    assert values(metrics, "AR3", "AR5") == pytest.approx((100, 100))


def test_evaluate_instances_with_one_miss_of_two():
    metrics = evaluate_instances(
        dataset((square(0, 0), square(20, 20))), [result(1, square(0, 0), 0.9)]
    )
    # Precision is 1 up to recall 0.5, 51 of the 101 levels, and 0 from there on.
    assert values(metrics, "AP") == pytest.approx((100 * 51 / 101,))
    assert values(metrics, "AR1", "AR5") == pytest.approx((50, 50))


def test_evaluate_instances_with_a_false_mask_ranked_first():
    metrics = evaluate_instances(
        dataset((square(0, 0),)), [result(1, square(40, 40), 0.9), result(1, square(0, 0), 0.8)]
    )
    assert values(metrics, "AP") == pytest.approx((50,))
    assert values(metrics, "AR1", "AR3") == pytest.approx((0, 100))


def test_recall_of_the_best_one_three_five():
    results = [result(1, rle, 0.9 - 0.1 * i) for i, rle in enumerate(FIVE)]
    metrics = evaluate_instances(dataset(FIVE), results)
    assert values(metrics, "AR1", "AR3", "AR5") == pytest.approx((20, 60, 100))
    assert values(metrics, "AP") == pytest.approx((100,))


def test_evaluate_instances_counts_a_hundred_masks_for_precision():
    junk = [result(1, square(12 * i, 40), 0.9) for i in range(5)]
    metrics = evaluate_instances(dataset(FIVE), [*junk, *(result(1, rle, 0.5) for rle in FIVE)])
    assert values(metrics, "AR5", "AP", "AP50") == pytest.approx((0, 50, 50))


def test_evaluate_instances_of_a_shifted_square():
    # 10x10 shifted by 2: 80 pixels of 120 shared, IoU 2/3, passes 0.50, 0.55, 0.60, 0.65.
    metrics = evaluate_instances(dataset((square(0, 0),)), [result(1, square(2, 0), 0.9)])
    assert values(metrics, "AP50", "AP75") == pytest.approx((100, 0))
    assert values(metrics, "AP", "AR1") == pytest.approx((40, 40))


def test_evaluate_instances_ignores_masks_on_crowd_regions():
    gt = dataset((square(0, 0),), crowd={1: (square(30, 30, 30),)})
    results = [result(1, square(35, 35), 0.95), result(1, square(0, 0), 0.9)]
    assert values(evaluate_instances(gt, results), "AP") == pytest.approx((100,))


def test_evaluate_instances_without_results_is_zero_and_prints_nothing(
    capsys: pytest.CaptureFixture[str],
):
    metrics = evaluate_instances(dataset((square(0, 0),)), [])
    assert metrics.to_dict() == dict.fromkeys((*METRICS, "AP_S"), 0.0)
    assert capsys.readouterr().out == ""


def test_evaluate_instances_tells_ap_by_size_as_pycocotools_does():
    # 10 x 10 pixels are small, 40 x 40 are medium; the medium one is found.
    gt = dataset((square(0, 0), square(20, 20, 40)))
    metrics = evaluate_instances(gt, [result(1, square(20, 20, 40), 0.9)])
    assert (0.0, pytest.approx(100.0), None) == (metrics.AP_S, metrics.AP_M, metrics.AP_L)
    assert "AP_L" not in metrics.to_dict()


def test_evaluate_instances_without_instances_is_an_error():
    with pytest.raises(GboptError, match="no instance"):
        evaluate_instances(dataset((), ()), [])
    whole = dataset((), (square(0, 0),))
    first = CocoDataset(whole.images[:1], whole.rles_by_image)
    with pytest.raises(GboptError, match="no instance in its 1 images"):
        evaluate_instances(first, [])


def test_evaluate_instances_refuses_a_broken_label():
    gt = dataset((square(0, 0), Rle(size=[SIZE, SIZE], counts="zzzz")))
    with pytest.raises(GboptError, match="ground truth of image 1"):
        evaluate_instances(gt, [])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (result(7, square(0, 0), 0.5), "image id 7"),
        (result(1, square(0, 0), float("nan")), "finite"),
        (result(1, mask_ops.encode(np.ones((3, 4), bool)), 0.5), r"\[3, 4\]"),
        (result(1, Rle(size=[SIZE, SIZE], counts="zzzz"), 0.5), "run lengths"),
        (result(1, Rle(size=[SIZE, SIZE], counts=""), 0.5), "run lengths"),
        (result(1, Rle(size=[SIZE, SIZE], counts="ä"), 0.5), "run lengths"),
        ({"image_id": 1, "score": 0.5}, "segmentation"),
    ],
)
def test_evaluate_instances_refuses_bad_results(bad: CocoResult, message: str):
    with pytest.raises(GboptError, match=message):
        evaluate_instances(dataset((square(0, 0),)), [bad])


def random_case(seed: int) -> tuple[CocoDataset, list[CocoResult]]:
    random = np.random.default_rng(seed)
    instances, results = [], []
    for image in range(1, 7):
        corners = random.integers(0, 44, (random.integers(0, 9), 2))
        instances.append(tuple(square(x, y, 16) for x, y in corners.tolist()))
        for x, y in corners[: random.integers(0, 9)].tolist():
            dx, dy = random.integers(-3, 4, 2).clip(-min(x, y), None).tolist()
            results.append(result(image, square(x + dx, y + dy, 16), random.random()))
        for x, y in random.integers(0, 44, (random.integers(0, 9), 2)).tolist():
            results.append(result(image, square(x, y, 16), random.random()))
    return dataset(*instances), results


def test_check_results_accepts_every_encoded_mask():
    random = np.random.default_rng(0)
    for density in (0.0, 0.02, 0.5, 0.98, 1.0):
        for shape in ((1, 1), (3, 500), (SIZE, SIZE), (480, 640)):
            image = CocoImage(1, "1.png", *shape)
            rle = mask_ops.encode(random.random(shape) < density)
            check_results(CocoDataset((image,), {1: ()}), [result(1, rle, 0.5)])


@pytest.mark.parametrize("seed", range(5))
def test_evaluate_instances_agrees_with_the_summary_of_pycocotools(seed: int):
    gt, results = random_case(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        labelled = COCO()
        labelled.dataset = {"info": {}, **gt.to_coco()}
        labelled.createIndex()
        detected = labelled.loadRes([{**r, "category_id": 1} for r in results])
        evaluation = COCOeval(labelled, detected, "segm")
        evaluation.params.maxDets = [1, 5, 100]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap, ap50, ap75, *_, ar1, ar5, _, _, _, _ = 100 * evaluation.stats
    metrics = evaluate_instances(gt, results)
    assert 0 < metrics.AP < 100
    assert values(metrics, "AP", "AP50", "AP75", "AR1", "AR5") == pytest.approx(
        (ap, ap50, ap75, ar1, ar5)
    )


def test_paired_difference_is_that_of_the_metrics():
    gt, results = random_case(1)
    worse = results[::2]
    difference, error = paired_difference(gt, worse, results)
    assert np.isfinite(error)
    expected = evaluate_instances(gt, results).AP - evaluate_instances(gt, worse).AP
    assert difference == pytest.approx(expected)


def test_paired_difference_equals_evaluating_repeated_images():
    from gbopt_ros.evaluation import coco_metrics

    gt, results = random_case(2)
    counts = np.array([2, 0, 1, 3, 0, 1])
    repeats = [image for image, count in enumerate(counts, start=1) for _ in range(count)]
    repeated_gt = dataset(*(gt.rles_by_image[image] for image in repeats))
    repeated = [
        {**r, "image_id": new}
        for new, old in enumerate(repeats, start=1)
        for r in results
        if r["image_id"] == old
    ]
    expected = evaluate_instances(repeated_gt, repeated).AP
    matches = coco_metrics._matches_of(coco_metrics._match(gt, results))
    assert coco_metrics._average_precision(matches, counts) == pytest.approx(expected)


def test_paired_difference_ignores_masks_on_crowd_regions():
    """They are neither right, in place of the instance that was missed, nor wrong."""
    gt = dataset((square(0, 0),), (square(0, 0),), crowd={1: (square(30, 30, 30),)})
    found = [result(1, square(0, 0), 0.9)]
    on_crowd = [result(1, square(35, 35), 0.95), *found]
    assert paired_difference(gt, found, on_crowd) == (0.0, 0.0)


def test_paired_difference_has_the_known_standard_error():
    # Six of ten images are solved by b alone; a resampled AP is a binomial share, but that 0 counts
    # among its 101 levels of recall.
    gt = dataset(*[(square(0, 0),)] * 10)
    solved = [result(image, square(0, 0), 0.9) for image in range(1, 7)]
    difference, error = paired_difference(gt, [], solved)
    assert difference == pytest.approx(100 * 61 / 101)
    # The unbiased estimate for the mean of ten images.
    assert error == pytest.approx(100 * np.sqrt(0.6 * 0.4 / 9), rel=0.05)


def test_paired_difference_of_one_labelled_image_has_an_infinite_error():
    gt = dataset((square(0, 0), square(20, 20)), (), ())
    difference, error = paired_difference(gt, [], [result(1, square(0, 0), 0.9)])
    assert difference == pytest.approx(100 * 51 / 101)
    assert error == np.inf


def test_paired_difference_of_equal_results_is_zero_and_repeatable():
    gt, results = random_case(3)
    assert paired_difference(gt, results, results) == (0.0, 0.0)
    runs = [paired_difference(gt, results[1:], results) for _ in range(2)]
    assert runs[0] == runs[1]


class FixedNetwork:
    """Proposes the square whose corner the top left pixel gives, and remembers batch sizes."""

    version = "fixed"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def propose(self, images) -> list[Proposals]:
        self.batches.append(len(images))
        return [
            Proposals(
                (SIZE, SIZE),
                (square(*image[0, 0, :2].tolist()),),
                np.array([0.75], np.float32),
                np.zeros((1, 4), np.float32),
            )
            for image in images
        ]


def test_evaluate_network_gives_metrics_and_results(tmp_path: Path):
    import cv2

    corners = [(1, 2), (30, 4), (7, 40)]
    for i, (x, y) in enumerate(corners, start=1):
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        image[0, 0] = (0, y, x)  # BGR
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    labelled = dataset(*((square(x, y),) for x, y in corners))
    gt = CocoDataset(labelled.images, labelled.rles_by_image, tmp_path)
    network = FixedNetwork()
    metrics, results = evaluate_network(network, gt, batch=2, progress=False)
    assert network.batches == [2, 1]
    assert metrics.to_dict() == pytest.approx(dict.fromkeys((*METRICS, "AP_S"), 100))
    assert [(r["image_id"], r["score"]) for r in results] == [(1, 0.75), (2, 0.75), (3, 0.75)]


def test_evaluate_instances_of_real_ground_truth_against_itself(real_dir: Path):
    gt = load_coco(real_dir / "coco-stills" / "instances_train2017.json")
    size = {image.id: (image.height, image.width) for image in gt.images}
    proposals = {
        key: Proposals(
            size[key],
            rles,
            np.linspace(0.9, 0.1, len(rles), dtype=np.float32),
            mask_ops.boxes_xyxy(rles),
        )
        for key, rles in gt.rles_by_image.items()
    }
    metrics = evaluate_instances(gt, results_of(proposals))
    assert metrics.AP > 99
    assert metrics.AR1 < metrics.AR3 < metrics.AR5 < 100
