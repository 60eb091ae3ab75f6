"""A long run of the composed graph on the looped demo recording: nothing grows, nothing is lost.

GBOPT_SOAK_MINUTES=60 .venv/bin/python -m pytest test/system/test_soak.py -s
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from diagnostic_msgs.msg import DiagnosticArray
from support.live import RECORDING

from benchmarks.graph_processes import (
    COMPOSED,
    TOPIC,
    Observer,
    graph_processes,
    resident_bytes,
)
from gbopt_ros.io.sources import open_source
from gbopt_ros.nodes.base import LINK_CAPACITY
from gbopt_ros.nodes.player import looped, player
from gbopt_ros.nodes.settings import ClipBufferSettings
from gbopt_ros.structures import Frame

MINUTES = float(os.environ.get("GBOPT_SOAK_MINUTES", "3"))
PERIOD_S = 2.0  # between two samples of the memory
LIMIT_MB_A_MINUTE = 1.0  # of a long run
# In all of a short one: the heap takes about four minutes to fill; an image kept of every frame
# would be more.
LIMIT_MB = 30.0

pytestmark = pytest.mark.timeout(60 * MINUTES + 300)


class SoakObserver(Observer):
    """Samples the memory of a process, and keeps the last diagnostics of every node."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid, self._start = pid, time.monotonic()
        self.samples: list[tuple[float, float]] = []  # minutes, MB
        self.longest: dict[str, int] = {}  # queue: its greatest length
        self.values: dict[str, dict[str, str]] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.node.create_timer(PERIOD_S, self._sample)

    def _sample(self) -> None:
        minutes = (time.monotonic() - self._start) / 60
        self.samples.append((minutes, resident_bytes(self._pid) / 1e6))

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            self.values[status.name] = {pair.key: pair.value for pair in status.values}
            for key, value in self.values[status.name].items():
                if key.endswith(" queue"):
                    name = f"{status.name} {key}"
                    self.longest[name] = max(self.longest.get(name, 0), int(value))

    def slope(self, warm_up: float) -> float:
        """MB per minute by least squares, after `warm_up` minutes."""
        minutes, megabytes = np.array([s for s in self.samples if s[0] >= warm_up]).T
        return float(np.polyfit(minutes, megabytes, 1)[0])


def test_composed_graph_does_not_grow_or_lose_frames(ros_domain_id: int) -> None:
    deadline = time.monotonic() + 60 * MINUTES
    warm_up = max(MINUTES / 4, min(1.0, MINUTES / 2))

    def until_deadline() -> Iterator[Frame]:
        for frame in looped(open_source(RECORDING), 0):
            if time.monotonic() > deadline:
                return
            yield frame

    with graph_processes(COMPOSED) as (process,), SoakObserver(process.pid) as soak:
        over = threading.Event()
        spinning = threading.Thread(target=lambda: soak.spin_until(over.is_set, float("inf")))
        spinning.start()
        try:
            with player(TOPIC) as playing:
                playing.play(until_deadline())
            time.sleep(8.0)  # silence ends the last clip after 5 s
        finally:
            over.set()
            spinning.join()
    buffer = soak.values["clip_buffer"]
    dropped, received = int(buffer.get("dropped", 0)), int(buffer["received"])
    in_clips = sum(len(clip.stamps) for clip in soak.clips)
    slope = soak.slope(warm_up)
    found = {
        "minutes": MINUTES,
        "memory slope MB/min": round(slope, 3),
        "memory MB": [round(megabytes) for _, megabytes in (soak.samples[0], soak.samples[-1])],
        "longest queues": soak.longest,
        "frames received, in clips, dropped": [received, in_clips, dropped],
        "clips lost": int(soak.values["selector"].get("clips lost", 0)),
        "median latency s": float(np.median([s.latency for s in soak.statuses])),
    }
    print(json.dumps(found, indent=2))
    assert slope < max(LIMIT_MB_A_MINUTE, LIMIT_MB / (MINUTES - warm_up)), found
    assert soak.longest.pop("clip_buffer camera queue") <= ClipBufferSettings().queue, found
    assert max(soak.longest.values()) <= LINK_CAPACITY, found
    assert in_clips + dropped == received, found
