"""Publishes the background probability of every frame, as an image in 32FC1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gbopt_ros.models.device import resolve_device
from gbopt_ros.nodes.base import LINK_QOS, FrameNode
from gbopt_ros.nodes.messages import MAP, Stamped
from gbopt_ros.nodes.spin import spin
from gbopt_ros.perception.load import background_weights, load_background_network
from gbopt_ros.structures import BackgroundNetwork


class BackgroundNode(FrameNode):
    """Publishes `~/output/probability`: how probable it is that a pixel belongs to no object."""

    NAME = "background"
    SECTIONS = ("background",)
    _network: BackgroundNetwork | None = None

    def load(self) -> None:
        self._network = load_background_network(self.config)
        self._output = self.output("~/output/probability", MAP, LINK_QOS)

    def process(self, image: Stamped[Any]) -> None:
        assert self._network is not None
        (probability,) = self._network.background([image.value])
        self._output.publish(Stamped(image.header, probability))

    def introduction(self) -> list[str]:
        return [f"network {', '.join(map(str, background_weights(self.config)))}"]

    def hardware(self) -> str:
        return str(resolve_device(self.config.device))

    def cleanup(self) -> None:
        self._network = None


def main(arguments: Sequence[str] | None = None) -> int:
    return spin(lambda: [BackgroundNode()], arguments)
