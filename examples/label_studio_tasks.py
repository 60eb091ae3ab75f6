"""Make tasks for Label Studio, which reads no masks from COCO, out of an export.

    gbopt export store --out labels
    python examples/label_studio_tasks.py labels tasks.json

It needs `label-studio-sdk` and `pycocotools`, not this package. Label Studio finds the images in
its local storage, in a folder `images`.
"""

import json
import sys
from pathlib import Path

try:
    from label_studio_sdk.converter.brush import mask2rle
    from pycocotools import mask as coco_mask
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; pip install label-studio-sdk pycocotools")

ADDRESS = "/data/local-files/?d=images/"

if len(sys.argv) != 3:
    sys.exit("usage: label_studio_tasks.py EXPORT TASKS.json")
export, out = map(Path, sys.argv[1:])
if not (export / "annotations.json").is_file():
    sys.exit(f"error: {export}: no annotations.json; name a folder that `gbopt export` wrote")
labels = json.loads((export / "annotations.json").read_text(encoding="utf-8"))
tasks = {
    image["id"]: {
        "data": {"image": ADDRESS + image["file_name"]},
        "annotations": [{"result": []}],
    }
    for image in labels["images"]
}
for annotation in labels["annotations"]:
    mask = coco_mask.decode(annotation["segmentation"])
    region = {
        "id": str(annotation["id"]),
        "type": "brushlabels",
        "from_name": "brush",
        "to_name": "image",
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "value": {"format": "rle", "rle": mask2rle(mask * 255), "brushlabels": ["object"]},
    }
    tasks[annotation["image_id"]]["annotations"][0]["result"].append(region)
out.write_text(json.dumps(list(tasks.values())), encoding="utf-8")
