"""Publishes mask proposals for every frame; the network can be exchanged while frames flow."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gbopt_ros.config import ProposalConfig
from gbopt_ros.models.device import resolve_device
from gbopt_ros.models.weights import sha256_of
from gbopt_ros.msg import ModelUpdate
from gbopt_ros.nodes.base import LATCHED_QOS, LINK_QOS, FrameNode, spin
from gbopt_ros.nodes.intra_process import IntraProcessBus
from gbopt_ros.nodes.messages import PROPOSALS, Stamped, VersionedProposals
from gbopt_ros.nodes.worker import Worker
from gbopt_ros.perception.load import load_proposal_network, load_proposals, proposal_weights
from gbopt_ros.structures import GboptError, ProposalNetwork

_SMOKE_FRAMES = 2  # a new network must succeed on the last frames before it serves


class ProposalNode(FrameNode):
    """Publishes `~/output/proposals`, by the network that `~/input/model_update` names last.

    A new network is loaded on a thread of its own while the old one serves. Its checksum, its
    version and its results on the last frames are checked there. Then it takes the place of the
    old one between two frames. If a check fails, the old network goes on serving. The two may be of
    different kinds, such as a teacher in an ONNX file and its student.
    """

    NAME = "proposal"
    SECTIONS = ("proposal",)
    _network: ProposalNetwork | None = None

    def __init__(self, bus: IntraProcessBus | None = None, **options: Any) -> None:
        self._recent: deque[Any] = deque(maxlen=_SMOKE_FRAMES)
        super().__init__(bus, **options)

    def load(self) -> None:
        self._network = load_proposal_network(self.config)
        self._sha256 = sha256_of(proposal_weights(self.config))
        self._output = self.output("~/output/proposals", PROPOSALS, LINK_QOS)

    def activate(self) -> None:
        super().activate()
        updates: Worker[Any] = self.worker("update", self._exchange, capacity=1)
        # A new subscription gets the latched message that was sent while the node was inactive.
        self._announcements = self.create_subscription(
            ModelUpdate, "~/input/model_update", updates.put, LATCHED_QOS
        )

    def deactivate(self) -> None:
        self.destroy_subscription(self._announcements)

    def process(self, image: Stamped[Any]) -> None:
        network = self._network
        assert network is not None
        (proposals,) = network.propose([image.value])
        self._recent.append(image.value)
        versioned = VersionedProposals(proposals, network.version)
        self._output.publish(Stamped(image.header, versioned))

    def facts(self) -> dict[str, object]:
        return {"model version": self._network.version if self._network is not None else ""}

    def cleanup(self) -> None:
        self._network = None
        self._recent.clear()

    def _exchange(self, update: Any) -> None:
        serving = self._network
        assert serving is not None
        if (update.version, update.sha256) == (serving.version, self._sha256):
            self.health.recover("refused model")
            return
        try:
            network = self._load(update)
        except GboptError as error:
            self.health.count("updates refused")
            self.health.fail(f"model {update.version} refused: {error}", "refused model")
            self.get_logger().error(
                f"model {update.version} refused, {serving.version} serves on: {error}"
            )
            return
        self._network = network
        self._sha256 = update.sha256
        self.health.count("updates")
        self.health.recover("refused model")
        self.get_logger().info(
            f"model {network.version} serves now, {serving.version} served before"
        )

    def _load(self, update: Any) -> ProposalNetwork:
        path = Path(update.path)
        try:
            digest = sha256_of(path)
        except OSError as error:
            raise GboptError(f"{path}: cannot be read ({error.strerror})") from error
        if digest != update.sha256:
            raise GboptError(
                f"{path}: SHA-256 is {digest[:12]}..., announced was {update.sha256[:12]}..."
            )
        network = load_proposals(path, self._config_of(path), resolve_device(self.config.device))
        if network.version != update.version:
            raise GboptError(
                f"{path}: holds version {network.version!r}, announced was {update.version!r}"
            )
        try:
            network.propose(list(self._recent))
        except (ValueError, RuntimeError) as error:
            raise GboptError(f"{path}: fails on the last frames ({error})") from error
        return network

    def _config_of(self, path: Path) -> ProposalConfig:
        """The settings of a network; only the first one may need a detectron2 configuration."""
        config = self.config.proposal
        if path.resolve() == proposal_weights(self.config).resolve():
            return config
        return replace(config, detectron2_config="")


def main(arguments: Sequence[str] | None = None) -> int:
    return spin(lambda: [ProposalNode()], arguments)


if __name__ == "__main__":
    sys.exit(main())
