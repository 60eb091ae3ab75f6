"""What the tests of `gbopt pretrain` share: a tiny data set, and the options for tiny networks."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

SIZES = ((48, 64), (64, 48), (40, 40))
SMALL = [
    "--set", "pretrain.proposal_architecture=slim18-fpn",
    "--set", "pretrain.background_architecture=slim18-semantic-fpn",
    "--set", "pretrain.batch_size=2", "--set", "pretrain.num_workers=0",
]  # fmt: skip


def make_coco(folder: Path) -> Path:
    """Three images in COCO's own layout: a polygon, and a crowd as uncompressed run lengths."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "train2017").mkdir()
    images, annotations = [], []
    for i, (height, width) in enumerate(SIZES):
        picture = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
        cv2.imwrite(str(folder / "train2017" / f"{i}.jpg"), picture)
        images.append({"id": i, "file_name": f"{i}.jpg", "height": height, "width": width})
        square = [[10, 5, 30, 5, 30, 25, 10, 25]]
        crowd = {"size": [height, width], "counts": [0, 4 * height, (width - 4) * height]}
        for kind, segmentation in enumerate((square, crowd)):
            annotations.append(
                {"id": 2 * i + kind, "image_id": i, "category_id": 18 + kind, "iscrowd": kind,
                 "segmentation": segmentation, "bbox": [0, 0, 1, 1], "area": 400}
            )  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": []}
    path = folder / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder
