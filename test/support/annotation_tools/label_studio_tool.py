"""Edits tasks as Label Studio keeps them, and exports them: `label_studio_tool.py TASKS EDITS OUT`.

TASKS is what examples/label_studio_tasks.py makes of an export.
"""

import json
import sys
from pathlib import Path

import numpy as np
from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.brush import mask2rle

CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="object"/></BrushLabels>
<PolygonLabels name="polygon" toName="image"><Label value="object"/></PolygonLabels></View>"""

tasks_file, edits, out = map(Path, sys.argv[1:4])
edit = json.loads(edits.read_text())
tasks = json.loads(tasks_file.read_text())
for number, task in enumerate(tasks, start=1):
    task["id"] = number
    (annotation,) = task["annotations"]
    regions = [each for each in annotation["result"] if each["id"] != str(edit["removed"])]
    for region in regions:
        if region["id"] == str(edit["changed"]):
            region["value"]["rle"] = mask2rle(np.array(edit["mask"], np.uint8) * 255)
    if task["data"]["image"].endswith(edit["image"]):
        width, height = (regions[0][key] for key in ("original_width", "original_height"))
        points = np.array(edit["polygon"]).reshape(-1, 2) * 100 / (width, height)
        value = {"points": points.tolist(), "polygonlabels": ["object"]}
        drawn = {"id": "drawn", "type": "polygonlabels", "from_name": "polygon", "value": value}
        regions.append({**regions[0], **drawn})
    annotation |= {"id": number, "completed_by": 1, "result": regions}
project = tasks_file.with_name("project.json")
project.write_text(json.dumps(tasks))
Converter(CONFIG, str(out)).convert(str(project), str(out), "BRUSH_TO_COCO", is_dir=False)
