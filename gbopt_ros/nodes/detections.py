"""The selected masks as `vision_msgs/Detection2DArray`, if vision_msgs is installed."""

from __future__ import annotations

from typing import Any

from gbopt_ros.nodes.ros_libraries import library

if AVAILABLE := library("vision_msgs.msg") is not None:
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

CLASS_ID = "object"  # the network is class-agnostic


def detection_array(masks: Any) -> Any:
    """`Detection2DArray` of a `SelectedMasks` message; the score of a box is its confidence."""
    return Detection2DArray(
        header=masks.header,
        detections=[_detection(masks.header, mask) for mask in masks.masks],
    )


def _detection(header: Any, mask: Any) -> Any:
    """One box. Its `id` stays empty: it would have to be the same object in every frame."""
    x_min, y_min, x_max, y_max = (float(value) for value in mask.box)
    detection = Detection2D(header=header)
    detection.bbox.center.position.x = (x_min + x_max) / 2
    detection.bbox.center.position.y = (y_min + y_max) / 2
    detection.bbox.size_x, detection.bbox.size_y = x_max - x_min, y_max - y_min
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id = CLASS_ID
    hypothesis.hypothesis.score = float(mask.confidence)
    detection.results = [hypothesis]
    return detection
