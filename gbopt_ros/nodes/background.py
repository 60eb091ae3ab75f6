"""Background probability of every frame, as an image in 32FC1."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from gbopt_ros.nodes.base import LINK_QOS, FrameNode, spin
from gbopt_ros.nodes.hub import Hub
from gbopt_ros.nodes.messages import MAP, Stamped
from gbopt_ros.pipeline import load_background_network


class BackgroundNode(FrameNode):
    """Publishes `~/output/probability`: that a pixel belongs to no object, 0 to 1."""

    STAGES = ("background",)

    def __init__(self, hub: Hub | None = None, **options: Any) -> None:
        super().__init__("background", hub, **options)

    def load(self) -> None:
        self._network = load_background_network(self.config)
        self._output = self.output("~/output/probability", MAP, LINK_QOS)

    def process(self, image: Stamped[Any]) -> None:
        (probability,) = self._network.background([image.value])
        self._output.publish(Stamped(image.header, probability))

    def cleanup(self) -> None:
        self.__dict__.pop("_network", None)


def main(arguments: Sequence[str] | None = None) -> int:
    return spin(lambda: [BackgroundNode()], arguments)


if __name__ == "__main__":
    sys.exit(main())
