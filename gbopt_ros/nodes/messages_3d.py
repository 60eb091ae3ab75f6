"""Objects in space as ROS messages, and the camera that ROS describes."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField

from gbopt_ros.nodes.detections import CLASS_ID
from gbopt_ros.nodes.ros_libraries import library
from gbopt_ros.perception.objects_3d import Box, Intrinsics, ObjectPoints

if AVAILABLE := library("vision_msgs.msg") is not None:
    from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose

# As PCL's PointXYZRGBL without padding. The bits of a colour, 0x00RRGGBB, are told as a float32.
_POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("label", "<u4")])
_FIELDS = [
    PointField(
        name=name,
        offset=4 * place,
        datatype=PointField.UINT32 if name == "label" else PointField.FLOAT32,
        count=1,
    )
    for place, name in enumerate(("x", "y", "z", "rgb", "label"))
]


def labels(masks: Sequence[Any]) -> list[int]:
    """The labels of the masks of a frame: their tracks, or where one is not known their places.

    Both are counted from 1.
    """
    tracks = [int(mask.track_id) for mask in masks]
    return tracks if all(tracks) else [*range(1, len(masks) + 1)]


def intrinsics(info: Any, *, is_rectified: bool) -> Intrinsics:
    """The camera of a `CameraInfo`, with its binning and region of interest.

    Args:
        is_rectified: whether its images are rectified: `P` describes them, else `K` and `D`.

    Raises:
        GboptError: the numbers describe no camera.
    """
    numbers = info.p[[0, 2, 5, 6]] if is_rectified else info.k[[0, 2, 4, 5]]
    fx, cx, fy, cy = numbers.tolist()
    across, down, roi = info.binning_x or 1, info.binning_y or 1, info.roi
    return Intrinsics(
        size=((roi.height or info.height) // down, (roi.width or info.width) // across),
        focal=(fx / across, fy / down),
        centre=((cx - roi.x_offset) / across, (cy - roi.y_offset) / down),
        distortion=() if is_rectified else tuple(info.d),
        model="" if is_rectified else info.distortion_model,
    )


def point_cloud(header: Any, objects: Sequence[ObjectPoints], values: Sequence[int]) -> Any:
    """`sensor_msgs/PointCloud2` of all points, one row, with x, y, z, rgb and label.

    Args:
        values: the label of every object.
    """
    points = np.zeros(sum(len(each.points) for each in objects), _POINT)
    start = 0
    for each, value in zip(objects, values, strict=True):
        part = points[start : start + len(each.points)]
        part["x"], part["y"], part["z"] = each.points.T
        part["rgb"] = each.colours.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        part["label"] = value
        start += len(each.points)
    return PointCloud2(
        header=header,
        height=1,
        width=len(points),
        fields=_FIELDS,
        is_bigendian=False,
        point_step=_POINT.itemsize,
        row_step=points.nbytes,
        data=array("B", points.tobytes()),
        is_dense=True,
    )


def detection_array(header: Any, boxes: Sequence[Box], masks: Sequence[Any]) -> Any:
    """`vision_msgs/Detection3DArray`; the score of a box is the confidence of its mask.

    The `id` of a detection is the track of its mask, empty without one.
    """
    detections = []
    for box, mask in zip(boxes, masks, strict=True):
        detection = Detection3D(header=header, id=str(mask.track_id or ""))
        pose, size = detection.bbox.center, detection.bbox.size
        pose.position.x, pose.position.y, pose.position.z = box.centre
        pose.orientation.z, pose.orientation.w = math.sin(box.yaw / 2), math.cos(box.yaw / 2)
        size.x, size.y, size.z = box.size
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = CLASS_ID
        hypothesis.hypothesis.score = float(mask.confidence)
        hypothesis.pose.pose = pose
        detection.results = [hypothesis]
        detections.append(detection)
    return Detection3DArray(header=header, detections=detections)
