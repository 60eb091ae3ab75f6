"""What an operator sees and sets: levels of the diagnostics, the log, topics, limits of time."""

from __future__ import annotations

import re
import time
from array import array
from pathlib import Path
from typing import Any

import cv2
import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, PointCloud2
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from support.networks import save_random_weights
from support.recordings import disc_frames
from support.ros import TOPIC, Graph, ros_arguments

from gbopt_ros.msg import ClipFrames, SelectedMasks
from gbopt_ros.nodes.base import LINK_QOS
from gbopt_ros.nodes.clip_buffer import ClipBufferNode, _Arrival
from gbopt_ros.nodes.composed import compose
from gbopt_ros.nodes.messages import Stamped, encode_image, make_header, make_time, stamp_ns
from gbopt_ros.nodes.selector import SelectorNode
from gbopt_ros.structures import ClipEnd

CLIPS = "/clip_buffer/output/clips"
COMPRESSED_TO_BASE = f"/{TOPIC}/compressed to /{TOPIC}"


def clip_buffer(domain: int, **parameters: Any) -> Graph:
    arguments = ros_arguments(None, consumers="none", **parameters)
    return Graph(domain, lambda c: [ClipBufferNode(context=c)], arguments)


def told(node: Any) -> tuple[bytes, str]:
    """Level and message of the diagnostics."""
    status = node.health.status("", "active", {})
    return status.level, status.message


def set_parameter(node: Any, name: str, value: Any) -> None:
    assert node.set_parameters([Parameter(name, value=value)])[0].successful


