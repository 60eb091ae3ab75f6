"""Two robots in one ROS domain under the real launch system, where it is installed.

.venv/bin/python -m pytest test/system/test_two_robots.py -s
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")
pytest.importorskip("launch_ros", reason="the launch system comes with an installed ROS")

from lifecycle_msgs.srv import GetState
from support.launched import launched
from support.live import RECORDING

from benchmarks.graph_processes import TOPIC, Observer
from gbopt_ros.io.sources import open_source
from gbopt_ros.nodes.player import looped

pytestmark = pytest.mark.timeout(600)

PERIOD_S, PATIENCE_S, ENOUGH = 0.5, 180.0, 8


def test_two_robots_share_a_domain_and_only_one_learner_gets_the_store(
    tmp_path: Path, ros_domain_id: int
) -> None:
    """Each gets the masks of its own camera; the refused learner ends, all else goes on."""
    parameters = (
        "device: cpu, clip.length: 4, clip.overlap: 1, idle_timeout_s: 600.0, "
        f"store: {tmp_path / 'store'}"
    )
    recording = list(itertools.islice(open_source(RECORDING), 24))
    with (
        launched(tmp_path / "left", parameters, namespace="left", camera=TOPIC) as left,
        Observer("left") as first,
        Observer("right") as second,
    ):
        first.spin_until(
            lambda: left.has_ended() or "[left.learner]: active" in left.log(), PATIENCE_S
        )
        assert not left.has_ended(), left.log()
        with launched(tmp_path / "right", parameters, namespace="right", camera=TOPIC) as right:
            sent: dict[Observer, set[int]] = {first: set(), second: set()}
            start = time.monotonic()
            for frame in looped(recording, 0):
                for place, (observer, stamps) in enumerate(sent.items()):
                    own = replace(frame, stamp_ns=frame.stamp_ns + place)
                    stamps.add(own.stamp_ns)
                    observer.send(own)
                    observer.spin_for(PERIOD_S)
                if min(len(observer.masks) for observer in sent) >= ENOUGH:
                    break
                assert not right.has_ended(), right.log()
                assert time.monotonic() - start < PATIENCE_S, left.log() + right.log()
            for observer, stamps in sent.items():
                assert observer.masks.keys() <= stamps
            log = right.log()
            assert "[right.learner]: cannot configure: " in log
            assert f"{tmp_path / 'store'}: the learner /left/learner is under way in process" in log
            assert "[learner-2]: process has died" in log and "exit code 1" in log
            assert log.count("process has died") == 1 and "process has died" not in left.log()
            for observer, name in ((first, "learner"), (first, "selector"), (second, "selector")):
                state = observer.call(GetState, f"{name}/get_state").current_state.label
                assert state == "active", (name, state)
        assert right.process.returncode == 0
    assert left.process.returncode == 0
