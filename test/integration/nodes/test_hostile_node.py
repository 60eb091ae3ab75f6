"""A stranger on the network: no process ends, nothing unproven serves, perception goes on.

`test/system` does the same for longer, with every node in a process of its own.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from lifecycle_msgs.srv import GetState
from support.hostile import Stranger, forbidden_requests
from support.networks import save_random_weights
from support.recordings import disc_frames
from support.ros import SOMETIMES, Graph, ros_arguments

from gbopt_ros.io.resources import find_resource
from gbopt_ros.msg import SelectedMasks
from gbopt_ros.nodes.composed import COMPOSED
from gbopt_ros.nodes.learner import LearnerNode
from gbopt_ros.nodes.messages import stamp_ns
from gbopt_ros.nodes.objects_3d import Objects3dNode
from gbopt_ros.nodes.player import looped
from gbopt_ros.nodes.wiring import DEPTH, remapping
from gbopt_ros.srv import SetTarget

# What an action server has: an `execute` right of the policy.
OF_ACTIONS = {
    "publisher": ("feedback", "status"),
    "service": ("send_goal", "cancel_goal", "get_result"),
}


def is_the_policy(observer: Any, node: str) -> bool:
    """Whether the SROS2 policy allows what the running node has, and has all that it allows."""
    root = ET.parse(find_resource("config/sros2_policy.xml")).getroot()
    (profile,) = root.findall(f".//profile[@ns='/'][@node='{node}']")
    for kind, group, right in (
        ("publisher", "topics", "publish"),
        ("subscriber", "topics", "subscribe"),
        ("service", "services", "reply"),
        ("client", "services", "request"),
    ):
        listing = getattr(observer, f"get_{kind}_names_and_types_by_node")(node, "/")
        found = {name for name, _ in listing}
        listed = profile.findall(f"./{group}[@{right}='ALLOW']/*")
        allowed = {f"/{each.text}".replace("//", "/") for each in listed}
        actions = {f"/{e.text}/_action" for e in profile.findall("./actions[@execute='ALLOW']/*")}
        allowed |= {f"{action}/{part}" for action in actions for part in OF_ACTIONS.get(kind, ())}
        assert found <= allowed, (node, kind)
        if not allowed - found <= SOMETIMES:  # perhaps not discovered yet
            return False
    return True


def test_graph_survives_a_stranger(ros_domain_id: int, tmp_path: Path) -> None:
    """Every node with its own subscriptions, as in processes of their own."""
    weights = save_random_weights(tmp_path)
    parameters = {"store": tmp_path / "store", "stall_timeout_s": 2.0, "train_every_clips": 0}
    arguments = ros_arguments(weights, consumers="none", **parameters)
    arguments += remapping(DEPTH, "camera/depth/image_raw")

    def make(context: rclpy.Context) -> list[object]:
        return [kind(context=context) for kind in (LearnerNode, Objects3dNode, *COMPOSED)]

    with Graph(ros_domain_id, make, arguments) as graph:
        graph.start()
        frames = looped(disc_frames(4), 0)
        first = [next(frames) for _ in range(4)]
        graph.camera()
        stranger = Stranger(graph.observer, [frame.stamp_ns for frame in first])
        graph.wait(lambda: len(stranger.topics()) == 13, "the inputs of the graph")
        for name in graph.nodes:
            graph.wait(
                partial(is_the_policy, graph.observer, name), f"what the policy allows {name}", 20.0
            )
            forbidden_requests(graph.call, f"/{name}")
        request = stranger.message(SetTarget.Request)
        fields = {name: getattr(request, name) for name in request.get_fields_and_field_types()}
        graph.call(SetTarget, "/selector/set_target", **fields)
        assert stranger.send_for(3.0) > 300

        masks = graph.observe(SelectedMasks, "/selector/output/masks")
        sent: set[int] = set()

        def are_selected() -> bool:
            frame = replace(next(frames), index=len(sent))
            sent.add(frame.stamp_ns)
            graph.send(frame)
            graph.executor.wake()
            return len({stamp_ns(m.header.stamp) for m in masks} & sent) >= 8

        graph.wait(are_selected, "masks of the camera's frames", step_s=0.2)
        for name in graph.nodes:
            assert graph.call(GetState, f"/{name}/get_state").current_state.label == "active"
        assert graph.nodes["proposal"].facts()["model version"] == "random"
        assert graph.nodes["proposal"].health.counted("updates") == 0
