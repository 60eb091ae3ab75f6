"""A long run of the composed graph on the looped demo recording: does anything grow?

    python benchmarks/soak.py                  # 20 minutes
    python benchmarks/soak.py --minutes 60

Samples the memory of the graph's process and its diagnostics. Exit status 1 if memory grows by
1 MB a minute or more after the warm-up, a queue is ever longer than its bound, or a frame is
neither in a clip nor counted as dropped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from graph import TOPIC, Observer, graph

from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources import open_source
from gbopt_ros.nodes.base import LINK_CAPACITY
from gbopt_ros.nodes.player import looped, player

PERIOD_S = 2.0
LIMIT_MB_A_MINUTE = 1.0


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def graph_process() -> int:
    """The process that this one started for the composed graph."""
    command = ["pgrep", "-P", str(os.getpid()), "-f", "gbopt_ros.nodes.composed"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(found.stdout.split()[0])


class Soak(Observer):
    """Samples of memory, and the last diagnostics of every node."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid, self._start = pid, time.monotonic()
        self.samples: list[tuple[float, float]] = []  # minutes, MB
        self.longest: dict[str, int] = {}  # queue
        self.values: dict[str, dict[str, str]] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.node.create_timer(PERIOD_S, self._sample)

    def _sample(self) -> None:
        minutes = (time.monotonic() - self._start) / 60
        self.samples.append((minutes, resident_mb(self._pid)))

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            self.values[status.name] = values
            for key, value in values.items():
                if key.endswith(" queue"):
                    name = f"{status.name} {key}"
                    self.longest[name] = max(self.longest.get(name, 0), int(value))

    def slope(self, warm_up: float) -> float:
        """MB a minute by least squares, after `warm_up` minutes."""
        minutes, megabytes = np.array([s for s in self.samples if s[0] >= warm_up]).T
        return float(np.polyfit(minutes, megabytes, 1)[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--warm-up", type=float, help="minutes; default: a quarter of the run")
    parser.add_argument("--out", type=Path, help="JSON file with all samples")
    parser.add_argument("--quick", action="store_true", help="a minute, judged by nothing")
    args = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    total = 1.0 if args.quick else args.minutes
    warm_up = args.warm_up if args.warm_up is not None else total / 4
    deadline = time.monotonic() + 60 * total
    source = open_source(find_resource("demo/recording"))
    with graph(("graph",), find_resource("config/demo.yaml")):
        soak = Soak(graph_process())
        over = threading.Event()
        spinning = threading.Thread(target=lambda: soak.spin_until(over.is_set, float("inf")))
        spinning.start()
        sent = 0
        with player(TOPIC) as playing:

            def until_deadline() -> Any:
                for frame in looped(source, 0):
                    if time.monotonic() > deadline:
                        return
                    yield frame

            sent = playing.play(until_deadline())
        time.sleep(8.0)  # silence ends the last clip after 5 s
        over.set()
        spinning.join()
        soak.close()
    buffer = soak.values["clip_buffer"]
    dropped, received = int(buffer.get("dropped", 0)), int(buffer["received"])
    in_clips = sum(len(clip.stamps) for clip in soak.clips)
    slope = soak.slope(warm_up)
    result = {
        "minutes": total,
        "memory slope MB/min": round(slope, 3),
        "memory MB": [round(m) for _, m in (soak.samples[0], soak.samples[-1])],
        "longest queues": soak.longest,
        "frames sent": sent,
        "frames received": received,
        "frames in clips": in_clips,
        "frames dropped": dropped,
        "clips lost": int(soak.values["selector"].get("clips lost", 0)),
        "median latency s": float(np.median([s.latency for s in soak.statuses])),
    }
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(
            json.dumps(result | {"samples": soak.samples}, indent=2), encoding="utf-8"
        )
    failures = []
    if slope >= LIMIT_MB_A_MINUTE:
        failures.append(f"memory grows by {slope:.2f} MB a minute")
    if max(soak.longest.values(), default=0) > LINK_CAPACITY:
        failures.append(f"a queue grew to {max(soak.longest.values())}")
    if in_clips + dropped != received:
        failures.append(f"{received - in_clips - dropped} frames are neither in a clip nor dropped")
    if args.quick:
        return 0
    print("; ".join(failures) or "nothing grows, every frame is accounted for")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
