"""What a node tells about itself."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from diagnostic_msgs.msg import DiagnosticStatus

from gbopt_ros.nodes.health import Health


def test_health_tells_problems_until_their_subject_recovers() -> None:
    health = Health()

    def told() -> tuple[bytes, str]:
        status = health.status("node", "active", {})
        return status.level, status.message

    assert told() == (DiagnosticStatus.OK, "active")
    health.warn("slow", "stall")
    health.fail("refused", "model")
    health.warn("grey")
    assert told() == (DiagnosticStatus.ERROR, "refused; grey; slow")
    health.recover("model")
    assert told() == (DiagnosticStatus.WARN, "grey; slow")
    health.recover()
    health.warn("slower", "stall")
    assert told() == (DiagnosticStatus.WARN, "slower")
    health.warn("grey")
    health.count("dropped")
    health.recover_all()
    assert told() == (DiagnosticStatus.OK, "active")
    assert health.counted("dropped") == 1
    health.begin()
    assert health.counted("dropped") == 0
