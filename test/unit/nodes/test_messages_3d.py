"""Cameras and transforms of ROS as numbers."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from geometry_msgs.msg import Quaternion, Transform, Vector3
from sensor_msgs.msg import CameraInfo, RegionOfInterest

from gbopt_ros.nodes.messages_3d import intrinsics
from gbopt_ros.nodes.transforms import rigid
from gbopt_ros.perception.objects_3d import Intrinsics
from gbopt_ros.structures import GboptError


def test_intrinsics_follow_binning_and_region_of_interest() -> None:
    info = CameraInfo(
        height=480, width=640, k=[500.0, 0.0, 320.0, 0.0, 400.0, 240.0, 0.0, 0.0, 1.0],
        d=[0.1, 0.2, 0.0, 0.0], distortion_model="equidistant", binning_x=2, binning_y=4,
        roi=RegionOfInterest(x_offset=20, y_offset=40, width=600, height=400),
        p=[300.0, 0.0, 310.0, 0.0, 0.0, 310.0, 230.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    )  # fmt: skip
    assert intrinsics(info, is_rectified=False) == Intrinsics(
        (100, 300), (250.0, 100.0), (150.0, 50.0), (0.1, 0.2, 0.0, 0.0), "equidistant"
    )
    assert intrinsics(info, is_rectified=True) == Intrinsics(
        (100, 300), (150.0, 77.5), (145.0, 47.5)
    )


def test_rigid_is_the_matrix_of_a_transform() -> None:
    half = float(np.sqrt(0.5))
    transform = Transform(
        translation=Vector3(x=1.0, y=2.0, z=3.0), rotation=Quaternion(z=half, w=half)
    )
    expected = [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    np.testing.assert_allclose(rigid(transform), expected, atol=1e-12)


@pytest.mark.parametrize("w", [0.0, float("nan")])
def test_rigid_refuses_what_is_no_rotation(w: float) -> None:
    with pytest.raises(GboptError, match="a quaternion of length 1"):
        rigid(Transform(rotation=Quaternion(w=w)))
