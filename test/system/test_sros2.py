"""The shipped SROS2 policy: a keystore is made of it, and DDS security enforces it.

`ros2 security` comes with an installed ROS; elsewhere a program `ros2` on the PATH can run sros2
from its source. The Fast DDS of the wheels is built without DDS security, that of apt with it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from diagnostic_msgs.msg import DiagnosticArray
from support.networks import save_random_weights
from support.recordings import disc_frames
from support.ros import SETTINGS, SOMETIMES, TOPIC, Graph, ros_arguments

from benchmarks.graph_processes import graph_processes
from gbopt_ros.io.resources import find_resource
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.weights import BACKGROUND, PROPOSALS
from gbopt_ros.msg import SelectedMasks
from gbopt_ros.nodes.composed import COMPOSED
from gbopt_ros.nodes.learner import LearnerNode
from gbopt_ros.nodes.objects_3d import Objects3dNode
from gbopt_ros.nodes.player import looped
from gbopt_ros.nodes.wiring import DEPTH, enclave, remapping

UPDATE = "learner/output/model_update"
PERCEPTION, LEARNER = (enclave(program)[1] for program in ("composed", "learner"))
CAMERA = "/camera"
POLICY_OF_THE_CAMERA = f"""
<policy version="0.2.0"><enclaves><enclave path="{CAMERA}"><profiles>
  <profile ns="/" node="observer">
    <topics publish="ALLOW">
      <topic>rosout</topic><topic>parameter_events</topic><topic>{TOPIC}</topic>
    </topics>
    <topics subscribe="ALLOW">
      <topic>diagnostics</topic><topic>selector/output/masks</topic>
    </topics>
    <services reply="ALLOW"><service>observer/*</service></services>
  </profile>
</profiles></enclave></enclaves></policy>
"""
# Publishes on the camera topic and a model update; writes how many subscribers each has, or null
# where it may not publish.
SENDER = f"""
import json, os, sys, time
import rclpy
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from gbopt_ros.msg import ModelUpdate
from gbopt_ros.nodes.base import LATCHED_QOS

rclpy.init(args=sys.argv)
node = rclpy.create_node(
    "sender", start_parameter_services=False, enable_rosout=False,
    parameter_overrides=[Parameter("start_type_description_service", value=False)],
)
readers = {{}}
for kind, topic in ((Image, "{TOPIC}"), (ModelUpdate, "{UPDATE}")):
    try:
        publisher = node.create_publisher(kind, topic, LATCHED_QOS)
    except Exception:
        readers[topic] = None
        continue
    publisher.publish(kind())
    end = time.monotonic() + float(os.environ["PATIENCE_S"])
    while not publisher.get_subscription_count() and time.monotonic() < end:
        time.sleep(0.1)
    readers[topic] = publisher.get_subscription_count()
print(json.dumps(readers))
"""


def security(*arguments: str | Path) -> str:
    """Run `ros2 security`; returns what it writes."""
    command = ["ros2", "security", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(params=["/"])
def keystore(request: pytest.FixtureRequest, tmp_path: Path, ros_domain_id: int) -> Path:
    """A keystore of the shipped policy, for the domain of the test and a namespace."""
    if (
        shutil.which("ros2") is None
        or subprocess.run(["ros2", "security", "--help"], capture_output=True).returncode
    ):
        pytest.skip("no `ros2 security`: apt install ros-jazzy-sros2")
    policy = tmp_path / "policy.xml"
    shipped = find_resource("config/sros2_policy.xml").read_text(encoding="utf-8")
    policy.write_text(shipped.replace('ns="/"', f'ns="{request.param}"'), encoding="utf-8")
    path = tmp_path / "keystore"
    security("create_keystore", path)
    # Compares the policy with the schema of sros2, and the permissions with that of DDS.
    security("generate_artifacts", "-k", path, "-p", policy)
    return path


def permissions(keystore: Path, name: str) -> dict[str, set[str]]:
    """The DDS topics that the signed permissions of an enclave allow to `publish`, `subscribe`."""
    folder = keystore / "enclaves" / name.lstrip("/")
    authority = keystore / "public" / "permissions_ca.cert.pem"
    verified = subprocess.run(
        ["openssl", "smime", "-verify", "-text", "-in", folder / "permissions.p7s",
         "-CAfile", authority],
        capture_output=True, check=True,
    )  # fmt: skip
    (grant,) = ET.fromstring(verified.stdout).iter("grant")
    assert grant.findtext("subject_name") == f"CN={name}"
    assert grant.findtext("default") == "DENY"
    return {
        right: {topic.text or "" for topic in grant.findall(f"./allow_rule/{right}/topics/topic")}
        for right in ("publish", "subscribe")
    }


@pytest.mark.parametrize(
    ("keystore", "namespace"), [("/", "/"), ("/robot", "/robot")], indirect=["keystore"]
)
def test_permissions_are_what_the_nodes_need(
    keystore: Path, namespace: str, ros_domain_id: int, tmp_path: Path
) -> None:
    assert {*security("list_enclaves", keystore).split()} == {LEARNER, PERCEPTION}
    allowed = {name: permissions(keystore, name) for name in (LEARNER, PERCEPTION)}
    (may_announce,) = (n for n in allowed if any(UPDATE in t for t in allowed[n]["publish"]))
    assert may_announce == LEARNER
    arguments = ros_arguments(save_random_weights(tmp_path), store=tmp_path / "store")
    arguments += ["-r", f"__ns:={namespace}", *remapping(DEPTH, "camera/depth/image_raw")]

    def make(context: rclpy.Context) -> list[object]:
        """Every node with its own subscriptions, as in processes of their own."""
        return [kind(context=context) for kind in (LearnerNode, Objects3dNode, *COMPOSED)]

    found: dict[str, dict[str, set[str]]] = {
        name: {"publish": set(), "subscribe": set()} for name in allowed
    }
    with Graph(ros_domain_id, make, arguments) as graph:
        graph.start()
        for name in graph.nodes:
            of_enclave = found[enclave(name)[1]]
            for right, kind in (("publish", "publisher"), ("subscribe", "subscriber")):
                listing = getattr(graph.observer, f"get_{kind}_names_and_types_by_node")
                named = listing(name, namespace, no_demangle=True)
                of_enclave[right] |= {topic for topic, _ in named}
    sometimes = {f"rt{topic}" for topic in SOMETIMES}
    for name, rights in allowed.items():
        for right, topics in rights.items():
            assert found[name][right] <= topics, (name, right)
            unused = {topic.replace("/robot/", "/") for topic in topics - found[name][right]}
            assert unused - sometimes == {"ros_discovery_info"}, (name, right)


@pytest.fixture
def secured(keystore: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The keystore, in force for this process and its children, with an enclave for a camera."""
    policy = keystore.with_name("camera.xml")
    policy.write_text(POLICY_OF_THE_CAMERA, encoding="utf-8")
    security("generate_artifacts", "-k", keystore, "-p", policy)
    monkeypatch.setenv("ROS_SECURITY_KEYSTORE", str(keystore))
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    monkeypatch.setenv("ROS_SECURITY_STRATEGY", "Enforce")
    probe = subprocess.run(
        [sys.executable, "-c", SENDER, "--ros-args", "--enclave", CAMERA],
        capture_output=True, text=True, env={**os.environ, "PATIENCE_S": "0"},
    )  # fmt: skip
    if "the security libraries" in probe.stderr:
        pytest.skip("this Fast DDS is built without DDS security; that of apt has it")
    assert probe.returncode == 0, probe.stderr
    return keystore


def subscribers(**enclaves: str | None) -> dict[str, dict[str, int | None]]:
    """What `SENDER` finds in each enclave; None is without security."""
    environment = {**os.environ, "PATIENCE_S": "8"}  # they find each other in less than one
    senders = {
        name: subprocess.Popen(
            [sys.executable, "-c", SENDER, "--ros-args", "--enclave", path or "/"],
            stdout=subprocess.PIPE, text=True,
            env={**environment, "ROS_SECURITY_ENABLE": "true" if path else "false"},
        )
        for name, path in enclaves.items()
    }  # fmt: skip
    return {name: json.loads(sender.communicate()[0]) for name, sender in senders.items()}


@pytest.mark.timeout(900)
def test_enforced_policy_lets_the_graph_work_and_keeps_others_out(
    secured: Path, ros_domain_id: int, tmp_path: Path
) -> None:
    weights = save_random_weights(tmp_path)
    models = ModelStore(tmp_path / "store")
    version = models.publish(*load_mask_rcnn(weights[PROPOSALS]), {"gate": {"passed": True}})
    parameters = {
        **SETTINGS, "proposal.weights": weights[PROPOSALS], "store": models.root, "device": "cpu",
        "background.weights": weights[BACKGROUND], "train_every_clips": 0, "consumers": "none",
    }  # fmt: skip
    given = {name.replace(".", "__"): value for name, value in parameters.items()}
    with (
        graph_processes(("composed", "learner"), **given),
        Graph(ros_domain_id, arguments=["--ros-args", "--enclave", CAMERA]) as graph,
    ):
        masks = graph.observe(SelectedMasks, "/selector/output/masks")
        arrays = graph.observe(DiagnosticArray, "/diagnostics")
        frames = looped(disc_frames(4), 0)

        def works() -> bool:
            """The update of the learner serves, and the learner has a clip."""
            graph.send(next(frames))
            statuses = [status for array in arrays for status in array.status]
            facts = [{pair.key: pair.value for pair in status.values} for status in statuses]
            stored = any(int(of_one.get("clips stored", 0)) > 0 for of_one in facts)
            return stored and any(each.model_version == version.version for each in masks)

        graph.wait(works, "masks of the announced network and a clip of the learner", step_s=0.2)
        assert subscribers(
            stranger=None, camera=CAMERA, perception=PERCEPTION, learner=LEARNER
        ) == {
            "stranger": {TOPIC: 0, UPDATE: 0},
            "camera": {TOPIC: 1, UPDATE: None},
            "perception": {TOPIC: None, UPDATE: None},
            "learner": {TOPIC: None, UPDATE: 1},
        }
