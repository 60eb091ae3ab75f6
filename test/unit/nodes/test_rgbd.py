"""Depth images that wait for the masks of their frame."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from gbopt_ros.nodes.messages import Stamped, make_header
from gbopt_ros.nodes.rgbd import RgbdBuffer

IMAGE = np.zeros((1, 1, 3), np.uint8)


def image(stamp: int) -> Stamped[Any]:
    return Stamped(make_header(stamp, "camera"), IMAGE)


def depth(stamp: int) -> Any:
    return SimpleNamespace(header=make_header(stamp, "camera"))


def taken(buffer: RgbdBuffer, stamp: int) -> tuple[int | None, int | None]:
    """The stamp of the depth image and the gap."""
    found = buffer.take(stamp)
    assert found is not None and found.image.stamp_ns == stamp
    return (found.depth.header.stamp.nanosec if found.depth else None), found.gap_ns


def test_take_gives_the_nearest_depth_within_the_tolerance() -> None:
    buffer = RgbdBuffer(8, tolerance_ns=10)
    for stamp in (100, 200, 300):
        buffer.add_image(image(stamp))
    assert taken(buffer, 100) == (None, None)  # no depth at all
    for stamp in (195, 208, 311):
        buffer.add_depth(depth(stamp))
    assert taken(buffer, 200) == (195, 5)
    assert taken(buffer, 300) == (None, 11)
    assert buffer.take(300) is None  # its image is gone
    assert buffer.take(5) is None


def test_depth_of_a_frame_is_kept_while_others_come_and_go() -> None:
    """Depth at 30 Hz, of which the networks take a few frames, and masks a clip later."""
    buffer = RgbdBuffer(4, tolerance_ns=1)
    for stamp in range(1, 101):
        buffer.add_depth(depth(stamp))
        if stamp % 30 == 0:
            buffer.add_image(image(stamp))
    assert len(buffer) == 3
    assert [taken(buffer, stamp) for stamp in (30, 60, 90)] == [(30, 0), (60, 0), (90, 0)]
    assert len(buffer) == 0 and not buffer._kept


def test_buffer_is_bounded_and_forgets_frames_before_the_one_taken() -> None:
    buffer = RgbdBuffer(3, tolerance_ns=0)
    for stamp in range(1, 9):
        buffer.add_image(image(stamp))
        buffer.add_depth(depth(stamp))
    assert len(buffer) == len(buffer._recent) == 3
    assert set(buffer._kept) <= set(buffer._images)
    assert buffer.take(5) is None  # the oldest went first
    assert taken(buffer, 7) == (7, 0)
    assert len(buffer) == 1
    buffer.clear()
    assert buffer.take(8) is None and not buffer._recent


def test_stamps_that_jump_back_are_new_frames() -> None:
    buffer = RgbdBuffer(4, tolerance_ns=0)
    for stamp in (50, 60, 10, 20):
        buffer.add_image(image(stamp))
        buffer.add_depth(depth(stamp))
    assert taken(buffer, 60) == (60, 0)
    assert taken(buffer, 10) == (10, 0)
    assert taken(buffer, 20) == (20, 0)
