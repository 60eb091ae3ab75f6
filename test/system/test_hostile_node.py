"""A stranger on the network for minutes; every node in a process of its own, bundled networks.

GBOPT_STRANGER_SECONDS=300 .venv/bin/python -m pytest test/system/test_hostile_node.py -s
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from support.hostile import Stranger, forbidden_requests
from support.live import RECORDING

from benchmarks.graph_processes import SEPARATE, Observer, graph_processes
from gbopt_ros.io.sources import open_source
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.nodes.player import looped

SECONDS = int(os.environ.get("GBOPT_STRANGER_SECONDS", "120"))
NODES = (*SEPARATE, "learner")
TOPICS, SERVICES = 11, 70  # inputs of the graph, and services at least
MESSAGES = 1000  # that each input gets at least

pytestmark = pytest.mark.timeout(SECONDS + 1200)


def test_processes_survive_a_stranger(tmp_path: Path, ros_domain_id: int) -> None:
    """None ends, nothing is learnt or served, and frames of the camera have masks afterwards."""
    frames = looped(list(itertools.islice(open_source(RECORDING), 8)), 0)
    first = list(itertools.islice(frames, 8))
    parameters = {
        "device": "cpu", "store": tmp_path, "consumers": "none", "train_every_clips": 0,
        "idle_timeout_s": 600.0, "stall_timeout_s": 10.0, "clip__length": 4,
    }  # fmt: skip
    with (
        graph_processes(NODES, **parameters) as processes,
        Observer() as observer,
    ):
        stranger = Stranger(observer.node, [frame.stamp_ns for frame in first])
        observer.spin_until(lambda: len(stranger.topics()) == TOPICS, 120)
        assert len(stranger.topics()) == TOPICS
        answers: list[Any] = []
        count, end = 0, time.monotonic() + SECONDS
        while time.monotonic() < end or count < MESSAGES * TOPICS:
            count += stranger.send_for(1.0)
            answers += stranger.call_all()
            observer.spin_for(0.5)
            assert [process.poll() for process in processes] == [None] * len(processes)
        for name in NODES:
            forbidden_requests(observer.call, f"/{name}")
        answered = sum(answer.done() for answer in answers)
        services = len(stranger.services())
        print(f"{count} messages to {TOPICS} topics")
        print(f"{len(answers)} requests to {services} services, {answered} answered")
        assert services >= SERVICES and answered > 0.9 * len(answers)
        sent: set[int] = set()
        deadline = time.monotonic() + 300
        while len(observer.masks.keys() & sent) < 8 and time.monotonic() < deadline:
            frame = next(frames)
            sent.add(frame.stamp_ns)
            observer.send(frame)
            observer.spin_for(1.0)
        assert len(observer.masks.keys() & sent) >= 8
        assert [process.poll() for process in processes] == [None] * len(processes)
    assert ModelStore(tmp_path).current() is None
