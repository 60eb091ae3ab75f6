"""Two robots in one ROS domain, each in a namespace: nothing of the one reaches the other."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from lifecycle_msgs.srv import GetState
from std_srvs.srv import Trigger
from support.networks import save_random_weights
from support.recordings import disc_frames
from support.ros import TOPIC, Graph, ros_arguments

from gbopt_ros.learning.store.store import Store
from gbopt_ros.msg import ModelUpdate, SelectedMasks
from gbopt_ros.nodes.base import LATCHED_QOS
from gbopt_ros.nodes.composed import compose
from gbopt_ros.nodes.learner import LearnerNode
from gbopt_ros.nodes.messages import stamp_ns
from gbopt_ros.nodes.player import Player
from gbopt_ros.structures import Frame

pytestmark = pytest.mark.usefixtures("small_networks")


def robot(domain: int, name: str, store: Path, *, weights: dict[str, Path] | None) -> Graph:
    """All nodes in the namespace of a name; the learner alone without weights. Not started."""
    parameters = {
        "store": store, "train_every_clips": 0, "learning.iterations": 1,
        "learning.batch_size": 2, "learning.warmup": 0, "learning.learning_rate": 1e-5,
        "learning.gate_agreement": 0.0,  # what random weights propose, JPEG changes
    }  # fmt: skip
    arguments = [*ros_arguments(weights, **parameters), "-r", f"__ns:=/{name}"]

    def make(context: rclpy.Context) -> list[Any]:
        others = compose(context=context) if weights is not None else []
        return [LearnerNode(context=context), *others]

    return Graph(domain, make, arguments, name)


@pytest.fixture
def robots(ros_domain_id: int, tmp_path: Path) -> Iterator[dict[str, Graph]]:
    """Two that are started, with a store each, named after them."""
    weights = save_random_weights(tmp_path)
    with ExitStack() as stack:
        made = {}
        for name in ("left", "right"):
            graph = robot(ros_domain_id, name, tmp_path / name, weights=weights)
            made[name] = stack.enter_context(graph)
            made[name].start()
        yield made


def test_masks_and_updates_stay_in_their_namespace(
    robots: dict[str, Graph], tmp_path: Path
) -> None:
    frames: dict[str, list[Frame]] = {}
    masks, updates = {}, {}
    for place, (name, graph) in enumerate(robots.items()):
        masks[name] = graph.observe(SelectedMasks, "selector/output/masks")
        updates[name] = graph.observe(ModelUpdate, "learner/output/model_update", LATCHED_QOS)
        frames[name] = [
            replace(frame, stamp_ns=frame.stamp_ns + place, frame_id=name)
            for frame in disc_frames(8)
        ]
    left, right = robots.values()

    def by_turns() -> Iterator[Frame]:
        for frame, other in zip(frames["left"], frames["right"], strict=True):
            yield frame
            right.feed([other])

    options = {"namespace": "left", "context": left.context}
    with closing(Player(TOPIC, lockstep=True, **options)) as player:
        player.play(by_turns())
    for name, graph in robots.items():
        graph.wait(lambda name=name: len(masks[name]) == 8, "the masks")
        assert {m.header.frame_id for m in masks[name]} == {name}
        assert [stamp_ns(m.header.stamp) for m in masks[name]] == [
            frame.stamp_ns for frame in frames[name]
        ]
        learner = graph.nodes["learner"]
        graph.wait(lambda learner=learner: learner.health.counted("clips stored") == 2, "clips")

    assert left.call(Trigger, "learner/train").success
    serving = left.nodes["proposal"].facts
    left.wait(lambda: serving()["model version"] == "v0001", "the new network")
    assert len(updates["left"]) == 1 and not updates["right"]
    there = right.nodes["proposal"]
    assert there.facts()["model version"] == "random"
    assert there.health.counted("updates") == there.health.counted("updates refused") == 0
    assert Store(tmp_path / "left").models.current_name() == "v0001"
    assert Store(tmp_path / "right").models.current_name() is None


def test_second_learner_of_a_store_is_refused_and_the_first_goes_on(
    ros_domain_id: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    with (
        robot(ros_domain_id, "left", store, weights=None) as left,
        robot(ros_domain_id, "right", store, weights=None) as right,
    ):
        left.start()
        first, second = left.nodes["learner"], right.nodes["learner"]
        assert not second.start()
        told = right.call(GetState, "learner/get_state").current_state.label
        assert told == "unconfigured"
        (line,) = [line for line in capfd.readouterr().err.splitlines() if "ERROR" in line]
        assert line.endswith(
            f"[right.learner]: cannot configure: {store}: the learner /left/learner is under way "
            f"in process {os.getpid()} on {socket.gethostname()}; wait until it is done, or stop it"
        )
        reply = left.call(Trigger, "learner/train")
        assert reply.message == "no selected mask to learn from yet"  # so it is active
        first.trigger_deactivate()
        assert not second.start()  # the first one still has it
        first.trigger_cleanup()
        assert second.start()
