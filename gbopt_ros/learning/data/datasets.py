"""Datasets of labelled images that batches are drawn from."""

from __future__ import annotations

from typing import Protocol

from gbopt_ros.io.datasets.coco import CocoDataset
from gbopt_ros.structures import GboptError, LabelledImage


class InstanceDataset(Protocol):
    """Labelled images that are loaded one at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LabelledImage: ...


class CocoInstances:
    """The images of a COCO dataset that hold at least one instance, decoded when drawn."""

    def __init__(self, dataset: CocoDataset) -> None:
        self._dataset = dataset
        self._images = [image for image in dataset.images if dataset.rles_by_image[image.id]]
        if not self._images:
            raise GboptError(
                f"{dataset.image_dir}: no image has an instance; there is nothing to learn from"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> LabelledImage:
        return self._dataset.labelled(self._images[index])
