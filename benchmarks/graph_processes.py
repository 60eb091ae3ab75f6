"""Starts the live graph as processes, and records what it publishes. `test/system` uses it too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from gbopt_ros.msg import ClipFrames, ClipStatus, SelectedMasks
from gbopt_ros.nodes.base import RESULT_QOS
from gbopt_ros.nodes.messages import Stamped, encode_image, make_header, stamp_ns
from gbopt_ros.nodes.wiring import CAMERA
from gbopt_ros.structures import Frame, GboptError

TOPIC = "camera/image_raw"
COMPOSED = ("composed",)
SEPARATE = ("selector", "flow", "background", "proposal", "clip_buffer")

Masks = dict[int, list[str]]
"""Run lengths of the masks of a frame, by its stamp."""
P = TypeVar("P", bound="Participant")


@contextmanager
def graph_processes(
    modules: tuple[str, ...],
    *,
    checkout: Path | None = None,
    log: IO[bytes] | None = None,
    **parameters: object,
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run modules of `gbopt_ros.nodes`, a process each, until the block ends.

    Args:
        modules: `COMPOSED`, `SEPARATE` or others.
        checkout: runs them in its environment; by default this process's.
        log: takes what they write to stdout and stderr.
        parameters: ROS parameters of all nodes; `__` stands for the dot in a name.

    Raises:
        GboptError: the checkout has no environment.
    """
    arguments = ["--ros-args", "-r", f"{CAMERA[0]}:{CAMERA[1]}:={TOPIC}"]
    for name, value in parameters.items():
        arguments += ["-p", f"{name.replace('__', '.')}:={value}"]
    python, environment = (
        (sys.executable, None) if checkout is None else checkout_environment(checkout)
    )
    processes = [
        subprocess.Popen(
            [python, "-m", "gbopt_ros.nodes", module, *arguments],
            cwd=checkout, env=environment, stdout=log, stderr=log,
        )
        for module in modules
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait()


def checkout_environment(checkout: Path) -> tuple[str, dict[str, str]]:
    """The interpreter, and the environment variables, with which the package of a checkout runs.

    Messages are compiled into the virtual environment of a checkout, so that each needs its own.

    Raises:
        GboptError: it has none.
    """
    python = checkout / ".venv" / "bin" / "python"
    if not python.exists():
        raise GboptError(f"{checkout} has no .venv with its messages: run `make setup` there")
    variables = dict(os.environ)
    # The ROS wheels set these for the environment of this process.
    variables.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    libraries = variables.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    foreign = [path for path in libraries if path and not path.startswith(sys.prefix)]
    variables["LD_LIBRARY_PATH"] = os.pathsep.join(foreign)
    before = variables.get("PYTHONPATH")
    variables["PYTHONPATH"] = os.pathsep.join([str(checkout), *([before] if before else [])])
    return str(python), variables


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, of all its threads."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Memory of a process, as it is resident."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def proportional_bytes(pid: int) -> int:
    """Memory of a process; of pages that n processes share, it has an n-th (PSS)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return 1024 * int(rollup.partition("\nPss:")[2].split()[0])


class Participant:
    """A ROS node in a context of its own, which plays the camera and spins.

    Args:
        namespace: of the graph.
    """

    def __init__(self, namespace: str = "") -> None:
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context)
        self.node = rclpy.create_node("observer", context=self.context, namespace=namespace)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self._camera: Any = None

    def __enter__(self: P) -> P:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def send(self, frame: Frame) -> None:
        """Publish a frame as the camera of the graph."""
        if self._camera is None:
            self._camera = self.node.create_publisher(Image, TOPIC, 10)
        header = make_header(frame.stamp_ns, frame.frame_id)
        self._camera.publish(encode_image(Stamped(header, frame.image)))

    def call(self, service_type: Any, name: str, **request: Any) -> Any:
        """The answer of a service; None if there is none within 60 s."""
        client = self.node.create_client(service_type, name)
        try:
            self.spin_until(client.service_is_ready, 60)
            self.spin_for(0.5)  # a server answers only clients that it has found
            answer = client.call_async(service_type.Request(**request))
            self.spin_until(answer.done, 60)
            return answer.result()
        finally:
            self.node.destroy_client(client)

    def spin_until(self, condition: Callable[[], bool], patience_s: float) -> None:
        """Receive messages until the condition holds, `patience_s` seconds at most."""
        deadline = time.monotonic() + patience_s
        while not condition() and time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.1)

    def spin_for(self, seconds: float) -> None:
        """Receive messages for a while."""
        self.spin_until(lambda: False, seconds)


class Observer(Participant):
    """Records the masks, clips and statuses that the graph publishes, while it spins.

    Attributes:
        masks: run lengths of each frame.
        versions: model version of each frame, in the order of arrival.
        clips, statuses: messages, in the order of arrival.
    """

    def __init__(self, namespace: str = "") -> None:
        super().__init__(namespace)
        self.masks: Masks = {}
        self.versions: list[str] = []
        self.clips: list[Any] = []
        self.statuses: list[Any] = []
        subscribe = self.node.create_subscription
        subscribe(ClipFrames, "clip_buffer/output/clips", self.clips.append, RESULT_QOS)
        subscribe(ClipStatus, "selector/output/status", self.statuses.append, RESULT_QOS)
        subscribe(SelectedMasks, "selector/output/masks", self._on_masks, RESULT_QOS)

    def wait_for_graph(self) -> None:
        """Wait until the selector is there and has found this observer."""
        topic = "selector/output/masks"
        self.spin_until(lambda: self.node.count_publishers(topic) > 0, 120)
        self.spin_for(2.0)

    def _on_masks(self, message: Any) -> None:
        self.masks[stamp_ns(message.header.stamp)] = [mask.mask.counts for mask in message.masks]
        self.versions.append(message.model_version)
