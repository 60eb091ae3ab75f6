"""Where the camera was when it took an image, by tf2, if tf2_ros is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.time import Time

from gbopt_ros.nodes.ros_libraries import library
from gbopt_ros.nodes.spin import SideNode
from gbopt_ros.structures import GboptError

_BACK = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1))
_CACHE_S = 60.0  # masks come a clip later; the transforms of their frames must still be there


class Transforms:
    """Transforms to one frame of the robot.

    Args:
        node: a node beside it subscribes to /tf and /tf_static. When the clock of this one jumps
            back, what /tf said before is forgotten.
        target_frame: name of that frame; "" for the frame of each image itself.
    """

    def __init__(self, node: Any, target_frame: str) -> None:
        self._target_frame = target_frame
        self._side: SideNode | None = None
        self._tf2 = tf2 = library("tf2_ros") if target_frame else None
        if tf2 is not None:
            self._buffer = tf2.Buffer(cache_time=Duration(seconds=_CACHE_S))
            self._side = SideNode(
                node, "tf", lambda side: tf2.TransformListener(self._buffer, side)
            )
            # After a recording starts again, tf2 would refuse all transforms as too old.
            self._jumps = node.get_clock().create_jump_callback(
                _BACK, post_callback=lambda jump: self._buffer.clear()
            )

    def close(self) -> None:
        """Unsubscribe."""
        if self._side is not None:
            self._side.close()
            self._jumps.unregister()
            self._side = None

    def frame(self, header: Any) -> str:
        """The frame that `lookup` leads to."""
        return self._target_frame or str(header.frame_id)

    def lookup(self, header: Any) -> NDArray[np.float64]:
        """(4, 4) rigid transform from the frame of a header at its stamp, metres.

        Raises:
            GboptError: it is not known, or tf2_ros is not installed.
        """
        if self._target_frame in ("", header.frame_id):
            return np.eye(4)
        if self._tf2 is None:
            raise GboptError(
                f"target_frame {self._target_frame!r} needs tf2_ros: "
                "sudo apt install ros-$ROS_DISTRO-tf2-ros-py"
            )
        try:
            found = self._buffer.lookup_transform(
                self._target_frame, header.frame_id, Time.from_msg(header.stamp)
            )
        except self._tf2.TransformException as error:
            raise GboptError(
                f"no transform from {header.frame_id!r} to {self._target_frame!r}: {error}"
            ) from error
        return rigid(found.transform)


def rigid(transform: Any) -> NDArray[np.float64]:
    """(4, 4) of a `geometry_msgs/Transform`.

    Raises:
        GboptError: it is not finite, or its quaternion is not of length 1.
    """
    q, t = transform.rotation, transform.translation
    quaternion = np.array([q.x, q.y, q.z, q.w])
    norm = float(np.linalg.norm(quaternion))
    if not (np.isfinite([t.x, t.y, t.z]).all() and abs(norm - 1) < 0.01):
        raise GboptError(
            f"transform: expected finite numbers and a quaternion of length 1, got {norm:.3g}"
        )
    x, y, z, w = quaternion / norm
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = t.x, t.y, t.z
    return matrix
