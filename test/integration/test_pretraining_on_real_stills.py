"""Pretraining data made of real COCO images, against pycocotools' own reading of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from support.networks import CPU

from gbopt_ros.config import AugmentConfig, PretrainConfig
from gbopt_ros.io.datasets.coco import CocoDataset, load_coco_dir
from gbopt_ros.learning.data.augmentation import to_example
from gbopt_ros.learning.data.batches import detection_target, foreground_target, known_pixels
from gbopt_ros.learning.data.datasets import CocoInstances
from gbopt_ros.learning.data.loader import Steps
from gbopt_ros.learning.training.pretraining import pretrain_background, pretrain_proposals

PLAIN = AugmentConfig(
    scale_min=1.0, scale_max=1.0, copy_paste=0.0, flip=0.0, colour=0.0, blur=0.0, noise=0.0
)


@pytest.fixture(scope="module")
def stills(real_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real images in COCO's own layout."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "annotations").mkdir()
    name = "instances_train2017.json"
    (folder / "annotations" / name).symlink_to(real_dir / "coco-stills" / name)
    (folder / "train2017").symlink_to(real_dir / "coco-stills" / "images")
    return folder


@pytest.fixture(scope="module")
def dataset(stills: Path) -> CocoDataset:
    return load_coco_dir(stills)


@pytest.fixture(scope="module")
def reference(stills: Path) -> COCO:
    return COCO(str(stills / "annotations" / "instances_train2017.json"))


def test_masks_boxes_and_crowds_are_those_of_pycocotools(
    dataset: CocoDataset, reference: COCO
) -> None:
    crowds, differences = 0, []
    for image in dataset.images:
        annotations = reference.loadAnns(reference.getAnnIds([image.id]))
        annotations.sort(key=lambda annotation: annotation["iscrowd"])  # as examples have them
        example = to_example(dataset.labelled(image))
        target = detection_target(example, CPU)
        masks = np.stack([reference.annToMask(annotation) for annotation in annotations])
        np.testing.assert_array_equal(target["masks"].numpy(), masks)
        is_crowd = np.array([bool(annotation["iscrowd"]) for annotation in annotations])
        np.testing.assert_array_equal(target["labels"].numpy(), np.where(is_crowd, -1, 1))
        x, y, width, height = np.array([a["bbox"] for a in annotations], np.float64).T
        boxes = np.stack([x, y, x + width, y + height], axis=1)
        differences += np.abs(target["boxes"].numpy() - boxes).max(axis=1).tolist()
        objects, crowd = masks[~is_crowd].any(axis=0), masks[is_crowd].any(axis=0)
        np.testing.assert_array_equal(foreground_target(example, CPU).numpy(), objects)
        np.testing.assert_array_equal(known_pixels(example, CPU).numpy(), objects | ~crowd)
        crowds += is_crowd.sum()
    # COCO measured its boxes on the polygons: a tip that is thinner than a pixel is in no mask.
    assert np.percentile(differences, 95) <= 1.5
    assert max(differences) < 15
    assert crowds == 13
    assert {len(dataset), len(CocoInstances(dataset))} == {128}


def test_a_batch_holds_every_object_from_a_size_on(dataset: CocoDataset, reference: COCO) -> None:
    steps = Steps(
        CocoInstances(dataset),
        replace(PLAIN, min_pixels=20),
        seed=0,
        batch_size=128,
        targets_of=partial(detection_target, device=CPU),
    )
    samples = steps[0].samples
    areas = [reference.annToMask(a).sum() for a in reference.loadAnns(reference.getAnnIds())]
    assert sum(len(target["boxes"]) for _, target in samples) == sum(a >= 20 for a in areas)
    assert 0 < sum(a < 20 for a in areas) < 0.02 * len(areas)
    assert len({image.shape for image, _ in samples}) > 10
    for image, target in samples:
        x0, y0, x1, y1 = target["boxes"].T
        assert ((x0 >= 0) & (y0 >= 0) & (x1 <= image.shape[2]) & (y1 <= image.shape[1])).all()
        assert ((x1 > x0) & (y1 > y0)).all()


def test_a_few_real_steps(dataset: CocoDataset) -> None:
    settings = PretrainConfig(
        iterations=2, background_iterations=3, batch_size=3, warmup=1, optimizer="sgd",
        learning_rate=0.01, average=0.0, shrink=0.8, augment=PLAIN,
    )  # fmt: skip
    pool = CocoInstances(dataset)
    proposals, log = pretrain_proposals(pool, settings, CPU)
    assert set(log.losses) >= {"loss_mask", "loss_objectness", "loss_rpn_box_reg", "total"}
    assert np.isfinite(log.total).all()
    _, log = pretrain_background(pool, settings, CPU, proposals)
    assert np.isfinite(log.total).all()
