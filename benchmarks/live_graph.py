"""The live graph against the offline pipeline on the same recording, and what messages cost.

    python benchmarks/graph.py             # the demo recording
    python benchmarks/graph.py my_bag

In one run: the frames through `Pipeline.run`; through the composed graph and through a process for
each node, both in lockstep (a frame at a time) and free (as fast as the graph takes them: frames a
second that came out, latency from a clip's last frame to its masks, drops). In lockstep the masks
must be those of the pipeline, run length for run length: exit status 1 if they are not. Then what
one image costs between two nodes: by reference, and through the middleware. Everything on one
machine, so compare the rows with each other and not with another day's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import torch
from rclpy.executors import SingleThreadedExecutor

from gbopt_ros.config import load_config
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources import open_source
from gbopt_ros.msg import ClipFrames, ClipStatus, SelectedMasks
from gbopt_ros.nodes.base import LINK_QOS, RESULT_QOS
from gbopt_ros.nodes.intra_process import IntraProcessBus
from gbopt_ros.nodes.messages import IMAGE, MAP, Codec, Stamped, make_header, stamp_ns
from gbopt_ros.nodes.player import looped, player
from gbopt_ros.nodes.wiring import CAMERA
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import Frame

TOPIC = "camera/image_raw"
SEPARATE = ("selector", "flow", "background", "proposal", "clip_buffer")


Masks = dict[int, list[str]]  # run lengths by stamp


def offline(profile: Path, frames: list[Frame]) -> tuple[dict[str, Any], Masks]:
    """The stages one after the other, without ROS."""
    pipeline = Pipeline(load_config(profile))
    pipeline.perceive(next(iter(pipeline.clips(frames[:2]))))  # what is slow only once
    pipeline.seconds.clear()
    start = time.perf_counter()
    masks: Masks = {}
    for selection in pipeline.run(frames):
        for frame in selection.frames:
            masks.setdefault(frame.frame.stamp_ns, [rle["counts"] for rle in frame.rles])
    seconds = time.perf_counter() - start
    shares = {stage: round(s / seconds, 3) for stage, s in pipeline.seconds.items()}
    return {"frames/s": round(len(frames) / seconds, 2), "share of each stage": shares}, masks


@contextmanager
def graph(modules: tuple[str, ...], profile: Path) -> Iterator[None]:
    """The nodes of these modules as processes, until the block ends."""
    arguments = ["--ros-args", "-p", f"profile:={profile}"]
    arguments += ["-r", f"{CAMERA[0]}:{CAMERA[1]}:={TOPIC}"]
    processes = [
        subprocess.Popen([sys.executable, "-m", f"gbopt_ros.nodes.{module}", *arguments])
        for module in modules
    ]
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait()


class Observer:
    """Records clips and their statuses."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context)
        self.node = rclpy.create_node("observer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.clips: list[Any] = []
        self.statuses: list[Any] = []
        self.masks: Masks = {}
        self.versions: list[str] = []
        self.node.create_subscription(
            ClipFrames, "clip_buffer/output/clips", self.clips.append, RESULT_QOS
        )
        self.node.create_subscription(
            ClipStatus, "selector/output/status", self.statuses.append, RESULT_QOS
        )

        self.node.create_subscription(
            SelectedMasks, "selector/output/masks", self._on_masks, RESULT_QOS
        )

    def _on_masks(self, message: Any) -> None:
        runs = [mask.mask.counts for mask in message.masks]
        self.masks[stamp_ns(message.header.stamp)] = runs
        self.versions.append(message.model_version)

    def spin_until(self, condition: Callable[[], bool], patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while not condition() and time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


def live(
    modules: tuple[str, ...], profile: Path, frames: list[Frame], expected: Masks
) -> dict[str, Any]:
    """Lockstep, then free, on one start of the graph."""
    with graph(modules, profile):
        observer = Observer()
        with player(TOPIC, lockstep=True, patience_s=120) as playing:
            playing.play(frames[:2])  # loading, and what is slow only once
            start = time.perf_counter()
            playing.play(frames)
            lockstep = len(frames) / (time.perf_counter() - start)
        observer.spin_until(lambda: expected.keys() <= observer.masks.keys(), 10)
        equal = observer.masks == expected
        observer.clips.clear()
        observer.statuses.clear()
        with player(TOPIC) as playing:
            later = list(itertools.islice(looped(frames, 2), len(frames), None))
            start = time.perf_counter()
            playing.play(later, rate=3.0)
            observer.spin_until(lambda: False, 6.0)  # silence ends the last clip after 5 s
        statuses, clips = observer.statuses, observer.clips
        observer.close()
    if not statuses:
        raise SystemExit("no clip came out of the graph")
    taken = sum(len(clip.stamps) for clip in clips)
    seconds = (later[-1].stamp_ns - later[0].stamp_ns) / 1e9 / 3.0
    full = [s for s in statuses if s.latency < 4.0] or statuses  # not the one that silence ended
    return {
        "masks equal those of the pipeline": equal,
        "lockstep frames/s": round(lockstep, 2),
        "free frames/s": round(taken / seconds, 2),
        "free offered frames/s": round(len(later) / seconds, 2),
        "free dropped": clips[-1].dropped - clips[0].dropped,
        "latency median s": round(statistics.median(s.latency for s in full), 3),
        "of it selection s": round(statistics.median(s.selection_time for s in full), 3),
    }


def message_cost(codec: Codec[Any], value: np.ndarray, count: int) -> dict[str, float]:
    """Milliseconds from publish to callback, by reference and through the middleware."""
    payload = Stamped(make_header(1, "camera"), value)
    hub, arrived = IntraProcessBus(), []
    hub.subscribe("x", arrived.append)
    start = time.perf_counter()
    for _ in range(count):
        hub.publish("x", payload)
    by_reference = (time.perf_counter() - start) / count
    observer = Observer()
    publisher = observer.node.create_publisher(codec.message_type, "cost", LINK_QOS)
    received: list[Any] = []
    observer.node.create_subscription(
        codec.message_type, "cost", lambda m: received.append(codec.decode(m)), LINK_QOS
    )
    observer.spin_until(lambda: publisher.get_subscription_count() > 0, 10)
    times = []
    for _ in range(count):
        received.clear()
        start = time.perf_counter()
        publisher.publish(codec.encode(payload))
        observer.spin_until(lambda: bool(received), 10)
        times.append(time.perf_counter() - start)
    observer.close()
    return {
        "by reference ms": round(1e3 * by_reference, 4),
        "message ms": round(1e3 * statistics.median(times), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, nargs="?", help="default: the demo recording")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--config", type=Path, help="YAML profile (default: none)")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--quick", action="store_true", help="a few frames")
    args = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    profile = args.config
    source = open_source(args.source or find_resource("demo/recording"))
    frames = list(itertools.islice(source, 24 if args.quick else args.frames))
    # As many threads in each process as the composed graph uses: the rows must be alike.
    threads = max(1, torch.get_num_threads() // 2)
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    vga = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    flow = np.zeros((480, 640, 2), np.float32)
    first, masks = offline(profile, frames)
    rows = {
        "offline": first,
        "composed": live(("graph",), profile, frames, masks),
        "separate": live(SEPARATE, profile, frames, masks),
        "image 640x480 rgb8": message_cost(IMAGE, vga, 100),
        "flow 640x480 32FC2": message_cost(MAP, flow, 100),
    }
    for name, row in rows.items():
        print(f"{name}: {json.dumps(row)}")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    key = "masks equal those of the pipeline"
    return 0 if all(rows[name][key] for name in ("composed", "separate")) else 1


if __name__ == "__main__":
    sys.exit(main())
