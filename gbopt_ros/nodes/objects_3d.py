"""Where the selected objects are in space, by a depth image that is aligned to the colour image."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, PointCloud2
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from gbopt_ros import masks as mask_ops
from gbopt_ros.io.sources.images import IMAGE_TYPE, depth_from_message
from gbopt_ros.msg import SelectedMasks
from gbopt_ros.nodes import messages_3d
from gbopt_ros.nodes.base import LATCHED_QOS, LINK_QOS, RESULT_QOS, PipelineNode
from gbopt_ros.nodes.camera import silence, topic_in_words
from gbopt_ros.nodes.intra_process import IntraProcessBus
from gbopt_ros.nodes.messages import IMAGE, decode_rle, stamp_ns
from gbopt_ros.nodes.rgbd import RgbdBuffer, RgbdMessages
from gbopt_ros.nodes.settings import Objects3dSettings
from gbopt_ros.nodes.spin import spin
from gbopt_ros.nodes.transforms import Transforms
from gbopt_ros.perception.objects_3d import Intrinsics, ObjectPoints, locate
from gbopt_ros.structures import GboptError

_CAMERA_QOS = qos_profile_sensor_data
_LOOK_PERIOD_S = 1.0
_INFO_TYPE = "sensor_msgs/msg/CameraInfo"


class _NotLocated(Exception):
    """A frame has no place in space; the operator was told."""


class Objects3dNode(PipelineNode):
    """Publishes a box and labelled points for every mask, once its frame has masks.

    If depth, camera info or transform is missing, this is one WARN until it is there again. The
    other nodes do not depend on this one.
    """

    NAME = "objects_3d"
    SETTINGS = Objects3dSettings
    _transforms: Transforms | None = None

    def __init__(self, bus: IntraProcessBus | None = None, **options: Any) -> None:
        super().__init__(bus, **options)
        self._capacity = self.settings.buffered_frames(self.config.clip.length)
        self._frames = RgbdBuffer(self._capacity, round(self.settings.max_stamp_gap_s * 1e9))

    def configure(self) -> None:
        self._transforms = Transforms(self, self.settings.target_frame)
        self._points = self.publisher(PointCloud2, "~/output/points", RESULT_QOS)
        self._detections: Any = None
        if messages_3d.AVAILABLE:
            self._detections = self.publisher(
                messages_3d.Detection3DArray, "~/output/detections", RESULT_QOS
            )
        self.input("~/input/image", IMAGE, LINK_QOS, self._frames.add_image)
        self.subscription(SelectedMasks, "~/input/masks", RESULT_QOS, self._on_masks)
        self._depth_qos = self.subscription(
            ImageMessage, "~/input/depth", _CAMERA_QOS, self._frames.add_depth,
            on_lost=partial(self.health.count, "depth images lost before arrival"),
        )  # fmt: skip
        self._info: Any = None  # the newest: a camera stays the same, whatever the stamps say
        self.subscription(CameraInfo, self._info_topic, _CAMERA_QOS, self._on_info)
        self._look = self.timer(_LOOK_PERIOD_S, self._look_for_latched_info)

    def activate(self) -> None:
        self._camera: Intrinsics | None = None
        self._told: dict[str, str] = {}  # what is missing, and the words for it in the log
        self._frames.clear()
        self._jobs = self.worker("objects", self._handle, capacity=self._capacity)

    def cleanup(self) -> None:
        self._frames.clear()
        if self._transforms is not None:
            self._transforms.close()
            self._transforms = None

    def facts(self) -> dict[str, object]:
        return {"frames held": len(self._frames)}

    def introduction(self) -> list[str]:
        detections = "" if messages_3d.AVAILABLE else " (no detections without vision_msgs)"
        return [
            f"depth {self._depth_in_words()}",
            f"camera info {self.resolve_topic_name(self._info_topic)}",
            f"points on {self._points.topic_name}{detections}",
            f"frame {self.settings.target_frame or 'of the depth image'}",
        ]

    @property
    def _depth_topic(self) -> str:
        return str(self.resolve_topic_name(self.topic("~/input/depth")))

    @property
    def _info_topic(self) -> str:
        """Where it is not remapped, the topic beside the depth image, as of image_transport."""
        name = "~/input/camera_info"
        if self.resolve_topic_name(name) != self.resolve_topic_name(name, only_expand=True):
            return name
        return f"{self._depth_topic.rpartition('/')[0]}/camera_info"

    def _depth_in_words(self) -> str:
        return topic_in_words(self._depth_topic, IMAGE_TYPE, self._depth_qos)

    def _look_for_latched_info(self) -> None:
        """Subscribe to a camera info that was sent before this node came, if somebody keeps it.

        Only then: a subscription that asks for what was sent before gets nothing of a publisher
        that does not keep it, which warns of it.
        """
        if self._info is None:
            found = self.get_publishers_info_by_topic(self.resolve_topic_name(self._info_topic))
            if all(each.qos_profile.durability != LATCHED_QOS.durability for each in found):
                return
            # It comes once, so also while the node is not active.
            latched = self.create_subscription(
                CameraInfo, self.topic(self._info_topic), self._on_info, LATCHED_QOS
            )
            self._entities.append(lambda: self.destroy_subscription(latched))
        self._look.cancel()

    def _on_info(self, message: Any) -> None:
        self._info = message

    def _on_masks(self, message: Any) -> None:
        self._jobs.put((message, time.monotonic()))

    def _handle(self, item: tuple[Any, float]) -> None:
        masks, arrival = item
        frame = self._frames.take(stamp_ns(masks.header.stamp))
        if frame is None:  # from before this node was active, or more than the capacity ago
            self.health.count("masks without image")
            return
        try:
            self._locate(masks, frame)
        except _NotLocated:
            self.health.count("frames not located")
        else:
            self.health.done(time.monotonic() - arrival)

    def _locate(self, masks: Any, frame: RgbdMessages) -> None:
        assert self._transforms is not None
        with self._needs("depth"):
            depth = self._depth(frame, (masks.height, masks.width))
        with self._needs("camera info"):
            rays = self._rays(depth.shape)
        with self._needs("transform"):
            header = frame.depth.header
            pose = self._transforms.lookup(header)
        if not (self._is_wanted(self._points) or self._is_wanted(self._detections)):
            return
        with self._needs("masks"):
            decoded = _decoded(masks)
        objects = locate(
            decoded, frame.image.value, depth, rays, pose,
            border=self.settings.border,
            on_surface=self.settings.on_surface and bool(self.settings.target_frame),
        )  # fmt: skip
        self.health.count("masks", len(masks.masks))
        self.health.count("masks located", len(objects))
        self._publish(
            Header(stamp=masks.header.stamp, frame_id=self._transforms.frame(header)),
            masks,
            objects,
        )

    def _publish(self, header: Any, masks: Any, objects: Sequence[ObjectPoints]) -> None:
        if self._is_wanted(self._points):
            labels = messages_3d.labels(masks.masks)
            values = [labels[each.index] for each in objects]
            self._points.publish(messages_3d.point_cloud(header, objects, values))
        if self._is_wanted(self._detections):
            chosen = [masks.masks[each.index] for each in objects]
            boxes = [each.box for each in objects]
            self._detections.publish(messages_3d.detection_array(header, boxes, chosen))

    @staticmethod
    def _is_wanted(publisher: Any) -> bool:
        return publisher is not None and publisher.get_subscription_count() > 0

    @contextmanager
    def _needs(self, subject: str) -> Iterator[None]:
        """Turn an expected error into one WARN, until there is another or none.

        Raises:
            _NotLocated: the error was told.
        """
        try:
            yield
        except GboptError as error:
            complaint = f"no objects in space: {error}"
            self.health.warn(complaint, subject)
            kind = re.sub(r"[\d.]+", "", complaint)  # times and sizes may differ
            if self._told.get(subject) != kind:
                self._told[subject] = kind
                self.get_logger().warning(complaint)
            raise _NotLocated from error
        self.health.recover(subject)
        self._told.pop(subject, None)

    def _depth(self, frame: RgbdMessages, size: tuple[int, int]) -> NDArray[np.float32]:
        if frame.depth is None:
            raise GboptError(self._why_no_depth(frame.gap_ns))
        message = frame.depth
        if not (message.height, message.width) == size == frame.image.value.shape[:2]:
            raise GboptError(
                f"the depth image has {message.width}x{message.height} pixels and the masks have "
                f"{size[1]}x{size[0]}: take the depth topic that is aligned to the colour image"
            )
        return depth_from_message(message)

    def _why_no_depth(self, gap_ns: int | None) -> str:
        if gap_ns is None:
            cause = silence(self, self._depth_topic, IMAGE_TYPE)
            return f"no depth image yet on {self._depth_in_words()}: {cause}"
        return (
            f"the nearest depth image is {gap_ns / 1e9:.3f} s from the colour image, more than "
            "max_stamp_gap_s"
        )

    def _rays(self, size: tuple[int, ...]) -> NDArray[np.float32]:
        if self._info is None:
            topic = self.resolve_topic_name(self._info_topic)
            cause = silence(self, topic, _INFO_TYPE)
            raise GboptError(f"no camera info yet on {topic}: {cause}")
        camera = messages_3d.intrinsics(self._info, is_rectified=self.settings.rectified)
        if camera.size != size:
            raise GboptError(
                f"the camera info is of {camera.size[1]}x{camera.size[0]} pixels, the depth image "
                f"has {size[1]}x{size[0]}"
            )
        if camera != self._camera:
            self._camera_rays, self._camera = camera.rays(), camera
        return self._camera_rays


def _decoded(masks: Any) -> NDArray[np.bool_]:
    """(N, H, W) of a `SelectedMasks`. Raises GboptError if a mask does not fit its image."""
    rles, size = [decode_rle(mask.mask) for mask in masks.masks], (masks.height, masks.width)
    try:
        mask_ops.check_rles(rles, size)
    except ValueError as error:
        raise GboptError(f"masks cannot be used: {error}") from error
    return mask_ops.decode_all(rles, size)


def main(arguments: Sequence[str] | None = None) -> int:
    return spin(lambda: [Objects3dNode()], arguments)
