"""Publishes the optical flow from every frame to the next one, as an image in 32FC2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gbopt_ros.nodes.base import LINK_QOS, FrameNode
from gbopt_ros.nodes.messages import MAP, Stamped
from gbopt_ros.nodes.spin import spin
from gbopt_ros.perception.flow import DisFlow, make_flow
from gbopt_ros.structures import FlowNetwork


def device_of(network: FlowNetwork | None, device: str) -> str:
    """The device that a flow network works on; `device` as in the configuration."""
    if network is None or isinstance(network, DisFlow):
        return "cpu"
    from gbopt_ros.models.device import resolve_device  # torch, which DIS does not need

    return str(resolve_device(device))


def has_flow(first: Stamped[Any], second: Stamped[Any]) -> bool:
    """Whether the node publishes a flow between two consecutive images of the clip buffer."""
    sizes_agree = first.value.shape[:2] == second.value.shape[:2]
    return sizes_agree and first.stamp_ns < second.stamp_ns


class FlowNode(FrameNode):
    """Publishes `~/output/flow`: pixels (x, y), under the header of the first of two images."""

    NAME = "flow"
    SECTIONS = ("flow",)
    _network: FlowNetwork | None = None

    def load(self) -> None:
        self._network = make_flow(self.config.flow, self.config.device)
        self._output = self.output("~/output/flow", MAP, LINK_QOS)

    def activate(self) -> None:
        self._last: Stamped[Any] | None = None  # not by `deactivate`: the worker may still set it
        super().activate()

    def process(self, image: Stamped[Any]) -> None:
        assert self._network is not None
        last, self._last = self._last, image
        if last is not None and has_flow(last, image):
            (flow,) = self._network.flow([last.value], [image.value])
            self._output.publish(Stamped(last.header, flow))

    def introduction(self) -> list[str]:
        return [f"flow by {type(self._network).__name__}"]

    def hardware(self) -> str:
        return device_of(self._network, self.config.device)

    def cleanup(self) -> None:
        self._network = None


def main(arguments: Sequence[str] | None = None) -> int:
    return spin(lambda: [FlowNode()], arguments)
