"""A stranger on the network for minutes; every node in a process of its own, bundled networks."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from sensor_msgs.msg import Image
from support.hostile import Stranger
from support.live import RECORDING

from benchmarks.graph_processes import SEPARATE, TOPIC, Observer, graph_processes
from gbopt_ros.io.sources import open_source
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.nodes.messages import Stamped, encode_image, make_header
from gbopt_ros.nodes.player import looped

pytestmark = pytest.mark.timeout(1200)

SECONDS, TOPICS = 120.0, 11


def test_processes_survive_a_stranger(tmp_path: Path, ros_domain_id: int) -> None:
    """None ends, nothing is learnt or served, and frames of the camera have masks afterwards."""
    frames = looped(list(itertools.islice(open_source(RECORDING), 8)), 0)
    first = list(itertools.islice(frames, 8))
    parameters = {
        "device": "cpu", "store": tmp_path, "consumers": "none", "train_every_clips": 0,
        "idle_timeout_s": 600.0, "stall_timeout_s": 10.0, "clip__length": 4,
    }  # fmt: skip
    with (
        graph_processes((*SEPARATE, "learner"), **parameters) as processes,
        Observer() as observer,
    ):
        camera = observer.node.create_publisher(Image, TOPIC, 10)
        stranger = Stranger(observer.node, [frame.stamp_ns for frame in first])
        observer.spin_until(lambda: len(stranger.topics()) == TOPICS, 120)
        assert len(stranger.topics()) == TOPICS
        for _ in range(int(SECONDS)):
            stranger.send_for(1.0)
            observer.spin_for(0.05)
            assert [process.poll() for process in processes] == [None] * len(processes)
        sent: set[int] = set()
        deadline = time.monotonic() + 300
        while len(observer.masks.keys() & sent) < 8 and time.monotonic() < deadline:
            frame = next(frames)
            sent.add(frame.stamp_ns)
            header = make_header(frame.stamp_ns, frame.frame_id)
            camera.publish(encode_image(Stamped(header, frame.image)))
            observer.spin_for(1.0)
        assert len(observer.masks.keys() & sent) >= 8
        assert [process.poll() for process in processes] == [None] * len(processes)
    assert ModelStore(tmp_path).current() is None
