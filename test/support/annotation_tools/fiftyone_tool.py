"""Edits an export with FiftyOne's reader and writer of COCO: `fiftyone_tool.py EXPORT EDITS OUT`.

They need no database. Only what has the attribute `iscrowd` is written as a mask; all else becomes
polygons, which are up to two pixels off.
"""

import json
import sys
from pathlib import Path

import fiftyone
import fiftyone.utils.coco as coco
import numpy as np

export, edits, out = map(Path, sys.argv[1:4])
edit = json.loads(edits.read_text())
reader = coco.COCODetectionDatasetImporter(
    data_path=str(export / "data"),
    labels_path=str(export / "labels.json"),
    label_types=["segmentations"],
    include_annotation_id=True,
)
writer = coco.COCODetectionDatasetExporter(
    data_path=str(out / "data"), labels_path=str(out / "labels.json"), export_media=False
)
with reader, writer:
    for path, metadata, label in reader:
        kept = [each for each in label.detections if each["coco_id"] != edit["removed"]]
        for each in kept:
            if each["coco_id"] == edit["changed"]:
                each.mask, each.bounding_box = np.array(edit["mask"], bool), [0, 0, 1, 1]
        if Path(path).name == edit["image"]:
            x0, y0, x1, y1 = np.array(edit["polygon"])[[0, 1, 2, 5]]  # a rectangle
            drawn = np.zeros((metadata.height, metadata.width), bool)
            drawn[y0:y1, x0:x1] = True
            kept.append(fiftyone.Detection.from_mask(drawn, label="object"))
        for each in kept:
            each["iscrowd"] = 1
        writer.export_sample(path, fiftyone.Detections(detections=kept), metadata=metadata)
