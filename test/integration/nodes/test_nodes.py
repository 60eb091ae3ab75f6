"""One node at a time: parameters, lifecycle, and the exchange of the network while frames flow."""

from __future__ import annotations

import json
import os
import pickle
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as shortened
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

import torch
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue, SetParametersResult
from rcl_interfaces.srv import DescribeParameters, ListParameters, SetParameters
from rclpy.action import ActionServer
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from support.networks import save_random_weights
from support.recordings import disc_frames
from support.ros import TOPIC, Graph, ros_arguments

from gbopt_ros.config import Config, settings
from gbopt_ros.config.renamed import REMOVED, RENAMED
from gbopt_ros.learning.store.model_store import ModelStore, ModelVersion
from gbopt_ros.learning.store.pull import Unreachable
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.device import resolve_device
from gbopt_ros.models.weights import PROPOSALS, sha256_of
from gbopt_ros.msg import ClipFrames, ModelUpdate, Proposals, SelectedMasks
from gbopt_ros.nodes import health, proposal
from gbopt_ros.nodes.background import BackgroundNode
from gbopt_ros.nodes.base import LATCHED_QOS, LINK_QOS, PipelineNode
from gbopt_ros.nodes.clip_buffer import ClipBufferNode, ClipBufferSettings
from gbopt_ros.nodes.composed import compose
from gbopt_ros.nodes.flow import FlowNode
from gbopt_ros.nodes.flow import main as flow_main
from gbopt_ros.nodes.learner import LearnerNode, LearnerSettings
from gbopt_ros.nodes.messages import Stamped, make_header, make_time, stamp_ns
from gbopt_ros.nodes.objects_3d import Objects3dNode
from gbopt_ros.nodes.player import looped
from gbopt_ros.nodes.proposal import ProposalNode
from gbopt_ros.nodes.selector import SelectorNode, SelectorSettings
from gbopt_ros.nodes.spin import simulated_clock
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import Frame, GboptError

KINDS = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
}
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def graph(ros_domain_id: int, weights: dict[str, Path], tmp_path: Path) -> Iterator[Graph]:
    """All nodes but the learner, not started."""
    arguments = ros_arguments(weights, store=tmp_path / "store")
    with Graph(ros_domain_id, lambda context: compose(context=context), arguments) as made:
        yield made


# ------------------------------------------------------------------------------------- clock