def test_silent_camera_is_an_error_that_names_the_likely_cause(
    ros_domain_id: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with clip_buffer(ros_domain_id, idle_timeout_s=0.2) as graph:
        similar = graph.observer.create_publisher(ImageMessage, "camera/image_rect", 1)
        graph.start()
        node = graph.nodes["clip_buffer"]
        camera = f"/{TOPIC} (sensor_msgs/msg/Image, best effort, depth 5)"
        cause = "nobody publishes it; there is /camera/image_rect (sensor_msgs/msg/Image)"

        def is_told(text: str) -> bool:
            level, message = told(node)
            return level == DiagnosticStatus.ERROR and text in message

        graph.wait(lambda: is_told(f"on {camera}: {cause}"), "the similar topic")
        node._arrivals.put(_Arrival(None, -1, time.time_ns(), ClipEnd.GAP))  # the end of a clip
        graph.wait(lambda: node._arrivals.idle, "the worker")
        assert is_told(f"on {camera}: {cause}")  # until the next frame, whatever else is done
        graph.observer.destroy_publisher(similar)
        for kind, advice in (
            (CompressedImage, f"set image_transport to compressed and remap {COMPRESSED_TO_BASE}"),
            (PointCloud2, "name a topic of sensor_msgs/msg/Image"),
        ):
            cause = f"it is published as sensor_msgs/msg/{kind.__name__}: {advice}"
            with Graph(ros_domain_id) as another:
                another.observer.create_publisher(kind, TOPIC, 1)
                told_so = f"no frame yet on {camera}: {cause}"
                graph.wait(lambda told_so=told_so: is_told(told_so), "the wrong type")
        set_parameter(node, "idle_timeout_s", 600.0)
        graph.camera().publish(ImageMessage(encoding="rgb8"))
        graph.wait(lambda: "the image has 0 pixels" in told(node)[1], "the empty image")
        graph.send(disc_frames(1)[0])
        lost = DiagnosticStatus.WARN, "1 of the last 2 frames dropped"
        graph.wait(lambda: told(node) == lost, "the recovery")
        set_parameter(node, "idle_timeout_s", 0.2)
        graph.wait(lambda: is_told("1 publish it (reliable), but nothing arrives"), "the silence")
    log = capfd.readouterr().err
    assert f"[clip_buffer]: active: camera {camera}, device cpu" in log
    assert "[WARN]" in log and "no frame yet on" in log


@pytest.mark.parametrize("given", [TOPIC, f"{TOPIC}/compressed"])
def test_compressed_transport_takes_the_base_topic_and_the_qos_in_force_is_told(
    ros_domain_id: int, given: str, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--ros-args", "-r", f"clip_buffer:~/input/image:={given}"]
    arguments += ["-p", "image_transport:=compressed"]
    for policy in ("reliability:=reliable", "depth:=2"):
        arguments += ["-p", f"qos_overrides./{TOPIC}/compressed.subscription.{policy}"]
    with Graph(ros_domain_id, lambda c: [ClipBufferNode(context=c)], arguments) as graph:
        graph.start()
        assert graph.nodes["clip_buffer"].count_subscribers(f"/{TOPIC}/compressed") == 1
    camera = f"/{TOPIC}/compressed (sensor_msgs/msg/CompressedImage, reliable, depth 2)"
    assert f"active: camera {camera}, device cpu" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("transport", "kind", "given", "advice", "followed"),
    [
        (
            "raw", CompressedImage, f"{TOPIC}/compressed", "set image_transport to compressed",
            ["-p", "image_transport:=compressed"],
        ),
        (
            "raw", CompressedImage, TOPIC,
            f"set image_transport to compressed and remap {COMPRESSED_TO_BASE}",
            ["-p", "image_transport:=compressed", "-r", COMPRESSED_TO_BASE.replace(" to ", ":=")],
        ),
        (
            "compressed", ImageMessage, f"{TOPIC}/compressed",
            f"set image_transport to raw and the camera topic to /{TOPIC}/compressed",
            ["-p", "image_transport:=raw"],
        ),
    ],
    ids=["compressed", "compressed on another name", "raw"],
)  # fmt: skip
def test_advice_on_a_wrong_image_transport_helps(
    ros_domain_id: int, transport: str, kind: Any, given: str, advice: str, followed: list[str]
) -> None:
    (first,) = disc_frames(1)
    header = make_header(first.stamp_ns, "camera")
    message = encode_image(Stamped(header, first.image))
    if kind is CompressedImage:
        png = cv2.imencode(".png", first.image)[1].tobytes()
        message = CompressedImage(header=header, format="png", data=array("B", png))
    arguments = ["--ros-args", "-r", f"clip_buffer:~/input/image:=/{given}"]
    arguments += ["-p", "consumers:=none", "-p", "idle_timeout_s:=0.2"]
    with Graph(ros_domain_id) as camera:
        publisher = camera.observer.create_publisher(kind, given, 10)
        for more, is_right in (["-p", f"image_transport:={transport}"], False), (followed, True):
            with Graph(
                ros_domain_id, lambda c: [ClipBufferNode(context=c)], [*arguments, *more]
            ) as graph:
                graph.start()
                node = graph.nodes["clip_buffer"]
                if not is_right:
                    graph.wait(lambda node=node: told(node)[1].endswith(advice), "the advice")
                    continue

                def arrives(node: Any = node) -> bool:  # once the subscription is matched
                    publisher.publish(message)
                    return bool(node.health.counted("done"))

                graph.wait(arrives, "the frame", step_s=0.1)


def test_burst_waits_and_is_not_dropped(ros_domain_id: int) -> None:
    frames = disc_frames(16)
    with clip_buffer(ros_domain_id, max_in_flight=1, max_wait_s=60.0) as graph:
        graph.start()
        node = graph.nodes["clip_buffer"]
        images = graph.observe(ImageMessage, "/clip_buffer/output/image", LINK_QOS)
        done = graph.observer.create_publisher(Header, "/selector/output/done", LINK_QOS)
        for count, frame in enumerate(frames[:12], start=1):
            graph.send(frame)
            graph.wait(lambda count=count: node.facts()["received"] == count, "the frame")
        for count, frame in enumerate(frames[:12], start=1):
            graph.wait(lambda count=count: len(images) == count, "the frame to be sent")
            done.publish(make_header(frame.stamp_ns, "camera"))
        assert [stamp_ns(image.header.stamp) for image in images] == [
            frame.stamp_ns for frame in frames[:12]
        ]
        assert node.health.counted("dropped") == 0 and told(node)[1] == "active"

        set_parameter(node, "max_wait_s", 0.2)
        for frame in frames[12:]:
            graph.send(frame)
        graph.wait(lambda: node.facts()["received"] == 16 and len(images) == 13, "the first one")
        time.sleep(0.3)
        done.publish(make_header(frames[12].stamp_ns, "camera"))
        graph.wait(lambda: node.health.counted("dropped") == 2, "the old frames to be dropped")
        graph.wait(lambda: len(images) == 14, "the newest one, however old")
        graph.wait(lambda: told(node)[0] == DiagnosticStatus.WARN, "the warning")
        assert re.fullmatch(r"2 of the last \d+ frames dropped", told(node)[1])


def test_clip_that_seems_too_old_tells_of_clocks_that_differ(ros_domain_id: int) -> None:
    arguments = ros_arguments(None, stall_timeout_s=10.0)
    with Graph(ros_domain_id, lambda c: [SelectorNode(context=c)], arguments) as graph:
        graph.start()
        node = graph.nodes["selector"]
        clips = graph.observer.create_publisher(ClipFrames, CLIPS, LINK_QOS)
        header = make_header(5, "camera")

        def announce(seconds_ago: float) -> None:
            received = make_time(time.time_ns() - int(seconds_ago * 1e9))
            message = ClipFrames(clip_id=3, header=header, stamps=[header.stamp], received=received)
            message.frame_indices = [0]
            clips.publish(message)

        announce(100.0)  # to a selector that has just started: an old announcement
        graph.wait(lambda: node.health.counted("clips left out") == 1, "the clip")
        assert told(node) == (DiagnosticStatus.OK, "active")
        node._start -= 60.0
        for seconds_ago, said in ((100.0, "ended 100 s ago"), (-50.0, "ended -50 s ago")):
            announce(seconds_ago)
            graph.wait(lambda said=said: said in told(node)[1], "the warning")
        assert node.health.counted("clips left out") == 2  # a future one is not


def test_renamed_nodes_keep_their_wiring_and_old_clips_are_dropped_whole(
    ros_domain_id: int, tmp_path: Path
) -> None:
    arguments = ros_arguments(save_random_weights(tmp_path), **{"clip.length": 2})
    for old, new in (("selector", "chooser"), ("proposal", "proposer")):
        arguments += ["-r", f"{old}:__node:={new}"]
    with Graph(ros_domain_id, lambda context: compose(context=context), arguments) as graph:
        graph.start()
        selector = graph.nodes["chooser"]
        masks = graph.observe(SelectedMasks, "/selector/output/masks")
        frames = disc_frames(6)
        graph.feed(frames[:2])
        graph.wait(lambda: len(masks) == 2, "the masks")
        set_parameter(selector, "max_age_s", 1e-9)
        graph.feed(frames[2:4])
        graph.wait(lambda: selector.health.counted("clips too old") == 1, "the old clip")
        assert "clip 1 was given up" in told(selector)[1]
        set_parameter(selector, "max_age_s", 0.0)
        graph.feed(frames[4:])
        graph.wait(lambda: len(masks) == 4, "the next masks")
        assert [m.frame_index for m in masks] == [0, 1, 4, 5]
