"""The whole loop live on the demo recording: select, learn, pass the gate, swap, roll back."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from std_srvs.srv import Trigger
from support.live import PATIENT, RECORDING

from benchmarks.graph_processes import COMPOSED, TOPIC, Observer, graph_processes
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources import open_source
from gbopt_ros.models.weights import PROPOSALS, read_weights
from gbopt_ros.msg import ModelUpdate, TrainingProgress
from gbopt_ros.nodes.base import LATCHED_QOS
from gbopt_ros.nodes.player import Player, looped, player

pytestmark = pytest.mark.timeout(1200)

FRAMES, ITERATIONS = 36, 4
PATIENCE_S = 600.0


class LearningObserver(Observer):
    """Records the learner too."""

    def __init__(self) -> None:
        super().__init__()
        self.updates: list[Any] = []
        self.progress: list[Any] = []
        subscribe = self.node.create_subscription
        subscribe(ModelUpdate, "learner/output/model_update", self.updates.append, LATCHED_QOS)
        subscribe(TrainingProgress, "learner/output/progress", self.progress.append, LATCHED_QOS)


def test_learner_swaps_and_rolls_back_while_frames_go_on(
    tmp_path: Path, ros_domain_id: int
) -> None:
    """Every frame that was sent has masks of a named version, and versions come in order."""
    endless = looped(list(itertools.islice(open_source(RECORDING), FRAMES)), 0)
    sent = 0

    def play(playing: Player, count: int) -> None:
        nonlocal sent
        sent += playing.play(list(itertools.islice(endless, count)))

    both = {"device": "cpu", "store": tmp_path}
    learning = {"learning__iterations": ITERATIONS, "train_every_clips": 0}
    with (
        graph_processes(COMPOSED, **both, **PATIENT),
        graph_processes(("learner",), **both, **learning),
        LearningObserver() as observer,
        player(TOPIC, lockstep=True, patience_s=120) as playing,
    ):
        observer.wait_for_graph()
        observer.spin_until(lambda: bool(observer.progress), 60)
        play(playing, FRAMES)
        observer.spin_until(lambda: len(observer.versions) >= sent, 30)
        start, answer = time.monotonic(), observer.call(Trigger, "learner/train")
        assert answer.success, answer.message
        while not observer.updates and time.monotonic() - start < PATIENCE_S:
            play(playing, 12)
            observer.spin_for(0.1)
            if observer.progress[-1].state > TrainingProgress.STATE_PUBLISHED:
                break
        assert observer.updates, observer.progress[-1].message
        for _ in range(2):  # the old network serves until the new one is loaded
            play(playing, 12)
        answer = observer.call(Trigger, "learner/rollback")
        assert answer.success, answer.message
        for _ in range(2):
            play(playing, 12)
        observer.spin_until(lambda: len(observer.versions) >= sent, 30)
    assert len(observer.versions) == sent
    seed = read_weights(find_resource("demo/weights/proposals.safetensors"), PROPOSALS)[0].version
    assert [name for name, _ in itertools.groupby(observer.versions)] == [seed, "v0001", seed]
    assert max(status.dropped_frames for status in observer.statuses) == 0
    assert max(status.dropped_clips for status in observer.statuses) == 0
