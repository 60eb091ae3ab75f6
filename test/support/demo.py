"""Small parts of the bundled demo data, for tests of what a user does with a recording."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

from gbopt_ros.io.datasets.coco import load_coco, load_coco_dir, write_coco
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.io.sources import open_source
from gbopt_ros.structures import Frame

DEMO = Path(__file__).resolve().parents[2] / "demo"


def demo_frames(count: int, start: int = 0) -> list[Frame]:
    """Frames of the demo recording, numbered from 0."""
    frames = islice(open_source(DEMO / "recording"), start, start + count)
    return [replace(frame, index=i) for i, frame in enumerate(frames)]


def write_labelled_recording(folder: Path, count: int, start: int = 0) -> Path:
    """Frames of the demo recording with their labels, laid out as `gbopt world` does."""
    write_rosbag(demo_frames(count, start), folder / "recording", topic="/camera/image_raw")
    labels = load_coco(DEMO / "recording.json")
    images = [
        replace(image, extra=image.extra | {"frame_index": image.extra["frame_index"] - start})
        for image in labels.images[start : start + count]
    ]
    rles = {image.id: labels.rles_by_image[image.id] for image in images}
    write_coco(folder / "annotations.json", images, rles)
    return folder


def copy_few_images(split: str, folder: Path, count: int) -> Path:
    """The first images of a labelled split of the demo, as a COCO folder of their own."""
    dataset = load_coco_dir(DEMO / split)
    images = dataset.images[:count]
    (folder / "images").mkdir(parents=True)
    for image in images:
        shutil.copy(DEMO / split / "images" / image.file_name, folder / "images")
    write_coco(
        folder / "annotations.json", images, {i.id: dataset.rles_by_image[i.id] for i in images}
    )
    return folder
