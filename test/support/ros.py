"""Real nodes for the tests: in a ROS context and domain of their own, spun on a thread."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy

from gbopt_ros.models.weights import BACKGROUND, PROPOSALS
from gbopt_ros.nodes.base import RESULT_QOS, PipelineNode
from gbopt_ros.nodes.messages import Stamped, encode_image, make_header, stamp_ns
from gbopt_ros.nodes.spin import SteadyExecutor
from gbopt_ros.nodes.wiring import CAMERA
from gbopt_ros.structures import Frame

PATIENCE_S = 120.0  # five processes that start at once on a busy machine take almost a minute
TOPIC = "camera/image_raw"
SOMETIMES = {
    *(f"/selector/output/{name}" for name in ("detections", "label_info", "vision_info")),
    "/objects_3d/output/detections", f"/{TOPIC}",
    f"/{TOPIC}/compressed", "/clock", "/tf", "/tf_static",
}  # fmt: skip
"""Topics of the SROS2 policy that a node has where vision_msgs is installed, where images are
compressed, or with a simulated clock or a frame."""
# Of the pipeline: little to compute.
PIPELINE = {
    "clip.length": 4, "selection.k": 4, "proposal.short_side": 64, "background.short_side": 64,
    "proposal.max_proposals": 8,
}  # fmt: skip
# A slow machine must not look like a silent camera or a dead network.
SETTINGS = PIPELINE | {"idle_timeout_s": 600.0, "stall_timeout_s": PATIENCE_S}


def ros_arguments(weights: dict[str, Path] | None, **parameters: Any) -> list[str]:
    """Command line with the camera, and parameters such as `**{"clip.length": 4}`."""
    values: dict[str, Any] = {**SETTINGS}
    if weights is not None:
        values |= {
            "proposal.weights": weights[PROPOSALS],
            "background.weights": weights[BACKGROUND],
        }
    arguments = ["--ros-args", "-r", f"{CAMERA[0]}:{CAMERA[1]}:={TOPIC}"]
    for name, value in (values | parameters).items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        arguments += ["-p", f"{name}:={text}"]
    return arguments


class Graph:
    """Nodes, an observer that records topics, and the thread that spins them.

    Args:
        namespace: of the observer.

    Attributes:
        seen: messages by topic, in the order of their arrival.
    """

    def __init__(
        self,
        domain: int,
        make: Callable[[rclpy.Context], Iterable[PipelineNode]] = lambda context: (),
        arguments: Sequence[str] = (),
        namespace: str = "",
    ) -> None:
        self.context = rclpy.Context()
        rclpy.init(args=["test", *arguments], context=self.context, domain_id=domain)
        self.executor = SteadyExecutor(context=self.context)
        self.nodes = {node.get_name(): node for node in make(self.context)}
        self.observer = rclpy.create_node(
            "observer", context=self.context, namespace=namespace, use_global_arguments=False
        )
        self.seen: defaultdict[str, list[Any]] = defaultdict(list)
        for node in (*self.nodes.values(), self.observer):
            self.executor.add_node(node)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="test executor")
        self._cameras: dict[ReliabilityPolicy, Any] = {}

    def __enter__(self) -> Graph:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
        self.observer.destroy_node()
        self.executor.shutdown()
        self.context.try_shutdown()

    def end(self) -> None:
        """End the nodes as a signal does, and the thread that spins."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        for node in self.nodes.values():
            node.close()

    def start(self) -> None:
        """Configure and activate all nodes, in their order."""
        for node in self.nodes.values():
            assert node.start(), f"{node.get_name()} did not start"

    def observe(self, message_type: Any, topic: str, qos: QoSProfile = RESULT_QOS) -> list[Any]:
        """Record a topic; returns the list that grows."""
        self.observer.create_subscription(message_type, topic, self.seen[topic].append, qos)
        self.wait(lambda: self.observer.count_publishers(topic) > 0, f"a publisher of {topic}")
        return self.seen[topic]

    def camera(self, reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE) -> Any:
        """The publisher of the camera topic, once somebody listens."""
        from sensor_msgs.msg import Image

        if reliability not in self._cameras:
            qos = QoSProfile(depth=10, reliability=reliability)
            self._cameras[reliability] = self.observer.create_publisher(Image, TOPIC, qos)
        publisher = self._cameras[reliability]
        self.wait(lambda: publisher.get_subscription_count() > 0, "a subscriber of the camera")
        return publisher

    def send(self, frame: Frame, **options: Any) -> None:
        header = make_header(frame.stamp_ns, frame.frame_id)
        self.camera(**options).publish(encode_image(Stamped(header, frame.image)))

    def feed(self, frames: Iterable[Frame], **options: Any) -> None:
        """Send frames one by one, each when the nodes are done with the previous one."""
        buffer = self.nodes["clip_buffer"]

        def taken() -> int:
            return buffer.health.counted("done") + buffer.health.counted("dropped")

        for frame in frames:
            before = taken()
            self.send(frame, **options)
            self.wait(lambda before=before: taken() > before, "the frame to arrive")
            self.wait(lambda: buffer.facts()["in flight"] == 0, "the frame to be done")

    def call(self, service_type: Any, name: str, **request: Any) -> Any:
        """The response of a service of this context.

        A server in another process may not know the client yet, and drop its answer.
        """
        client = self.observer.create_client(service_type, name)
        try:
            self.wait(client.service_is_ready, f"service {name}")
            future = client.call_async(service_type.Request(**request))
            self.wait(future.done, f"the answer of {name}")
            return future.result()
        finally:
            self.observer.destroy_client(client)

    @staticmethod
    def wait(
        condition: Callable[[], bool],
        what: str,
        patience_s: float = PATIENCE_S,
        step_s: float = 0.01,
    ) -> None:
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {patience_s:g} s for {what}"
            time.sleep(step_s)

    def _spin(self) -> None:
        while not self._stop.is_set():
            self.executor.spin_once(timeout_sec=0.05)


def counts_by_stamp(masks: Iterable[Any]) -> dict[int, list[str]]:
    """The run lengths of each frame of `SelectedMasks` messages."""
    return {stamp_ns(m.header.stamp): [mask.mask.counts for mask in m.masks] for m in masks}
