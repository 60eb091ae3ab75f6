"""Speed of the live graph beside that of the offline pipeline, and what messages cost.

    python -m benchmarks.live_graph             # the demo recording
    python -m benchmarks.live_graph my_bag
    python -m benchmarks.live_graph --against ../before     # another checkout, in the same run

Rows: life of the graph (seconds from its start until all nodes are active, share of a core and
memory while no camera is there, seconds from Ctrl-C to its end); frames through `Pipeline.run`;
through the composed graph and through a process for each node. Both graphs run in lockstep (a frame
at a time), then free (as fast as the graph takes frames): frames per second that came out, latency
from the last frame of a clip to its masks, drops. Last, what one image costs between two nodes: by
reference, and through the middleware. Compare the rows of one run with each other, not with those
of another day. With --against there is only the table of `benchmarks.live_life`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.graph_processes import (
    COMPOSED,
    SEPARATE,
    TOPIC,
    Observer,
    graph_processes,
)
from benchmarks.live_life import compare, life
from gbopt_ros.config import load_config
from gbopt_ros.io.files import write_text
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources import open_source
from gbopt_ros.nodes.base import LINK_QOS
from gbopt_ros.nodes.intra_process import IntraProcessBus
from gbopt_ros.nodes.messages import IMAGE, MAP, Codec, Stamped, make_header
from gbopt_ros.nodes.player import looped, player
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import Frame, GboptError

SPEED = 3.0  # of the free run, relative to the recording


def offline(profile: Path | None, frames: list[Frame]) -> dict[str, Any]:
    """Frames through the pipeline, one step after the other, without ROS."""
    pipeline = Pipeline(load_config(profile))
    pipeline.perceive(next(iter(pipeline.clips(frames[:2]))))  # what is slow only once
    pipeline.seconds.clear()
    start = time.perf_counter()
    for _ in pipeline.run(frames):
        pass
    seconds = time.perf_counter() - start
    shares = {step: round(s / seconds, 3) for step, s in pipeline.seconds.items()}
    return {"frames/s": round(len(frames) / seconds, 2), "share of each step": shares}


def live(modules: tuple[str, ...], profile: Path | None, frames: list[Frame]) -> dict[str, Any]:
    """Lockstep, then free, on one start of the graph."""
    parameters = {"profile": profile} if profile else {}
    with graph_processes(modules, **parameters), Observer() as observer:
        with player(TOPIC, lockstep=True, patience_s=120) as playing:
            playing.play(frames[:2])  # loading, and what is slow only once
            start = time.perf_counter()
            playing.play(frames)
            lockstep = len(frames) / (time.perf_counter() - start)
        observer.spin_for(2.0)
        observer.clips.clear()
        observer.statuses.clear()
        later = list(itertools.islice(looped(frames, 2), len(frames), None))
        with player(TOPIC) as playing:
            playing.play(later, rate=SPEED)
            observer.spin_for(6.0)  # silence ends the last clip after 5 s
    statuses, clips = observer.statuses, observer.clips
    if not statuses:
        raise SystemExit("no clip came out of the graph")
    taken = sum(len(clip.stamps) for clip in clips)
    seconds = (later[-1].stamp_ns - later[0].stamp_ns) / 1e9 / SPEED
    full = [s for s in statuses if s.latency < 4.0] or statuses  # not the one that silence ended
    return {
        "lockstep frames/s": round(lockstep, 2),
        "free frames/s": round(taken / seconds, 2),
        "free offered frames/s": round(len(later) / seconds, 2),
        "free dropped": clips[-1].dropped - clips[0].dropped,
        "latency median s": round(statistics.median(s.latency for s in full), 3),
        "selection median s": round(statistics.median(s.selection_time for s in full), 3),
    }


def message_cost(codec: Codec[Any], value: np.ndarray, count: int) -> dict[str, float]:
    """Milliseconds from publish to callback, by reference and through the middleware."""
    payload = Stamped(make_header(1, "camera"), value)
    bus, arrived = IntraProcessBus(), []
    bus.subscribe("x", arrived.append)
    start = time.perf_counter()
    for _ in range(count):
        bus.publish("x", payload)
    by_reference = (time.perf_counter() - start) / count
    received: list[Any] = []
    times = []
    with Observer() as observer:
        publisher = observer.node.create_publisher(codec.message_type, "cost", LINK_QOS)
        observer.node.create_subscription(
            codec.message_type, "cost", lambda m: received.append(codec.decode(m)), LINK_QOS
        )
        observer.spin_until(lambda: publisher.get_subscription_count() > 0, 10)
        for _ in range(count):
            received.clear()
            start = time.perf_counter()
            publisher.publish(codec.encode(payload))
            observer.spin_until(lambda: bool(received), 10)
            times.append(time.perf_counter() - start)
    return {
        "by reference ms": round(1e3 * by_reference, 4),
        "message ms": round(1e3 * statistics.median(times), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, nargs="?", help="default: the demo recording")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--config", type=Path, help="YAML profile (default: none)")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--quick", action="store_true", help="a few frames")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measured in turn")
    parser.add_argument("--rounds", type=int, default=3, help="with --against")
    parser.add_argument("--hz", type=float, default=5.0, help="of the camera with --against")
    args = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    source = open_source(args.source or find_resource("demo/recording"))
    frames = list(itertools.islice(source, 24 if args.quick else args.frames))
    if args.against:
        try:
            print(compare(args.against, frames, args.rounds, args.hz, args.out))
        except GboptError as error:
            parser.error(str(error))
        return
    # As many threads in each process as the composed graph uses, so that the rows are alike.
    threads = max(1, torch.get_num_threads() // 2)
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    vga = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    rows = {
        "life, composed": life(COMPOSED),
        "life, separate": life(SEPARATE),
        "offline": offline(args.config, frames),
        "composed": live(COMPOSED, args.config, frames),
        "separate": live(SEPARATE, args.config, frames),
        "image 640x480 rgb8": message_cost(IMAGE, vga, 100),
        "flow 640x480 32FC2": message_cost(MAP, np.zeros((480, 640, 2), np.float32), 100),
    }
    for name, row in rows.items():
        print(f"{name}: {json.dumps(row)}")
    if args.out:
        write_text(args.out, json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
