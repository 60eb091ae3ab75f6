"""Background probability of every frame, as an image in 32FC1."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from gbopt_ros.nodes.base import LINK_QOS, FrameNode, spin
from gbopt_ros.nodes.intra_process import IntraProcessBus
from gbopt_ros.nodes.messages import MAP, Stamped
from gbopt_ros.perception.load import load_background_network
from gbopt_ros.structures import BackgroundNetwork


class BackgroundNode(FrameNode):
    """Publishes `~/output/probability`: that a pixel belongs to no object, 0 to 1."""

    SECTIONS = ("background",)
    _network: BackgroundNetwork | None = None

    def __init__(self, bus: IntraProcessBus | None = None, **options: Any) -> None:
        super().__init__("background", bus, **options)

    def load(self) -> None:
        self._network = load_background_network(self.config)
        self._output = self.output("~/output/probability", MAP, LINK_QOS)

    def process(self, image: Stamped[Any]) -> None:
        assert self._network is not None
        (probability,) = self._network.background([image.value])
        self._output.publish(Stamped(image.header, probability))

    def cleanup(self) -> None:
        self._network = None


def main(arguments: Sequence[str] | None = None) -> int:
    return spin(lambda: [BackgroundNode()], arguments)


if __name__ == "__main__":
    sys.exit(main())
