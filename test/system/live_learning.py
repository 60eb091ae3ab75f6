"""The whole loop live on the demo recording: select, learn, pass the gate, swap, roll back.

    python benchmarks/live_learning.py

The composed graph and the learner run as processes; the recording is played in lockstep, over and
over. After one round the learner is called; while it trains, and after its version was swapped in,
frames go on. Then it is rolled back. Exit status 1 unless every frame that was sent came out with
masks of a named version, and the versions came one after the other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from graph import TOPIC, Observer, graph
from std_srvs.srv import Trigger

from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources import open_source
from gbopt_ros.msg import ModelUpdate, TrainingProgress
from gbopt_ros.nodes.base import LATCHED_QOS
from gbopt_ros.nodes.player import Player, looped, player

PATIENCE_S = 900.0


class Watch(Observer):
    """Follows the learner too."""

    def __init__(self) -> None:
        super().__init__()
        self.updates: list[Any] = []
        self.progress: list[Any] = []
        subscribe = self.node.create_subscription
        subscribe(ModelUpdate, "learner/output/model_update", self.updates.append, LATCHED_QOS)
        subscribe(TrainingProgress, "learner/output/progress", self.progress.append, LATCHED_QOS)

    def call(self, name: str) -> Any:
        client = self.node.create_client(Trigger, name)
        self.spin_until(client.service_is_ready, 30)
        self.spin_until(lambda: False, 0.5)  # a server answers only clients that it has found
        answer = client.call_async(Trigger.Request())
        self.spin_until(answer.done, 30)
        return answer.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=60, help="of the fine-tuning")
    parser.add_argument("--frames", type=int, help="of the recording; default: all")
    parser.add_argument("--quick", action="store_true", help="few frames and steps")
    args = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    profile = find_resource("config/demo.yaml")
    count = 36 if args.quick else args.frames
    frames = list(itertools.islice(open_source(find_resource("demo/recording")), count))
    endless = looped(frames, 0)
    sent = 0

    def play(playing: Player, number: int) -> None:
        nonlocal sent
        sent += playing.play(list(itertools.islice(endless, number)))

    with tempfile.TemporaryDirectory() as store, graph(("graph",), profile):
        learner = start_learner(profile, Path(store), 4 if args.quick else args.iterations)
        watch = Watch()
        try:
            with player(TOPIC, lockstep=True, patience_s=120) as playing:
                watch.spin_until(lambda: bool(watch.progress), 60)
                play(playing, len(frames))
                watch.spin_until(lambda: len(watch.versions) >= sent, 30)
                start, told = time.monotonic(), watch.call("learner/train")
                print(told.message)
                while not watch.updates and time.monotonic() - start < PATIENCE_S:
                    play(playing, 12)
                    watch.spin_until(lambda: False, 0.1)
                    if watch.progress[-1].state > TrainingProgress.STATE_PUBLISHED:
                        break
                seconds = time.monotonic() - start
                verdict = watch.progress[-1].message
                for _ in range(2):  # the old network serves until the new one is loaded
                    play(playing, 12)
                after_training = watch.call("learner/rollback") if watch.updates else None
                for _ in range(2):
                    play(playing, 12)
                watch.spin_until(lambda: len(watch.versions) >= sent, 30)
        finally:
            learner.terminate()
            learner.wait()
            watch.close()
    order = [version for version, _ in itertools.groupby(watch.versions)]
    result = {
        "training s": round(seconds),
        "verdict": verdict,
        "rollback": after_training.message if after_training is not None else "",
        "frames sent": sent,
        "frames with masks": len(watch.versions),
        "versions in order": order,
        "frames of each": {v: watch.versions.count(v) for v in dict.fromkeys(order)},
        "frames dropped": max(s.dropped_frames for s in watch.statuses),
        "clips dropped": max(s.dropped_clips for s in watch.statuses),
    }
    print(json.dumps(result, indent=2))
    return 0 if len(watch.versions) == sent and order == ["seed", "v0001", "seed"] else 1


def start_learner(profile: Path, store: Path, iterations: int) -> subprocess.Popen[bytes]:
    arguments = ["--ros-args", "-p", f"profile:={profile}", "-p", f"store:={store}"]
    arguments += ["-p", f"learning.iterations:={iterations}", "-p", "train_every_clips:=0"]
    return subprocess.Popen([sys.executable, "-m", "gbopt_ros.nodes.learner", *arguments])


if __name__ == "__main__":
    sys.exit(main())
