"""What the node of the objects in space keeps of tf."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from rclpy.clock import ROSClock
from rclpy.time import Time

from gbopt_ros.nodes import transforms


def test_transforms_are_forgotten_when_the_clock_jumps_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a recording that starts again makes it."""
    cleared: list[float] = []
    clock: Any = ROSClock()
    clock._set_ros_time_is_active(True)  # as `use_sim_time` does
    buffer = SimpleNamespace(clear=lambda: cleared.append(clock.now().nanoseconds / 1e9))
    tf2 = SimpleNamespace(Buffer=lambda cache_time: buffer)
    monkeypatch.setattr(transforms, "library", lambda name: tf2)
    monkeypatch.setattr(transforms, "SideNode", lambda *side: SimpleNamespace(close=list))
    made = transforms.Transforms(SimpleNamespace(get_clock=lambda: clock), "base_link")
    for seconds in (100, 101, 160, 5, 6):
        clock.set_ros_time_override(Time(seconds=seconds, clock_type=clock.clock_type))
    assert cleared == [5.0]
    made.close()
    clock.set_ros_time_override(Time(seconds=1, clock_type=clock.clock_type))
    assert cleared == [5.0]
