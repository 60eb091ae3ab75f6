"""The selected masks for consumers of vision_msgs, if it is installed.

Boxes as `Detection2DArray`, the meaning of the label image as `LabelInfo`, and the network that the
masks come from as `VisionInfo`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.qos import QoSProfile

from gbopt_ros.learning.store.version import number
from gbopt_ros.nodes.base import LATCHED_QOS, RESULT_QOS
from gbopt_ros.nodes.ros_libraries import library

if AVAILABLE := library("vision_msgs.msg") is not None:
    from vision_msgs.msg import (
        Detection2D,
        Detection2DArray,
        LabelInfo,
        ObjectHypothesisWithPose,
        VisionClass,
        VisionInfo,
    )

BACKGROUND, CLASS_ID = "background", "object"  # the network is class-agnostic
_METHOD = "gbopt_ros"
_MAX_INT32 = 2**31 - 1


class VisionOutputs:
    """Publishes boxes, and latched what labels mean and which network serves.

    Without vision_msgs it does nothing.

    Args:
        make: makes a publisher of a message type, a topic and a QoS profile.
        boxes, labels, version: topics of `Detection2DArray`, `LabelInfo` and `VisionInfo`.
    """

    def __init__(
        self, make: Callable[[Any, str, QoSProfile], Any], boxes: str, labels: str, version: str
    ) -> None:
        if not AVAILABLE:
            return
        self._detections = make(Detection2DArray, boxes, RESULT_QOS)
        self._label_info = make(LabelInfo, labels, LATCHED_QOS)
        self._vision_info = make(VisionInfo, version, LATCHED_QOS)
        self._labels = 0  # the largest value that `label_info` explains
        self._version: str | None = None

    def publish(self, masks: Any) -> None:
        """Publish what a `SelectedMasks` has that is new."""
        if not AVAILABLE:
            return
        if len(masks.masks) > self._labels or self._version is None:
            self._labels = len(masks.masks)
            self._label_info.publish(label_info(masks.header, self._labels))
        if masks.model_version != self._version:
            self._version = masks.model_version
            self._vision_info.publish(vision_info(masks.header, self._version))
        if self._detections.get_subscription_count():
            self._detections.publish(detection_array(masks))


def label_info(header: Any, count: int) -> Any:
    """`LabelInfo` of label images with the values 0 to `count`, as `messages.label_image` makes."""
    names = [BACKGROUND] + [CLASS_ID] * count
    classes = [VisionClass(class_id=value, class_name=name) for value, name in enumerate(names)]
    return LabelInfo(header=header, class_map=classes, threshold=0.0)


def vision_info(header: Any, version: str) -> Any:
    """`VisionInfo` of a model version.

    Its `database_version` is the number in the name of a version of the store, such as 3 of v0003,
    and 0 for any other network; `database_location` is the whole name.
    """
    return VisionInfo(
        header=header,
        method=_METHOD,
        database_location=version,
        database_version=min(number(version) or 0, _MAX_INT32),
    )


def detection_array(masks: Any) -> Any:
    """`Detection2DArray` of a `SelectedMasks` message; the score of a box is its confidence."""
    return Detection2DArray(
        header=masks.header,
        detections=[_detection(masks.header, mask) for mask in masks.masks],
    )


def _detection(header: Any, mask: Any) -> Any:
    """One box. Its `id` is the track of the mask, empty where that is not known."""
    x_min, y_min, x_max, y_max = (float(value) for value in mask.box)
    detection = Detection2D(header=header, id=str(mask.track_id) if mask.track_id else "")
    detection.bbox.center.position.x = (x_min + x_max) / 2
    detection.bbox.center.position.y = (y_min + y_max) / 2
    detection.bbox.size_x, detection.bbox.size_y = x_max - x_min, y_max - y_min
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id = CLASS_ID
    hypothesis.hypothesis.score = float(mask.confidence)
    detection.results = [hypothesis]
    return detection
