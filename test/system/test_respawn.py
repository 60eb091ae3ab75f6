"""Nodes killed with -9 while frames arrive, and started again by the launch system, if installed.

.venv/bin/python -m pytest test/system/test_respawn.py -s
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")
pytest.importorskip("launch_ros", reason="the launch system comes with an installed ROS")

from lifecycle_msgs.srv import GetState
from support.launched import launched
from support.live import RECORDING

from benchmarks.graph_processes import SEPARATE, TOPIC, Observer
from gbopt_ros.io.sources import open_source
from gbopt_ros.nodes.player import looped

pytestmark = pytest.mark.timeout(900)

KILLED = ("clip_buffer", "background", "flow", "proposal", "selector")
PARAMETERS = (
    "device: cpu, clip.length: 4, clip.overlap: 1, idle_timeout_s: 600.0, stall_timeout_s: 3.0"
)
PERIOD_S = 0.4  # between two frames: what two busy cores process
PATIENCE_S = 120.0


def test_killed_node_is_started_again_and_masks_come_again(
    tmp_path: Path, ros_domain_id: int
) -> None:
    """It becomes active, masks of frames that came afterwards come, and no other process ended."""
    frames = looped(list(itertools.islice(open_source(RECORDING), 24)), 0)
    options = {"camera": TOPIC, "composed": "false", "learner": "false", "respawn": "true"}
    rows = [("killed", "active again (s)", "masks again (s)")]
    with launched(tmp_path / "launch", PARAMETERS, **options) as launch, Observer() as observer:

        def seconds_until_masks() -> float:
            """Of frames that are sent from now on, one after the other."""
            sent: set[int] = set()
            start = time.monotonic()
            while not observer.masks.keys() & sent:
                assert not launch.has_ended(), launch.log()
                assert time.monotonic() - start < PATIENCE_S, launch.log()[-4000:]
                frame = next(frames)
                sent.add(frame.stamp_ns)
                observer.send(frame)
                observer.spin_for(PERIOD_S)
            return time.monotonic() - start

        seconds_until_masks()
        for name in KILLED:
            before = launch.pids()
            assert before.keys() == {*SEPARATE}
            killed_at = time.time()
            os.kill(before[name], signal.SIGKILL)
            seconds = seconds_until_masks()
            after = launch.pids()
            assert after.pop(name) != before.pop(name)
            assert after == before and not launch.has_ended()
            state = observer.call(GetState, f"{name}/get_state").current_state.label
            assert state == "active"
            active_at = float(re.findall(rf"\[([\d.]+)\] \[{name}\]: active: ", launch.log())[-1])
            rows.append((name, f"{active_at - killed_at:.1f}", f"{seconds:.1f}"))
        died = launch.log().count("process has died")
    print(*("  ".join(f"{cell:16}" for cell in row) for row in rows), sep="\n")
    assert died == len(KILLED)
    assert launch.process.returncode == 0
