"""A learner and a proposal node that share no folder: versions come over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")
pytest.importorskip("flask", reason="pip install 'gbopt_ros[review]'")

from std_srvs.srv import Trigger
from support.networks import save_random_weights
from support.ros import Graph, ros_arguments

from gbopt_ros.learning.store.model_store import ModelStore, ModelVersion
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.weights import PROPOSALS, sha256_of
from gbopt_ros.msg import ModelUpdate
from gbopt_ros.nodes import proposal
from gbopt_ros.nodes.base import LATCHED_QOS
from gbopt_ros.nodes.learner import LearnerNode
from gbopt_ros.nodes.proposal import ProposalNode
from gbopt_ros.web.models import models_app
from gbopt_ros.web.server import listen

UPDATE = "/learner/output/model_update"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_random_weights(tmp_path_factory.mktemp("weights"))


class Two:
    """The learner's store, which can be served, and the robot's."""

    def __init__(self, folder: Path, weights: dict[str, Path]) -> None:
        self.learner, self.robot = (ModelStore(folder / name) for name in ("learner", "robot"))
        self._network, self._info = load_mask_rcnn(weights[PROPOSALS])
        self._server = listen(models_app(self.learner), "127.0.0.1", 0)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}/"

    def publish(self, passed: bool = True) -> ModelVersion:
        info = replace(self._info, version=self.learner.current_name() or self._info.version)
        return self.learner.publish(self._network, info, {"gate": {"passed": passed}})

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Answer requests; else they wait."""
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()

    def close(self) -> None:
        self._server.server_close()


@pytest.fixture
def two(tmp_path: Path, weights: dict[str, Path]) -> Iterator[Two]:
    made = Two(tmp_path, weights)
    yield made
    made.close()


def graph_of(
    domain: int, weights: dict[str, Path], two: Two, make: Callable[[Any], list[Any]], **more: Any
) -> Graph:
    parameters = {
        "learner:store": two.learner.root, "proposal:store": two.robot.root,
        "learner:url": two.url, "proposal:allowed_hosts": f"elsewhere:80, {two.host}",
    } | more  # fmt: skip
    return Graph(domain, make, ros_arguments(weights, **parameters))


def test_a_robot_follows_the_learner_of_another_machine(
    ros_domain_id: int, weights: dict[str, Path], two: Two
) -> None:
    """The learner announces what it serves, and a rollback; the robot has a store of its own."""
    version = two.publish()
    with (
        two.serving(),
        graph_of(
            ros_domain_id, weights, two,
            lambda context: [ProposalNode(context=context), LearnerNode(context=context)],
        ) as made,
    ):  # fmt: skip
        made.start()
        node = made.nodes["proposal"]
        made.wait(lambda: node.facts()["model version"] == "v0001", "the version")
        current = two.robot.verified_current()
        assert current is not None and current.manifest == version.manifest
        assert current.path.read_bytes() == version.path.read_bytes()
        assert made.call(Trigger, "/learner/rollback").success
        made.wait(lambda: node.facts()["model version"] == "random", "the first network")
        assert two.robot.current() is None and node.health.counted("updates refused") == 0


class Robot:
    """A proposal node that is told of versions by whoever wants to."""

    def __init__(self, graph: Graph, two: Two) -> None:
        graph.start()
        self.graph, self.two, self.node = graph, two, graph.nodes["proposal"]
        self.updates = graph.observer.create_publisher(ModelUpdate, UPDATE, LATCHED_QOS)

    def tell(self, version: str, sha256: str, url: str | None = None) -> None:
        url = self.two.url if url is None else url
        before = self._looked_at()
        self.updates.publish(ModelUpdate(version=version, sha256=sha256, url=url))
        self.graph.wait(lambda: self._looked_at() > before, "the update to be looked at")

    def _looked_at(self) -> int:
        counted = self.node.health.counted
        return int(counted("updates") + counted("updates refused"))

    @property
    def serving(self) -> object:
        return self.node.facts()["model version"]


def test_a_stranger_decides_nothing_with_an_address(
    ros_domain_id: int, weights: dict[str, Path], two: Two
) -> None:
    version = two.publish()
    digest = version.manifest["sha256"]
    port = two.host.partition(":")[2]
    with (
        two.serving(),
        graph_of(
            ros_domain_id, weights, two, lambda context: [ProposalNode(context=context)]
        ) as made,
    ):
        robot = Robot(made, two)
        robot.tell("v0001", digest, f"http://localhost:{port}/")  # another name is another host
        robot.tell("v0001", digest, "http://evil.example/")
        robot.tell("v0001", digest, "file:///etc/passwd")
        robot.tell("v0001", digest, "")
        robot.tell("v0002", digest)  # not what the learner serves
        robot.tell("v0001", "0" * 64)
        assert (robot.serving, two.robot.versions()) == ("random", [])
        robot.tell("v0001", digest)
        assert robot.serving == "v0001"
        refused = two.publish(passed=False)
        robot.tell("v0002", refused.manifest["sha256"])
        assert robot.serving == "v0001" and len(two.robot.versions()) == 1
        # The learner's store says that a version serves, so the first network does not come back.
        two.learner.rollback()
        robot.tell("random", sha256_of(weights[PROPOSALS]))
        assert robot.serving == "v0001"


def test_a_machine_that_does_not_answer_is_asked_again(
    ros_domain_id: int, weights: dict[str, Path], two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposal, "_RETRY_S", 0.2)
    version = two.publish()
    two.close()
    with graph_of(
        ros_domain_id, weights, two, lambda context: [ProposalNode(context=context)]
    ) as made:
        robot = Robot(made, two)
        robot.tell("v0001", version.manifest["sha256"])
        assert robot.serving == "random"
        port = int(two.host.partition(":")[2])
        two._server = listen(models_app(two.learner), "127.0.0.1", port)
        with two.serving():
            made.wait(lambda: robot.serving == "v0001", "the version")
