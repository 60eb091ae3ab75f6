"""Edits an export with Datumaro, the library of CVAT: `datumaro_tool.py EXPORT EDITS OUT MODE`.

MODE is Datumaro's `segmentation_mode`: "mask" keeps masks, "guess" makes polygons of them unless
they are crowds. With "cvat" it guesses, but attributes are gone that no label of CVAT declares:
nothing says then that a mask is no crowd.
"""

import json
import sys
from pathlib import Path

import datumaro
import numpy as np
from datumaro.components.annotation import Mask, Polygon

export, edits, out = map(Path, sys.argv[1:4])
mode = sys.argv[4]
(export / "annotations").mkdir()  # where Datumaro looks
(export / "annotations.json").rename(export / "annotations" / "instances_default.json")
edit = json.loads(edits.read_text())
dataset = datumaro.Dataset.import_from(str(export), "coco_instances")
for item in list(dataset):
    kept = [each for each in item.annotations if each.group != edit["removed"]]
    if any(each.group == edit["changed"] for each in kept):
        kept = [each for each in kept if each.group != edit["changed"]]
        kept.append(Mask(np.array(edit["mask"], bool), label=0))
    if item.id == Path(edit["image"]).stem:
        kept.append(Polygon(edit["polygon"], label=0))
    if mode == "cvat":
        for each in kept:
            each.attributes.clear()
    dataset.put(item.wrap(annotations=kept))
dataset.export(str(out), "coco_instances", segmentation_mode="mask" if mode == "mask" else "guess")
