"""Draws docs/images/overview.jpg: frames of the bundled recording, their proposals, their masks.

python tools/overview_picture.py
"""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np

from gbopt_ros import Pipeline
from gbopt_ros.io.overlay import draw_masks
from gbopt_ros.io.resources import find_resource
from gbopt_ros.structures import Image

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "overview.jpg"
CLIPS = (2, 6, 14, 20)  # a column for the middle frame of each
GAP = 4  # pixels between two pictures


def picture() -> Image:
    """(h, w, 3) uint8 RGB: rows for images, proposals and selected masks."""
    pipeline = Pipeline()
    columns = []
    for clip in pipeline.clips(find_resource("demo/recording")):
        if clip.clip_id in CLIPS:
            cues = pipeline.perceive(clip)
            middle = len(clip) // 2
            image, selected = clip.frames[middle].image, pipeline.select(clip, cues).frames[middle]
            proposed = draw_masks(image, cues.proposals[middle].rles)
            columns.append([image, proposed, draw_masks(image, selected.rles)])
    rows = [_joined(list(row), axis=1) for row in zip(*columns, strict=True)]
    return _joined(rows, axis=0)


def _joined(pictures: list[Image], axis: int) -> Image:
    """Pictures beside each other (axis 1) or below each other, on white."""
    height, width = pictures[0].shape[:2]
    gap = np.full((height, GAP, 3) if axis else (GAP, width, 3), 255, np.uint8)
    parts = list(itertools.chain.from_iterable((each, gap) for each in pictures))[:-1]
    return np.concatenate(parts, axis=axis)


if __name__ == "__main__":
    bgr = cv2.cvtColor(picture(), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(PICTURE), bgr, [cv2.IMWRITE_JPEG_QUALITY, 88])