def test_clock_does_not_wake_the_executor_of_the_nodes(
    ros_domain_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the action of the selector, with every new time."""
    wakes: list[int] = []
    count = ActionServer.get_num_entities
    monkeypatch.setattr(
        ActionServer, "get_num_entities", lambda server: wakes.append(1) or count(server)
    )
    arguments = [*ros_arguments(None), "-p", "use_sim_time:=true"]

    def make(context: rclpy.Context) -> list[PipelineNode]:
        return [SelectorNode(context=context), FlowNode(context=context)]

    with Graph(ros_domain_id, make, arguments) as graph:
        nodes = [*graph.nodes.values()]
        clock = simulated_clock(nodes)
        assert clock is not None
        try:
            graph.start()
            names = [thread.name for thread in threading.enumerate()]
            assert names.count("selector_clock") == 1
            publisher = graph.observer.create_publisher(Clock, "/clock", 1)
            graph.wait(lambda: publisher.get_subscription_count() == 1, "the only subscriber")

            def tell(seconds: int) -> None:
                publisher.publish(Clock(clock=make_time(seconds * 10**9)))

            def is_told(seconds: int) -> bool:
                return all(n.get_clock().now().nanoseconds == seconds * 10**9 for n in nodes)

            tell(1)
            graph.wait(lambda: is_told(1), "the clock")
            wakes.clear()
            for seconds in range(1001, 1101):
                tell(seconds)
                graph.wait(lambda seconds=seconds: is_told(seconds), "the clock", step_s=0.005)
            assert len(wakes) < 50
            off = [Parameter("use_sim_time", value=False)]
            assert all(node.set_parameters(off)[0].successful for node in nodes)
            assert all(n.get_clock().now().nanoseconds > 10**18 for n in nodes)
        finally:
            clock.close()
        graph.wait(lambda: publisher.get_subscription_count() == 0, "it to unsubscribe")
        assert simulated_clock(nodes) is None


# -------------------------------------------------------------------------------- parameters


def test_declare_gives_every_setting_with_its_description_and_range(graph: Graph) -> None:
    for node in graph.nodes.values():
        expected = {
            known.name: known
            for known in settings(Config)
            if {known.name, known.name.partition(".")[0]} & {*node.SECTIONS}
        } | {known.name: known for known in settings(node.SETTINGS)}
        names = sorted(expected)
        described = graph.call(
            DescribeParameters, f"/{node.get_name()}/describe_parameters", names=names
        ).descriptors
        for name, descriptor in zip(names, described, strict=True):
            known = expected[name]
            assert descriptor.description == known.doc
            assert re.fullmatch(r"[A-Z](?!f )(?!ts )(?!hose )(?!hat ).*\.", known.doc), name
            if name.endswith("_s"):
                assert "seconds" in known.doc
            assert descriptor.read_only == known.fixed
            assert descriptor.type == KINDS[known.type]
            for bounds in (*descriptor.integer_range, *descriptor.floating_point_range):
                assert known.allows(bounds.from_value) and known.allows(bounds.to_value)
                if known.low is not None:
                    assert bounds.from_value == known.low
                if known.above is not None:
                    assert known.above < bounds.from_value < known.above + 1e-9
                if known.high is not None:
                    assert bounds.to_value == known.high


def set_parameter(graph: Graph, node: str, name: str, **value: Any) -> Any:
    kind = {"integer_value": 2, "double_value": 3, "string_value": 4}[next(iter(value))]
    parameter = ParameterMessage(name=name, value=ParameterValue(type=kind, **value))
    return graph.call(SetParameters, f"/{node}/set_parameters", parameters=[parameter]).results[0]


def test_set_parameters_changes_a_running_node(graph: Graph) -> None:
    graph.start()
    assert set_parameter(graph, "selector", "selection.k", integer_value=2).successful
    assert graph.nodes["selector"].config.selection.k == 2
    assert set_parameter(graph, "clip_buffer", "max_in_flight", integer_value=7).successful
    assert graph.nodes["clip_buffer"].settings.max_in_flight == 7


def test_lag_is_refused_while_the_selector_is_active(graph: Graph) -> None:
    graph.start()
    selector = graph.nodes["selector"]

    def set_lag() -> Any:
        return set_parameter(graph, "selector", "selection.lag", integer_value=2)

    refused = set_lag()
    assert not refused.successful
    assert refused.reason.startswith("selection.lag: the selector is active; deactivate it")
    assert set_parameter(graph, "selector", "selection.k", integer_value=2).successful
    assert selector.trigger_deactivate() == SUCCESS
    assert set_lag().successful
    assert selector.trigger_activate() == SUCCESS
    masks = graph.observe(SelectedMasks, "/selector/output/masks")
    graph.feed(disc_frames(3))
    graph.wait(lambda: len(masks) == 1, "the masks of the first frame, two frames later")


def test_track_settings_change_while_frames_flow(graph: Graph) -> None:
    graph.start()
    masks = graph.observe(SelectedMasks, "/selector/output/masks")

    def ids(frames: list[Frame]) -> list[set[int]]:
        count = len(masks)
        graph.feed(frames)
        graph.wait(lambda: len(masks) == count + len(frames), "the masks")
        return [{mask.track_id for mask in message.masks} for message in masks[count:]]

    frames = disc_frames(8)
    first = ids(frames[:4])
    assert first[0] and first[0] & first[-1]
    assert set_parameter(graph, "selector", "tracks.max_gap_s", double_value=1e-3).successful
    second = ids(frames[4:])
    assert all(not a & b for a, b in zip([first[-1], *second], second, strict=False))


def test_parameters_that_another_callback_refuses_change_nothing(ros_domain_id: int) -> None:
    def refuse(changes: Any) -> SetParametersResult:
        return SetParametersResult(successful=False, reason="not now")

    with Graph(ros_domain_id, lambda c: [ClipBufferNode(context=c)]) as made:
        node = made.nodes["clip_buffer"]
        before, own = node.settings, node._check_parameters
        node.remove_on_set_parameters_callback(own)
        node.add_on_set_parameters_callback(refuse)
        node.add_on_set_parameters_callback(own)  # rclpy asks the newest first
        (result,) = node.set_parameters([Parameter("max_in_flight", value=7)])
        assert (result.successful, result.reason) == (False, "not now")
        assert node.settings == before


MASKS_QOS = "qos_overrides./selector/output/masks.publisher"


@pytest.fixture
def selector(
    request: pytest.FixtureRequest, ros_domain_id: int, weights: dict[str, Path]
) -> Iterator[Graph]:
    """The selector alone, in a process of its own as far as it knows; with parameters."""
    arguments = ros_arguments(weights, **request.param)
    with Graph(ros_domain_id, lambda context: [SelectorNode(context=context)], arguments) as made:
        yield made


@pytest.mark.parametrize(
    "selector",
    [
        {
            f"{MASKS_QOS}.reliability": "best_effort",
            f"{MASKS_QOS}.depth": 3,
            "qos_overrides./clip_buffer/output/image.subscription.reliability": "best_effort",
        }
    ],
    indirect=True,
)
def test_qos_overrides_change_topics_and_are_parameters(selector: Graph) -> None:
    selector.start()
    node = selector.nodes["selector"]

    def reliability(topic: str, end: str = "publishers") -> ReliabilityPolicy:
        find = getattr(node, f"get_{end}_info_by_topic")
        selector.wait(lambda: len(find(topic)) == 1, f"{end} of before to be forgotten")
        return find(topic)[0].qos_profile.reliability

    def check() -> None:
        assert reliability("/selector/output/masks") == ReliabilityPolicy.BEST_EFFORT
        assert reliability("/selector/output/status") == ReliabilityPolicy.RELIABLE
        assert reliability("/clip_buffer/output/image", "subscriptions") == (
            ReliabilityPolicy.BEST_EFFORT
        )
        assert reliability("/clip_buffer/output/clips", "subscriptions") == (
            ReliabilityPolicy.RELIABLE
        )

    check()
    listed = selector.call(ListParameters, "/selector/list_parameters").result.names
    policies = ("history", "depth", "reliability", "durability")
    assert {f"{MASKS_QOS}.{policy}" for policy in policies} <= set(listed)
    assert node.get_parameter(f"{MASKS_QOS}.depth").value == 3
    assert node.get_parameter("qos_overrides./selector/output/done.publisher.depth").value == 16
    assert (LINK_QOS.reliability, LINK_QOS.depth) == (ReliabilityPolicy.RELIABLE, 16)
    assert node.trigger_deactivate() == node.trigger_cleanup() == SUCCESS
    assert node.start()  # topics are made again
    check()


@pytest.mark.parametrize(
    ("selector", "reason"),
    [
        ({f"{MASKS_QOS}.reliability": "sometimes"}, "`reliability`: `sometimes`"),
        ({f"{MASKS_QOS}.depth": "deep"}, "expecting type 'INTEGER'"),
    ],
    indirect=["selector"],
)
def test_qos_overrides_without_meaning_are_told_in_a_line(
    selector: Graph, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert selector.nodes["selector"].trigger_configure() == FAILURE
    told = capfd.readouterr().err
    assert "cannot configure: ~/output/masks: its QoS cannot be set" in told and reason in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("node", "name", "value", "reason"),
    [
        ("selector", "selection.k", {"integer_value": 0}, "k"),
        ("selector", "selection.epsilon", {"double_value": 0.5}, "epsilon"),
        ("selector", "outline.method", {"string_value": "median"}, "one of guided, network"),
        ("clip_buffer", "clip.overlap", {"integer_value": 4}, "less than length, 4"),
        ("proposal", "proposal.weights", {"string_value": "other"}, "read-only"),
        ("proposal", "device", {"string_value": "cuda"}, "read-only"),
        ("clip_buffer", "queue", {"integer_value": 7}, "read-only"),
        ("clip_buffer", "clip.length", {"integer_value": 5}, "at most 4; start all nodes with"),
        ("proposal", "learning.student", {"string_value": "other"}, "read-only"),
    ],
)
def test_set_parameters_refuses_values_out_of_range(
    graph: Graph, node: str, name: str, value: dict[str, Any], reason: str
) -> None:
    before = graph.nodes[node].config, graph.nodes[node].settings
    result = set_parameter(graph, node, name, **value)
    assert not result.successful
    assert reason in result.reason
    assert (graph.nodes[node].config, graph.nodes[node].settings) == before


def test_profile_gives_the_defaults_of_parameters(ros_domain_id: int, tmp_path: Path) -> None:
    profile = tmp_path / "robot.yaml"
    profile.write_text("clip:\n  length: 7\n  overlap: 2\n")
    arguments = ["--ros-args", "-p", f"profile:={profile}", "-p", "clip.overlap:=1"]
    with Graph(ros_domain_id, lambda c: [ClipBufferNode(context=c)], arguments) as made:
        clip = made.nodes["clip_buffer"].config.clip
    assert (clip.length, clip.overlap) == (7, 1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("profile:=paper", 2 * 180 + 36),
        ("clip.length:=40", 2 * 40 + 36),  # of all nodes, though a parameter of one of them
        ("max_buffered_frames:=50", 50),
    ],
)
def test_nodes_hold_the_frames_of_two_clips(
    ros_domain_id: int, given: str, expected: int, tmp_path: Path
) -> None:
    arguments = ["--ros-args", "-p", given, "-p", f"store:={tmp_path / 'store'}"]

    def make(context: rclpy.Context) -> list[PipelineNode]:
        return [kind(context=context) for kind in (SelectorNode, Objects3dNode, LearnerNode)]

    with Graph(ros_domain_id, make, arguments) as made:
        learner = made.nodes["learner"]
        assert learner.start()
        assert made.nodes["selector"]._assembly._capacity == expected
        assert made.nodes["objects_3d"]._frames._capacity == expected
        assert learner._collector._capacity == expected


@pytest.mark.parametrize(
    ("old", "complaint"),
    [
        ("selection.score_memory", "is now called selection.score_propagation"),
        ("probe", "is now called validation"),
        ("selection.confidence_bias", "is no longer a setting: the weights file holds"),
        ("adapt.rounds", "is no longer a setting: background adaptation was removed"),
    ],
)
@pytest.mark.parametrize("given_by", ["argument", "file of the node", "file of all nodes"])
def test_spin_refuses_an_old_parameter_name(
    ros_domain_id: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    old: str,
    complaint: str,
    given_by: str,
) -> None:
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    arguments = ["-p", f"{old}:=0.5"]
    if given_by != "argument":
        path = tmp_path / "parameters.yaml"
        name = "flow" if given_by == "file of the node" else "/**"
        path.write_text(yaml.safe_dump({name: {"ros__parameters": {old: 0.5}}}))
        arguments = ["--params-file", str(path)]
    assert flow_main(["flow", "--ros-args", *arguments]) == 1
    log = capfd.readouterr().err
    assert f"parameter {old} {complaint}" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("rule", ["__ns:=/robot 1", "~/input/image:=3d/image", "__ns:=/a//b"])
def test_spin_says_what_names_may_have(
    ros_domain_id: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    rule: str,
) -> None:
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    assert flow_main(["flow", "--ros-args", "-r", rule]) == 1
    log = capfd.readouterr().err
    assert rule in log and "have letters, digits and _ between slashes" in log


def test_spin_refuses_a_profile_with_an_old_name(
    ros_domain_id: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    profile = tmp_path / "robot.yaml"
    profile.write_text("selection: {score_memory: 0.5}\n")
    assert flow_main(["flow", "--ros-args", "-p", f"profile:={profile}"]) == 1
    assert f"{profile}: selection.score_memory is now called" in capfd.readouterr().err


def test_renamed_names_without_a_section_are_parameters_of_a_node() -> None:
    names = {
        known.name
        for kind in (ClipBufferSettings, SelectorSettings, LearnerSettings)
        for known in settings(kind)
    }
    assert {new for old, new in RENAMED.items() if "." not in old} <= names
    assert not {*RENAMED, *REMOVED} & names


# --------------------------------------------------------------------------------- lifecycle


def test_nodes_go_down_and_up_again(graph: Graph) -> None:
    graph.start()
    for node in graph.nodes.values():
        assert node.trigger_deactivate() == SUCCESS
        assert node.trigger_cleanup() == SUCCESS
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
    proposals = graph.observe(Proposals, "/proposal/output/proposals")
    graph.send(disc_frames(1)[0])
    graph.wait(lambda: len(proposals) == 1, "proposals after the restart")


def test_no_flow_leads_over_the_time_in_which_its_node_was_not_active(ros_domain_id: int) -> None:
    """Also where the worker had one more image when the node was deactivated."""
    images = [Stamped(make_header(f.stamp_ns, "camera"), f.image) for f in disc_frames(3)]
    with Graph(ros_domain_id, lambda c: [FlowNode(context=c)]) as made:
        made.start()
        node, flows = made.nodes["flow"], made.observe(ImageMessage, "/flow/output/flow", LINK_QOS)
        assert node.trigger_deactivate() == SUCCESS
        node.process(images[0])
        assert node.trigger_activate() == SUCCESS
        for image in images[1:]:
            node.process(image)
        made.wait(lambda: bool(flows), "a flow")
        assert [stamp_ns(flow.header.stamp) for flow in flows] == [images[1].stamp_ns]


def test_clip_buffer_deactivated_ends_its_clip(graph: Graph) -> None:
    graph.start()
    clips = graph.observe(ClipFrames, "/clip_buffer/output/clips")
    buffer = graph.nodes["clip_buffer"]
    graph.send(disc_frames(1)[0])
    graph.wait(lambda: buffer.health.counted("done") == 1, "the frame")
    assert buffer.trigger_deactivate() == SUCCESS
    graph.wait(lambda: len(clips) == 1, "the clip")
    assert clips[0].reason == ClipFrames.REASON_END
    assert list(clips[0].frame_indices) == [0]


class Buffer:
    """A clip buffer of its own, with a camera and the test as its selector."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.node = graph, graph.nodes["clip_buffer"]
        graph.start()
        self.clips = graph.observe(ClipFrames, "/clip_buffer/output/clips", LINK_QOS)
        self.images = graph.observe(ImageMessage, "/clip_buffer/output/image", LINK_QOS)
        self._done = graph.observer.create_publisher(Header, "/selector/output/done", LINK_QOS)

    def send(self, *frames: Frame) -> None:
        for frame in frames:
            count = self.node.facts()["received"]
            self.graph.send(frame)
            self.graph.wait(lambda count=count: self.node.facts()["received"] > count, "the frame")

    def finish(self, frame: Frame) -> None:
        """Wait until the frame is sent, and say that all nodes are done with it."""

        def is_sent() -> bool:
            return frame.stamp_ns in {stamp_ns(image.header.stamp) for image in self.images}

        self.graph.wait(is_sent, "the frame to be sent")
        self._done.publish(make_header(frame.stamp_ns, frame.frame_id))


@pytest.fixture
def buffer(ros_domain_id: int, request: pytest.FixtureRequest) -> Iterator[Buffer]:
    """Parametrise indirectly with parameters."""
    parameters = {"consumers": "none", **getattr(request, "param", {})}
    arguments = ros_arguments(None, **parameters)
    with Graph(ros_domain_id, lambda c: [ClipBufferNode(context=c)], arguments) as made:
        yield Buffer(made)


@pytest.mark.parametrize("buffer", [{"queue": 1, "max_in_flight": 1}], indirect=True)
def test_flush_of_a_busy_clip_buffer_drops_no_frame_and_is_not_dropped(buffer: Buffer) -> None:
    frames = disc_frames(4)
    buffer.send(frames[0])
    buffer.graph.wait(lambda: buffer.node.facts()["in flight"] == 1, "the first frame to go out")
    buffer.send(frames[1])
    assert buffer.graph.call(Trigger, "/clip_buffer/flush").success
    assert buffer.node.health.counted("dropped") == 0
    buffer.send(frames[2])  # the newest wins, but not against the end of the clip
    assert buffer.node.health.counted("dropped") == 1
    buffer.finish(frames[0])
    buffer.finish(frames[2])
    assert buffer.graph.call(Trigger, "/clip_buffer/flush").success
    buffer.graph.wait(lambda: len(buffer.clips) == 2, "both clips")
    assert [list(clip.frame_indices) for clip in buffer.clips] == [[0], [2]]


def test_clip_ids_go_on_after_a_change_of_the_clip_settings(buffer: Buffer) -> None:
    first, second = disc_frames(2)
    buffer.send(first)
    buffer.finish(first)
    assert set_parameter(buffer.graph, "clip_buffer", "clip.length", integer_value=3).successful
    buffer.send(second)
    buffer.finish(second)
    assert buffer.graph.call(Trigger, "/clip_buffer/flush").success
    buffer.graph.wait(lambda: len(buffer.clips) == 2, "both clips")
    assert [clip.clip_id for clip in buffer.clips] == [0, 1]
    assert [list(clip.frame_indices) for clip in buffer.clips] == [[0], [1]]


def test_frames_that_a_busy_process_loses_are_counted(buffer: Buffer) -> None:
    first, *others = disc_frames(20)
    graph, node = buffer.graph, buffer.node
    buffer.send(first)
    graph.wait(lambda: node.facts()["in flight"] == 1, "the first frame to go out")
    graph.executor.create_task(time.sleep, 2.0)  # it takes no message meanwhile
    time.sleep(0.2)
    for frame in others:
        graph.send(frame, reliability=ReliabilityPolicy.RELIABLE)
        time.sleep(0.01)
    graph.wait(lambda: node.facts()["received"] == 6, "those that fit the queue, of depth 5")
    assert node.health.counted("lost before arrival") == 14
    graph.wait(lambda: node.health.counted("done") == 4, "the frames that may be in flight")
    node._watch_drops(time.monotonic())
    status = node.health.status("", "active", {})
    assert "14 of the last 18 frames dropped" in status.message
    assert "clips end early: dropped frames leave gaps of more than 1 s" in status.message


def test_frames_of_a_second_camera_are_no_lost_frames_of_the_first(buffer: Buffer) -> None:
    """Each publisher numbers its own messages: those of the first go on at 11."""
    graph, frames = buffer.graph, disc_frames(16)
    for frame in frames[:10]:
        buffer.send(frame)
    other = graph.camera(ReliabilityPolicy.BEST_EFFORT)
    for frame in frames[10:12]:
        graph.send(frame, reliability=ReliabilityPolicy.BEST_EFFORT)
    graph.wait(lambda: buffer.node.facts()["received"] == 12, "frames of the second camera")
    graph.observer.destroy_publisher(other)
    graph.wait(lambda: buffer.node.count_publishers(TOPIC) == 1, "the second camera to go")
    for frame in frames[12:]:
        buffer.send(frame)
    assert buffer.node.health.counted("lost before arrival") == 0


@pytest.mark.parametrize("buffer", [{"max_in_flight": 1, "max_wait_s": 60.0}], indirect=True)
def test_latency_of_the_clip_buffer_counts_the_wait_of_a_frame(buffer: Buffer) -> None:
    first, second = disc_frames(2)
    buffer.send(first)
    buffer.graph.wait(lambda: buffer.node.facts()["in flight"] == 1, "the first frame to go out")
    buffer.send(second)
    time.sleep(0.5)
    buffer.finish(first)
    buffer.graph.wait(lambda: buffer.node.health.counted("done") == 2, "the second frame to go out")
    values = {v.key: v.value for v in buffer.node.health.status("", "active", {}).values}
    assert 0.5 <= float(values["latency max (s)"]) < 10.0


def test_start_without_autostart_waits(ros_domain_id: int) -> None:
    arguments = ["--ros-args", "-p", "autostart:=false"]
    with Graph(ros_domain_id, lambda c: [FlowNode(context=c)], arguments) as made:
        node = made.nodes["flow"]
        assert node.start()
        assert not node.active
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        assert node.active


@pytest.mark.parametrize(
    ("make", "name", "content"),
    [
        (ProposalNode, "proposal", b"nonsense"),
        (BackgroundNode, "background", pickle.dumps([1])),
        (ProposalNode, "proposal", None),
    ],
    ids=["corrupt", "pickle", "missing"],
)
def test_configure_fails_if_weights_cannot_be_loaded(
    ros_domain_id: int, tmp_path: Path, make: Any, name: str, content: bytes | None
) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    arguments = ["--ros-args", "-p", f"{name}.weights:={path}"]
    with Graph(ros_domain_id, lambda c: [make(context=c)], arguments) as made:
        node = made.nodes[name]
        assert node.trigger_configure() == FAILURE
        status = node.health.status(name, "", {})
        assert status.message.startswith(f"cannot configure: {path}")
        # The operator puts a good file there and tries again.
        good = save_random_weights(tmp_path / "good")["proposals" if name == "proposal" else name]
        path.write_bytes(good.read_bytes())
        assert node.trigger_configure() == SUCCESS


@pytest.mark.parametrize(
    ("make", "parameter"),
    [
        (ProposalNode, "proposal.weights"),
        (LearnerNode, "proposal.weights"),
        (LearnerNode, "learning.student"),
    ],
)
def test_configure_fails_on_a_version_of_a_store_that_was_changed(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path, make: Any, parameter: str
) -> None:
    """Also where it holds a whole network, and is of another store than that of the node."""
    models = ModelStore(tmp_path / "other")
    network, info = load_mask_rcnn(weights[PROPOSALS])
    version, later = (models.publish(network, info, {"run": run}) for run in (1, 2))
    good = version.path.read_bytes()
    version.path.write_bytes(later.path.read_bytes())
    arguments = ros_arguments(
        weights, **{"store": tmp_path / "store", parameter: version.path, "train_every_clips": 0}
    )
    with Graph(ros_domain_id, lambda c: [make(context=c)], arguments) as made:
        (node,) = made.nodes.values()
        assert node.trigger_configure() == FAILURE
        status = node.health.status("", "unconfigured", {})
        assert f"cannot configure: {version.path}: SHA-256 is" in status.message
        version.path.write_bytes(good)
        assert node.trigger_configure() == SUCCESS


def test_configure_fails_on_any_exception(
    ros_domain_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(SelectorNode, "configure", broken)
    with Graph(ros_domain_id, lambda c: [SelectorNode(context=c)]) as made:
        assert made.nodes["selector"].trigger_configure() == FAILURE
        assert "out of order" in made.nodes["selector"].health.status("", "", {}).message


def test_configure_fails_if_the_device_is_missing(
    ros_domain_id: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of a node which works on it only later."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)

    class Late(FlowNode):
        def hardware(self) -> str:
            return str(resolve_device(self.config.device))

    arguments = ["--ros-args", "-p", "device:=cuda"]
    with Graph(ros_domain_id, lambda c: [Late(context=c)], arguments) as made:
        node = made.nodes["flow"]
        assert not node.start()
        assert (state_of(node), node._entities) == ("unconfigured", [])  # nothing is half open
        told = node.health.status("", "unconfigured", {}).message
        assert told.startswith("cannot configure: device 'cuda': torch sees 0 CUDA GPUs")
    log = capfd.readouterr().err
    assert log.count("[ERROR]") == 1 and "cannot configure: device 'cuda'" in log


def state_of(node: Any) -> str:
    return str(node._state_machine.current_state[1])


def test_requests_that_rclpy_raises_on_are_told_in_a_line(
    ros_domain_id: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with Graph(ros_domain_id, lambda c: [FlowNode(context=c)]) as made:
        assert made.nodes["flow"].start()
        again = Transition(id=Transition.TRANSITION_CONFIGURE)
        assert not made.call(ChangeState, "/flow/change_state", transition=again).success
        untyped = [ParameterMessage(name="device", value=ParameterValue(type=99))]
        answer = made.call(SetParameters, "/flow/set_parameters", parameters=untyped)
        assert answer.results == []
        assert made.nodes["flow"].health.counted("requests refused") == 2
    log = capfd.readouterr().err
    assert "a request failed: Failed to trigger lifecycle state machine transition" in log
    assert "Traceback" not in log


def test_activate_fails_if_the_node_cannot_introduce_itself(
    ros_domain_id: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It does no work then, and can be activated later."""

    def unknown(self: Any) -> list[str]:
        raise GboptError("no version is known")

    with Graph(ros_domain_id, lambda c: [FlowNode(context=c)]) as made:
        node = made.nodes["flow"]
        with monkeypatch.context() as patch:
            patch.setattr(FlowNode, "introduction", unknown)
            assert not node.start()
        assert (state_of(node), node.active, node._workers) == ("inactive", False, {})
        assert node.health.status("", "", {}).message == "cannot activate: no version is known"
        assert node.trigger_activate() == SUCCESS
    log = capfd.readouterr().err
    assert log.count("[ERROR]") == 1 and "cannot activate: no version is known" in log


@pytest.mark.parametrize(
    ("fails", "transition", "expected"),
    [
        ("deactivate", "trigger_deactivate", "unconfigured"),
        ("cleanup", "trigger_cleanup", "unconfigured"),
        ("deactivate", "trigger_shutdown", "finalized"),
    ],
)
def test_node_that_raises_on_its_way_down_frees_all_that_it_holds(
    ros_domain_id: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fails: str,
    transition: str,
    expected: str,
) -> None:
    """It is not active by its state alone, and can be configured again."""

    def broken(self: Any) -> None:
        if failing:
            failing.pop()
            raise RuntimeError("out of order")

    monkeypatch.setattr(FlowNode, fails, broken)
    with Graph(ros_domain_id, lambda c: [FlowNode(context=c)]) as made:
        node = made.nodes["flow"]
        failing: list[int] = []
        assert node.start()
        if transition == "trigger_cleanup":
            assert node.trigger_deactivate() == SUCCESS
        failing.append(1)
        assert getattr(node, transition)() != SUCCESS
        assert (state_of(node), node.active) == (expected, False)
        assert (node._workers, node._entities) == ({}, [])
        assert "out of order" in node.health.status("", expected, {}).message
        if expected == "unconfigured":
            assert node.start() and node.active
    assert "RuntimeError: out of order" in capfd.readouterr().err


# -------------------------------------------------------------------------------------- swap


class Swap:
    """A proposal node that is shown frames and told of versions, and its store."""

    def __init__(self, graph: Graph, root: Path, weights: dict[str, Path]) -> None:
        self.graph, self.node = graph, graph.nodes["proposal"]
        self.models = ModelStore(root)
        self.network, self._info = load_mask_rcnn(weights[PROPOSALS])
        self.proposals = graph.observe(Proposals, "/proposal/output/proposals")
        self.updates = graph.observer.create_publisher(
            ModelUpdate, "/learner/output/model_update", LATCHED_QOS
        )
        self._frames = looped(disc_frames(10), 0)

    def publish(self, passed: bool = True) -> ModelVersion:
        """A new version in the store."""
        return self.models.publish(self.network, self._info, {"gate": {"passed": passed}})

    def show(self) -> str:
        """One frame through the node; the version that proposed."""
        count = len(self.proposals)
        self.graph.send(next(self._frames))
        self.graph.wait(lambda: len(self.proposals) == count + 1, "proposals")
        return str(self.proposals[-1].model_version)

    def announce(self, version: str, sha256: str, path: str = "") -> None:
        before = self._looked_at()
        self.updates.publish(ModelUpdate(version=version, path=path, sha256=sha256))
        self.graph.wait(lambda: self._looked_at() > before, "the update to be looked at")

    def announce_version(self, version: ModelVersion) -> None:
        self.announce(version.version, version.manifest["sha256"], str(version.path))

    def _looked_at(self) -> int:
        counted = self.node.health.counted
        return int(counted("updates") + counted("updates refused"))


@pytest.fixture
def swap(graph: Graph, tmp_path: Path, weights: dict[str, Path]) -> Swap:
    graph.start()
    return Swap(graph, tmp_path / "store", weights)


def test_model_update_serves_and_the_first_network_comes_back(
    swap: Swap, weights: dict[str, Path]
) -> None:
    first = "random", sha256_of(weights[PROPOSALS])
    assert swap.show() == "random"
    swap.announce_version(swap.publish())
    assert swap.show() == "v0001"
    swap.announce(*first)  # the store still serves the version
    assert swap.show() == "v0001"
    swap.models.rollback()
    swap.announce(*first)
    assert swap.show() == "random"


def test_model_update_while_the_node_was_not_active_serves_afterwards(swap: Swap) -> None:
    node, version = swap.node, swap.publish()
    told = swap.graph.observe(ModelUpdate, "/learner/output/model_update")
    assert node.trigger_deactivate() == SUCCESS
    digest = version.manifest["sha256"]
    swap.updates.publish(ModelUpdate(version="v0001", sha256=digest))
    swap.graph.wait(lambda: len(told) == 1, "the announcement")
    assert node.trigger_activate() == SUCCESS
    swap.graph.wait(lambda: node.facts()["model version"] == "v0001", "the version")
    # Configured anew it has what its parameters name, and nobody announces the version again.
    assert node.trigger_deactivate() == node.trigger_cleanup() == SUCCESS
    assert node.trigger_configure() == SUCCESS
    assert node.facts()["model version"] == "random"
    assert node.trigger_activate() == SUCCESS
    swap.graph.wait(lambda: node.facts()["model version"] == "v0001", "the version again")


def test_model_update_that_does_not_come_from_the_store_is_refused(
    swap: Swap, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever a message says; the alarm ends, and the next good version serves."""
    swap.show()
    good = swap.publish()
    digest = good.manifest["sha256"]
    secret = tmp_path / "secret"
    secret.write_text("of nobody's business")
    elsewhere = ModelStore(tmp_path / "elsewhere").publish(
        swap.network, swap._info, {"gate": {"passed": True}, "mine": True}
    )
    for version, sha256, path in (
        ("v0001", "0" * 64, "/dev/zero"),
        ("v0001", "", str(secret)),
        ("v0001\n" + "x" * 10_000, digest, str(good.path)),
        ("../elsewhere/models/v0001", elsewhere.manifest["sha256"], str(elsewhere.path)),
        ("", "", ""),
    ):
        swap.announce(version, sha256, path)
        status = swap.node.health.status("proposal", "active", {})
        assert status.level == DiagnosticStatus.WARN
        assert status.message.startswith(f"model update {shortened(version)} refused, ")
        assert "refused, random serves on: the store" in status.message
        assert len(status.message) < 400 and sha256_of(secret)[:8] not in status.message
    assert swap.show() == "random"
    assert sha256_of(secret)[:8] not in capfd.readouterr().err
    swap.announce("v0001", digest, "/dev/zero")  # the path does not count
    assert swap.show() == "v0001"
    assert swap.node.health.status("proposal", "active", {}).message == "active"


def test_diagnostics_tell_a_refused_update_until_it_is_void(
    swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is void when what serves is announced, or when nobody announces and the store agrees."""
    node, first = swap.node, ("random", swap.node._sha256)

    def told_in_an_hour() -> str:
        with monkeypatch.context() as patch:
            clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600.0)
            patch.setattr(health, "time", clock)
            status = node.health.status("", "active", {})
        assert (status.level == DiagnosticStatus.OK) == (status.message == "active")
        return str(status.message)

    refused = "model update 'v0001' refused, random serves on: v0001 did not pass the gate"
    swap.announce_version(swap.publish(passed=False))
    assert told_in_an_hour().startswith(refused)
    node._look_again()
    assert told_in_an_hour().startswith(refused)
    swap.updates.publish(ModelUpdate(version=first[0], sha256=first[1]))
    swap.graph.wait(lambda: told_in_an_hour() == "active", "the end of the alarm")

    swap.announce("v0001", swap.models.get("v0001").manifest["sha256"])
    swap.graph.observer.destroy_publisher(swap.updates)
    topic = "/learner/output/model_update"
    swap.graph.wait(lambda: node.count_publishers(topic) == 0, "nobody to announce it")
    node._look_again()
    assert told_in_an_hour().startswith(refused)  # the store says that it serves
    swap.models.rollback()
    node._look_again()
    assert told_in_an_hour() == "active"


def test_an_update_voids_the_one_before_whose_machine_did_not_answer(
    swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pull(update: ModelUpdate, *_: Any, **__: Any) -> None:
        if update.version == "v0007":
            raise Unreachable("nobody answers")

    monkeypatch.setattr(proposal, "pull_announced", pull)
    swap.announce("v0007", "0" * 64)
    assert swap.node._missed.version == "v0007"
    swap.announce("v0008", "0" * 64)
    assert swap.node._missed is None
    assert "'v0008' refused" in swap.node.health.status("", "active", {}).message


def test_node_frees_all_that_it_holds_where_one_part_raises(graph: Graph) -> None:
    node, freed = graph.nodes["flow"], list[str]()
    assert node.start()

    def broken() -> None:
        raise RuntimeError("out of order")

    node._entities[:0] = [lambda: freed.append("first"), broken]
    node._entities.append(broken)
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_cleanup() != SUCCESS
    assert (freed, node._entities) == (["first"], [])


def test_node_that_is_activated_again_has_no_timer_of_before(graph: Graph) -> None:
    for node in graph.nodes.values():
        assert node.start()
        count = len(list(node.timers))
        for _ in range(3):
            assert node.trigger_deactivate() == node.trigger_activate() == SUCCESS
        assert len(list(node.timers)) == count, node.get_name()


def damage(version: ModelVersion, how: str) -> None:
    """Damage a published version; its manifest goes with the file where it can."""
    path = version.path
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "missing":
        path.unlink()
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif how == "of another version":
        path.write_bytes((path.parents[1] / "v0001" / path.name).read_bytes())
    elif how in ("device", "link"):
        path.unlink()
        path.symlink_to("/dev/zero" if how == "device" else path.parent / "manifest.json")
    elif how == "pipe":
        path.unlink()
        os.mkfifo(path)
    if how in ("pickle", "of another version"):
        manifest = json.loads((path.parent / "manifest.json").read_text())
        text = json.dumps(manifest | {"sha256": sha256_of(path)})
        (path.parent / "manifest.json").write_text(text)


def test_model_update_of_a_bad_version_changes_nothing_but_a_diagnostic(swap: Swap) -> None:
    complaints = {
        "truncated": "SHA-256", "missing": "cannot be read", "pickle": "safetensors",
        "of another version": "holds version 'v0001'", "device": "expected a regular file",
        "link": "expected a regular file", "pipe": "expected a regular file",
    }  # fmt: skip
    assert swap.show() == "random"
    swap.announce_version(swap.publish(passed=False))
    assert "did not pass the gate" in swap.node.health.status("", "active", {}).message
    for how, complaint in complaints.items():
        version = swap.publish()
        damage(version, how)
        swap.announce_version(swap.models.get(version.version))
        told = swap.node.health.status("", "active", {}).message
        assert complaint in told, f"{how}: {told}"
    assert swap.show() == "random"
    swap.announce_version(swap.publish())
    assert swap.show() == f"v{len(complaints) + 2:04d}"
    assert swap.node.health.status("proposal", "active", {}).message == "active"


def test_first_network_may_come_back_whatever_it_proposes_and_its_number_elsewhere(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of the store must propose much the same as the one before it."""
    elsewhere = ModelStore(tmp_path / "elsewhere")
    network, info = load_mask_rcnn(weights[PROPOSALS])
    _, first = (elsewhere.publish(network, info, {"run": run}) for run in (1, 2))
    asked = []

    def check(network: Any, recent: Any, *, must_agree: bool) -> None:
        asked.append((network.version, must_agree))

    monkeypatch.setattr(proposal, "check_proposals", check)
    arguments = ros_arguments(weights | {PROPOSALS: first.path}, store=tmp_path / "store")
    with Graph(ros_domain_id, lambda c: [ProposalNode(context=c)], arguments) as made:
        made.start()
        swap = Swap(made, tmp_path / "store", weights)
        swap.announce_version(swap.publish())
        swap.models.rollback()
        swap.announce_version(first)
        assert swap.node.facts()["model version"] == "v0002"
    assert asked == [("v0001", True), ("v0002", False)]


def test_model_update_that_proposes_other_masks_is_refused(
    swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as nothing at all, by weights that are all 0, or an error."""
    assert swap.show() == "random"
    kept = {name: value.clone() for name, value in swap.network.state_dict().items()}
    with torch.no_grad():
        for parameter in swap.network.parameters():
            parameter.zero_()
    swap.announce_version(swap.publish())
    told = swap.node.health.status("", "active", {}).message
    assert "on the last frames it proposes 0 of the best 5 masks" in told
    swap.network.load_state_dict(kept)
    original = MaskRcnnProposals.propose

    def fails(self: Any, images: Any) -> Any:
        if self.version == "v0002":
            raise RuntimeError("CUDA out of memory")
        return original(self, images)

    monkeypatch.setattr(MaskRcnnProposals, "propose", fails)
    swap.announce_version(swap.publish())
    assert "fails on the last frames" in swap.node.health.status("", "active", {}).message
    assert swap.show() == "random"


def test_clip_buffer_waits_for_its_consumers(ros_domain_id: int) -> None:
    """If each node has a process of its own, a frame sent before they subscribe is lost."""
    arguments = ros_arguments(None, consumers="observer")
    with Graph(ros_domain_id, lambda c: [ClipBufferNode(context=c)], arguments) as made:
        made.start()
        node, frame = made.nodes["clip_buffer"], disc_frames(1)[0]
        made.send(frame)
        told = "frames wait: /clip_buffer/output/image is not subscribed by observer"
        made.wait(lambda: node.health.status("", "", {}).message == told, "the complaint")
        assert node.facts()["in flight"] == 0
        before = time.time_ns()
        images = made.observe(ImageMessage, "/clip_buffer/output/image", LINK_QOS)
        made.wait(lambda: images, "the frame")
        assert stamp_ns(images[0].header.stamp) == frame.stamp_ns
        made.wait(lambda: node.health.status("", "active", {}).message == "active", "the recovery")
        clips = made.observe(ClipFrames, "/clip_buffer/output/partial_clip", LINK_QOS)
        made.wait(lambda: clips, "the clip")
        assert stamp_ns(clips[0].received) > before  # the wait is not the age of the clip


def test_done_reaches_the_clip_buffer_of_another_process(graph: Graph) -> None:
    """The link from the selector back, over DDS rather than through the bus."""
    with Graph(
        graph.context.get_domain_id(),
        lambda c: [ClipBufferNode(context=c)],
        ros_arguments(None, consumers="none"),
    ) as alone:
        alone.start()
        node = alone.nodes["clip_buffer"]
        done = alone.observer.create_publisher(Header, "/selector/output/done", LINK_QOS)
        frame = disc_frames(1)[0]
        alone.send(frame)
        alone.wait(lambda: node.facts()["in flight"] == 1, "the frame to go out")
        done.publish(make_header(frame.stamp_ns, "camera"))
        alone.wait(lambda: node.facts()["in flight"] == 0, "the frame to be done")


# -------------------------------------------------------------------------------- diagnostics


def test_diagnostics_tell_a_failed_frame_until_the_next_one_succeeds(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.start()
    node = graph.nodes["background"]
    process, failing = node.process, [True]

    def out_of_memory(image: Any) -> None:
        if failing:
            failing.clear()
            raise RuntimeError("out of memory")
        process(image)

    monkeypatch.setattr(node, "process", out_of_memory)
    frames = disc_frames(2)
    graph.send(frames[0])
    graph.wait(lambda: not failing and node.health.counted("failures") == 1, "the failure")
    assert node.health.status("", "active", {}).message == "out of memory"
    graph.send(frames[1])
    graph.wait(lambda: node.health.counted("done") == 1, "the next frame")
    graph.wait(lambda: node.health.status("", "active", {}).message == "active", "the recovery")
    node.health.warn("an alarm of the node itself", "image")  # the name of its worker
    graph.send(disc_frames(3)[2])
    graph.wait(lambda: node.health.counted("done") == 2 and node._frames.idle, "another frame")
    assert node.health.status("", "active", {}).message == "an alarm of the node itself"


@pytest.mark.parametrize(
    "buffer", [{"max_in_flight": 16, "clip.length": 6, "stall_timeout_s": 0.5}], indirect=True
)
def test_clip_buffer_gives_up_a_lost_frame_while_others_are_finished(buffer: Buffer) -> None:
    """Else it would stay in flight for ever; the last frame of a clip may take longer."""
    node, wait = buffer.node, buffer.graph.wait
    lost, end = 2, 5
    for count, frame in enumerate(looped(disc_frames(6), 3)):
        buffer.send(frame)
        if count not in (lost, end):
            buffer.finish(frame)
        time.sleep(0.06)
    wait(lambda: node.health.counted("given up") == 1, "the lost frame to be given up")
    assert node.health.status("", "active", {}).message == "active"
    assert node.facts()["in flight"] == 1  # the end of the clip, while others were finished
    wait(lambda: node.health.counted("given up") == 2, "that nothing is finished")
    stall = (
        "1 frames given up after 0.5 s: none is finished any more. Of proposal, background, flow"
    )
    wait(lambda: node.health.status("", "", {}).message.startswith(stall), "the warning")
    assert node.facts()["in flight"] == 0


def test_diagnostics_tell_stamps_that_jump_back(buffer: Buffer) -> None:
    """As where a recording is played beside the camera: every clip has one frame."""
    graph, node = buffer.graph, buffer.node
    graph.camera(ReliabilityPolicy.BEST_EFFORT)  # a second publisher
    first, _, third = disc_frames(3)
    buffer.send(third)
    buffer.finish(third)
    buffer.send(first)
    buffer.finish(first)
    status = node.health.status("", "active", {})
    assert status.level == DiagnosticStatus.WARN
    told = "the stamp of frame 1 jumped back by 0.200 s, a new clip begins: 2 nodes publish"
    assert f"{told} /{TOPIC}" in status.message
    assert node.health.counted("stamps jumped back") == 1


def test_diagnostics_tell_repeated_stamps(graph: Graph) -> None:
    graph.start()
    buffer = graph.nodes["clip_buffer"]
    (frame,) = disc_frames(1)
    graph.feed([frame, frame])
    assert "repeats the stamp" in buffer.health.status("", "active", {}).message
    assert buffer.trigger_deactivate() == SUCCESS
    assert buffer.health.counted("dropped") == 1  # "since activation", until the next one
    assert buffer.trigger_activate() == SUCCESS
    assert buffer.health.counted("dropped") == 0


def test_image_transport_is_set_in_a_namespace_too(
    ros_domain_id: int, weights: dict[str, Path]
) -> None:
    """As `active_vision.launch.py` does."""
    given = ros_arguments(weights, image_transport="compressed")
    given += ["-r", "__ns:=/robot1"]
    with Graph(ros_domain_id, lambda context: compose(context=context), given) as made:
        buffer = made.nodes["clip_buffer"]
        assert buffer.get_fully_qualified_name() == "/robot1/clip_buffer"
        assert buffer.settings.image_transport == "compressed"
