"""Publishes mask proposals for every frame; the network can be exchanged while frames flow."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from gbopt_ros.config import ProposalConfig
from gbopt_ros.learning.store.model_store import ModelStore, verify_version
from gbopt_ros.learning.store.pull import Unreachable
from gbopt_ros.learning.store.version import number
from gbopt_ros.learning.student import is_compared
from gbopt_ros.models.device import resolve_device
from gbopt_ros.models.weights import sha256_of
from gbopt_ros.msg import ModelUpdate
from gbopt_ros.nodes.base import LATCHED_QOS, LINK_QOS, FrameNode
from gbopt_ros.nodes.intra_process import IntraProcessBus
from gbopt_ros.nodes.messages import PROPOSALS, Stamped, VersionedProposals
from gbopt_ros.nodes.model_update import (
    FirstNetwork,
    announced_weights,
    check_proposals,
    pull_announced,
    served_by,
)
from gbopt_ros.nodes.settings import ProposalSettings
from gbopt_ros.nodes.spin import spin
from gbopt_ros.nodes.worker import Worker
from gbopt_ros.perception.load import load_proposal_network, load_proposals, proposal_weights
from gbopt_ros.structures import GboptError, Image, ProposalNetwork, Proposals

_RETRY_S = 10.0  # until a refused update is looked at again
_COMPARED_FRAMES = 3  # on the last ones a new network must agree with the one that serves


class ProposalNode(FrameNode):
    """Publishes `~/output/proposals`, by the network that `~/input/model_update` names last.

    Where the message names an address of an allowed host, the version is first pulled from there
    into the store. A new network is loaded on a thread of its own while the old one serves. It is
    checked there that the store serves it, that its file is the one that passed the gate, and that
    it proposes much the same on the last frames. Then it takes the place of the old one between two
    frames. If a check fails, the old network goes on serving. The two may be of different kinds,
    such as a teacher in an ONNX file and its student.
    """

    NAME = "proposal"
    # Single settings: those that say whether a student serves, and of the store.
    SECTIONS = ("proposal", "learning.student", "learning.student_clips", "learning.keep_versions")
    SETTINGS = ProposalSettings
    _network: ProposalNetwork | None = None
    _missed: Any = None  # the last update, if its machine did not answer
    _is_refused = False  # whether the last update was

    def __init__(self, bus: IntraProcessBus | None = None, **options: Any) -> None:
        self._recent: deque[tuple[Image, Proposals]] = deque(maxlen=_COMPARED_FRAMES)
        super().__init__(bus, **options)

    def load(self) -> None:
        path = proposal_weights(self.config)
        verify_version(path)
        self._network = load_proposal_network(self.config)
        self._first = FirstNetwork(path, self._network.version, sha256_of(path))
        self._sha256 = self._first.sha256
        self._path = path
        self._models = ModelStore(Path(self.settings.store).expanduser())
        self._output = self.output("~/output/proposals", PROPOSALS, LINK_QOS)
        self.timer(_RETRY_S, self._look_again)

    def activate(self) -> None:
        super().activate()
        self._cancel, self._missed, self._is_refused = threading.Event(), None, False
        self._updates: Worker[Any] = self.worker("update", self._exchange, capacity=1)
        # A new subscription gets the latched message that was sent while the node was inactive.
        name = "~/input/model_update"
        subscribe = partial(
            self.create_subscription, ModelUpdate, self.topic(name), self._updates.put
        )
        self._announcements = self.with_qos_overrides(name, LATCHED_QOS, subscribe)

    def deactivate(self) -> None:
        self._cancel.set()
        self.destroy_subscription(self._announcements)

    def process(self, image: Stamped[Any]) -> None:
        network = self._network
        assert network is not None
        (proposals,) = network.propose([image.value])
        self._recent.append((image.value, proposals))
        versioned = VersionedProposals(proposals, network.version)
        self._output.publish(Stamped(image.header, versioned))

    def facts(self) -> dict[str, object]:
        return {"model version": self._network.version if self._network is not None else ""}

    def introduction(self) -> list[str]:
        version = self.facts()["model version"]
        return [f"network {version} ({self._path})", f"store {self._models.root}"]

    def hardware(self) -> str:
        return str(resolve_device(self.config.device))

    def cleanup(self) -> None:
        self._network = None
        self._recent.clear()

    def _exchange(self, update: Any) -> None:
        serving = self._network
        assert serving is not None
        if (update.version, update.sha256) == (serving.version, self._sha256):
            self._accept()
            return
        compared, hosts = is_compared(self.config), self.settings.allowed_hosts.split(",")
        try:
            pull_announced(
                update, self._models, self._first, hosts, compared=compared,
                keep=self.config.learning.keep_versions, on_block=partial(_go_on, self._cancel),
            )  # fmt: skip
            path = announced_weights(update, self._models, self._first, compared=compared)
            network = load_proposals(
                path, self._config_of(path), resolve_device(self.config.device)
            )
            if network.version != update.version:
                raise GboptError(f"{path}: holds version {shortened(network.version)}")
            is_older = self._place(path, network) < self._place(self._path, serving)
            check_proposals(network, list(self._recent), must_agree=not is_older)
        except GboptError as error:
            # Whatever was missed before is void: this update is newer.
            self._missed = update if isinstance(error, Unreachable) else None
            self.health.count("updates refused")
            self._is_refused = True
            told = (
                f"model update {shortened(update.version)} refused, {serving.version} serves on: "
                f"{error}"
            )
            self.health.warn(told, "refused model")
            self.get_logger().warning(told, throttle_duration_sec=10.0)
            return
        self._network, self._path, self._sha256 = network, path, update.sha256
        self.health.count("updates")
        self._accept()
        self.get_logger().info(
            f"model {network.version} serves now, {serving.version} served before"
        )

    def _accept(self) -> None:
        """What is announced serves."""
        self._missed, self._is_refused = None, False
        self.health.recover("refused model")

    def _look_again(self) -> None:
        """Try again where a machine did not answer; end the alarm of an update that is void.

        It stands while somebody announces a network, or the store says that another one serves.
        """
        if not self._updates.idle:
            return
        if self._missed is not None:
            self._updates.put(self._missed)
        elif self._is_refused and self.count_publishers(self._announcements.topic_name) == 0:
            serving = self._network
            assert serving is not None
            compared = is_compared(self.config)
            if served_by(self._models, self._first, compared) == (serving.version, self._sha256):
                self._accept()

    def _place(self, path: Path, network: ProposalNetwork) -> int:
        """The number of a version of the store; 0 for any other network, which was there before.

        That may be a version of another store, whose number says nothing here.
        """
        is_of_store = path.resolve().is_relative_to(self._models.folder.resolve())
        return (number(network.version) or 0) if is_of_store else 0

    def _config_of(self, path: Path) -> ProposalConfig:
        """The settings of a network; only the first one may need a detectron2 configuration."""
        config = self.config.proposal
        if path.resolve() == proposal_weights(self.config).resolve():
            return config
        return replace(config, detectron2_config="")


def _go_on(cancel: threading.Event) -> None:
    if cancel.is_set():
        raise Unreachable("the node was deactivated; the download goes on with the next update")


def main(arguments: Sequence[str] | None = None) -> int:
    return spin(lambda: [ProposalNode()], arguments)
