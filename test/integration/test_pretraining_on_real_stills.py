"""Pretraining on real COCO images; targets are compared with those of pycocotools."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from support.networks import CPU

from gbopt_ros.config import AugmentConfig, PretrainConfig
from gbopt_ros.io.datasets.coco import CocoDataset, load_coco_dir
from gbopt_ros.learning.data.augmentation import to_example
from gbopt_ros.learning.data.datasets import CocoInstances
from gbopt_ros.learning.data.loader import Batches
from gbopt_ros.learning.data.targets import detection_target, semantic_target
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


def test_detection_and_semantic_targets_agree_with_pycocotools(
    dataset: CocoDataset, reference: COCO
) -> None:
    crowds, differences = 0, []
    for image in dataset.images:
        annotations = reference.loadAnns(reference.getAnnIds([image.id]))
        annotations.sort(key=lambda annotation: annotation["iscrowd"])  # as examples have them
        example = to_example(dataset.labelled(image))
        target = detection_target(example)
        masks = np.stack([reference.annToMask(annotation) for annotation in annotations])
        np.testing.assert_array_equal(target["masks"].numpy(), masks)
        is_crowd = np.array([bool(annotation["iscrowd"]) for annotation in annotations])
        np.testing.assert_array_equal(target["labels"].numpy(), np.where(is_crowd, -1, 1))
        x, y, width, height = np.array([a["bbox"] for a in annotations], np.float64).T
        boxes = np.stack([x, y, x + width, y + height], axis=1)
        differences += np.abs(target["boxes"].numpy() - boxes).max(axis=1).tolist()
        objects, crowd = masks[~is_crowd].any(axis=0), masks[is_crowd].any(axis=0)
        semantic = semantic_target(example)
        np.testing.assert_array_equal(semantic["foreground"].numpy(), objects)
        np.testing.assert_array_equal(semantic["known"].numpy(), objects | ~crowd)
        crowds += is_crowd.sum()
    # COCO measured its boxes on the polygons: a tip that is thinner than a pixel is in no mask.
    assert np.percentile(differences, 95) <= 1.5
    assert max(differences) < 15
    assert crowds == 13
    assert {len(dataset), len(CocoInstances(dataset))} == {128}


def test_batches_hold_every_object_from_min_pixels_on(
    dataset: CocoDataset, reference: COCO
) -> None:
    augmentation = replace(PLAIN, min_pixels=20)
    samples = Batches([(CocoInstances(dataset), 128)], augmentation, 0, detection_target)[0].samples
    areas = [reference.annToMask(a).sum() for a in reference.loadAnns(reference.getAnnIds())]
    assert sum(len(target["boxes"]) for _, target in samples) == sum(a >= 20 for a in areas)
    assert 0 < sum(a < 20 for a in areas) < 0.02 * len(areas)
    assert len({image.shape for image, _ in samples}) > 10
    for image, target in samples:
        x0, y0, x1, y1 = target["boxes"].T
        assert ((x0 >= 0) & (y0 >= 0) & (x1 <= image.shape[2]) & (y1 <= image.shape[1])).all()
        assert ((x1 > x0) & (y1 > y0)).all()


def test_pretrain_proposals_and_background_on_real_images(dataset: CocoDataset) -> None:
    settings = PretrainConfig(
        iterations=2, background_iterations=2, batch_size=2, warmup=1, optimizer="sgd",
        learning_rate=0.01, ema_decay=0.0, min_scale=0.8, augment=PLAIN,
    )  # fmt: skip
    instances = CocoInstances(dataset)
    proposals, log = pretrain_proposals(instances, settings, CPU)
    assert set(log.losses) >= {"loss_mask", "loss_objectness", "loss_rpn_box_reg", "total"}
    assert np.isfinite(log.total).all()
    _, log = pretrain_background(instances, settings, CPU, proposals)
    assert np.isfinite(log.total).all()
