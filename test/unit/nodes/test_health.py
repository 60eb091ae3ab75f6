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


def test_health_tells_states_in_which_a_node_does_not_work() -> None:
    health = Health()
    for state, level in (
        ("active", DiagnosticStatus.OK),
        ("inactive", DiagnosticStatus.WARN),
        ("unconfigured", DiagnosticStatus.WARN),
        ("finalized", DiagnosticStatus.ERROR),
    ):
        assert health.status("node", state, {}).level == level
    health.fail("no weights")
    status = health.status("node", "unconfigured", {})
    assert (status.level, status.message) == (DiagnosticStatus.ERROR, "no weights; not configured")


def test_health_forgets_what_happened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    health = Health()
    health.warn("refused", "model", seconds=60.0)
    now = 159.0
    assert health.status("node", "active", {}).message == "refused"
    now = 161.0
    assert health.status("node", "active", {}).message == "active"
