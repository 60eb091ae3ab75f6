"""A learner and a robot in two network namespaces, which share a cable and no folder.

.venv/bin/python -m pytest test/system/test_network_namespaces.py -s
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")
pytest.importorskip("flask", reason="pip install 'gbopt_ros[review]'")

from support.networks import save_random_weights
from support.ros import ros_arguments

from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.weights import PROPOSALS

HOST = "10.231.7.1:8611"
PATIENCE_S = 120
ROLL_BACK = """
import rclpy
from std_srvs.srv import Trigger
rclpy.init()
node = rclpy.create_node("operator")
client = node.create_client(Trigger, "/learner/rollback")
assert client.wait_for_service(60)
done = client.call_async(Trigger.Request())
rclpy.spin_until_future_complete(node, done, timeout_sec=60)
assert done.result().success, done.result()
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def cable() -> Iterator[tuple[str, str]]:
    """The names of two network namespaces with a cable between them."""
    if shutil.which("ip") is None:
        pytest.skip("no `ip` to make network namespaces with")
    names = [f"gbopt-{uuid.uuid4().hex[:6]}" for _ in range(2)]
    try:
        for name in names:
            ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
    try:
        ends = [f"v{name[-6:]}" for name in names]
        ip("link", "add", ends[0], "netns", names[0], "type", "veth",
           "peer", "name", ends[1], "netns", names[1])  # fmt: skip
        for number, (name, end) in enumerate(zip(names, ends, strict=True), start=1):
            ip("-n", name, "address", "add", f"10.231.7.{number}/24", "dev", end)
            for each in ("lo", end):  # without `lo` the middleware sends nothing at all
                ip("-n", name, "link", "set", each, "up")
        yield names[0], names[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def within(namespace: str, hidden: Path) -> list[str]:
    """Python in a namespace, with a memory of its own to share, and without a folder."""
    mounts = f"for each in /dev/shm {hidden}; do mount -t tmpfs none $each || exit 1; done"
    return ["ip", "netns", "exec", namespace, "sh", "-c", f'{mounts}; exec "$@"', "sh",
            sys.executable]  # fmt: skip


@contextmanager
def started(log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended, and must end well; `log` gets what it writes."""
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            yield process
        finally:
            process.terminate()
    assert process.returncode == 0, log.read_text()


def wait_for(text: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while text not in (written := log.read_text()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {text!r} in:\n{written}"
        time.sleep(0.1)


def test_a_robot_follows_a_learner_across_a_cable(
    cable: tuple[str, str], ros_domain_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The announcement crosses by DDS, the version by HTTP, and a rollback by a service."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    weights = save_random_weights(tmp_path)
    learner, robot = (ModelStore(tmp_path / name) for name in ("learner", "robot"))
    published = learner.publish(*load_mask_rcnn(weights[PROPOSALS]), {"gate": {"passed": True}})
    robot.root.mkdir()
    parameters = {
        "learner:store": learner.root, "proposal:store": robot.root,
        "learner:url": f"http://{HOST}/", "proposal:allowed_hosts": HOST,
    }  # fmt: skip
    arguments = ros_arguments(weights, **parameters)
    of_learner, of_robot = within(cable[0], robot.root), within(cable[1], learner.root)
    logs = {name: tmp_path / f"{name}.log" for name in ("server", "learner", "proposal")}
    address, port = HOST.split(":")
    with ExitStack() as stack:

        def start(name: str, *command: str) -> None:
            stack.enter_context(started(logs[name], *command))

        start("server", *of_learner, "-m", "gbopt_ros.cli", "serve-models", str(learner.root),
              "--host", address, "--port", port)  # fmt: skip
        wait_for(f"http://{HOST}/", logs["server"])
        start("proposal", *of_robot, "-m", "gbopt_ros.nodes", "proposal", *arguments)
        start("learner", *of_learner, "-m", "gbopt_ros.nodes", "learner", *arguments)
        wait_for("model v0001 serves now, random served before", logs["proposal"])
        subprocess.run([*of_robot, "-c", ROLL_BACK], check=True, timeout=PATIENCE_S)
        wait_for("model random serves now, v0001 served before", logs["proposal"])
    assert robot.versions()[0].manifest == published.manifest
    assert not robot.damaged()
