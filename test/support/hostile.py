"""A stranger's node: it sends whatever it likes to every topic and service of the graph."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import ListParameters, SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from gbopt_ros.nodes.messages import make_time
from gbopt_ros.nodes.wiring import NODES

_QOS = QoSProfile(
    depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
_NUMBERS = {
    **{f"{sign}int{bits}": (bits, sign) for bits in (8, 16, 32, 64) for sign in ("", "u")},
    "octet": (8, "u"),
}
_TEXTS = (
    "", "rgb8", "32FC1", "32FC2", "bayer_rggb8", "jpeg", "v0001", "random", "/dev/zero", "0" * 64,
    "../../../etc/passwd", "\x1b[2J\n", "n0" * 9, "~" * 5000, "é",
)  # fmt: skip
# Out of turn for an active node. The others, `deactivate` and `shutdown`, SROS2 can forbid.
_OUT_OF_TURN = (0, 1, 2, 3, 5, 6, 8, 10, 30, 50, 60, 61, 62, 99, 255)
_RESERVED = ("parameter_events", "rosout", "diagnostics", "clock")


def load(kind: str) -> Any:
    """The class of a name such as `std_msgs/msg/Header` or `std_msgs/Header`."""
    package, *group, name = kind.split("/")
    module = f"{package}.{group[0] if group else 'msg'}"
    action, _, part = name.partition("_")
    if part:  # a service of an action, or a message in it
        module = f"{package}.action._{action.lower()}"
    return getattr(import_module(module), name)


class Stranger:
    """Sends messages from a seeded generator.

    Args:
        node: to send with.
        stamps: of real frames, nanoseconds; some messages bear one of them.
    """

    def __init__(self, node: Any, stamps: Sequence[int], seed: int = 0) -> None:
        self._node, self._stamps, self._rng = node, stamps, random.Random(seed)
        self._publishers: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}

    def topics(self) -> dict[str, str]:
        """The type of every topic that a node of the graph subscribes to."""
        found = {}
        for topic, kinds in self._node.get_topic_names_and_types():
            readers = {i.node_name for i in self._node.get_subscriptions_info_by_topic(topic)}
            if readers & {*NODES} and not topic.endswith(_RESERVED):
                found[topic] = kinds[0]
        return found

    def services(self) -> dict[str, str]:
        """The type of every service of the nodes of the graph, those of actions too."""
        found = {}
        for name, namespace in self._node.get_node_names_and_namespaces():
            if name in NODES:
                offered = self._node.get_service_names_and_types_by_node(name, namespace)
                found |= {service: kinds[0] for service, kinds in offered}
        return found

    def call_all(self) -> list[Any]:
        """A request to every service; returns the futures of the answers."""
        return [self.call(service, kind) for service, kind in self.services().items()]

    def call(self, service: str, kind: str) -> Any:
        """A request with any value, but a transition only if it is out of turn."""
        service_type = load(kind)
        if service not in self._clients:
            self._clients[service] = self._node.create_client(service_type, service)
        request = self.message(service_type.Request)
        if service_type is ChangeState:
            request.transition.id = self._rng.choice(_OUT_OF_TURN)
        return self._clients[service].call_async(request)

    def send_for(self, seconds: float) -> int:
        """Messages to every topic, by turns; returns how many."""
        count, end = 0, time.monotonic() + seconds
        topics = self.topics()
        while time.monotonic() < end:
            for topic, kind in topics.items():
                self.send(topic, kind)
                count += 1
            time.sleep(0.01)
        return count

    def send(self, topic: str, kind: str) -> None:
        message_type = load(kind)
        if topic not in self._publishers:
            self._publishers[topic] = self._node.create_publisher(message_type, topic, _QOS)
        if self._rng.random() < 0.1:  # no message at all: the bytes on the wire are garbage
            message = bytes([0, 1, 0, 0]) + self._rng.randbytes(self._rng.randrange(64))
        else:
            message = self.message(message_type)
        self._publishers[topic].publish(message)

    def message(self, message_type: Any) -> Any:
        """A message, or a request, with a value of its type in every field."""
        if message_type.__name__ == "Time" and self._rng.random() < 0.5:
            return make_time(self._rng.choice(self._stamps))
        made = message_type()
        for name, kind in message_type.get_fields_and_field_types().items():
            setattr(made, name, self._value(kind))
        return made

    def _value(self, kind: str) -> Any:
        rng = self._rng
        sequence = re.fullmatch(r"sequence<([^,]+)(?:, \d+)?>|(.+)\[(\d+)\]", kind)
        if sequence:
            length = int(sequence[3]) if sequence[3] else rng.choice((0, 1, 3, 48))
            items = [self._value(sequence[1] or sequence[2]) for _ in range(length)]
            return [bytes([int(i) % 256]) if kind.startswith("octet") else i for i in items]
        if kind in _NUMBERS:
            bits, sign = _NUMBERS[kind]
            low, high = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            value = rng.choice((low, high, min(high, 1), min(high, 16), rng.randint(low, high)))
            return bytes([value]) if kind == "octet" else value
        if kind in ("float", "double"):
            return rng.choice((0.0, -1.0, 0.5, 3e38, float("nan"), float("inf"), rng.random()))
        if kind == "boolean":
            return rng.random() < 0.5
        if kind.startswith("string"):
            return rng.choice(_TEXTS)
        return self.message(load(kind))


def forbidden_requests(call: Any, name: str) -> None:
    """Call what a node must refuse: transitions out of turn, parameters of any wrong value.

    Args:
        call: `Graph.call`.
        name: full name of an active node.
    """
    transitions = [Transition(id=number) for number in _OUT_OF_TURN]
    for transition in (*transitions, Transition(label="nonsense")):
        assert not call(ChangeState, f"{name}/change_state", transition=transition).success
    names = [*call(ListParameters, f"{name}/list_parameters").result.names, "no", ""]
    wrong = [
        ParameterValue(type=ParameterType.PARAMETER_BYTE_ARRAY, byte_array_value=[b"\0"]),
        ParameterValue(type=ParameterType.PARAMETER_STRING_ARRAY, string_array_value=["a"]),
        ParameterValue(type=ParameterType.PARAMETER_NOT_SET),
    ]
    parameters = [Parameter(name=each, value=value) for each in names for value in wrong]
    results = call(SetParameters, f"{name}/set_parameters", parameters=parameters).results
    answered = zip(parameters, results, strict=True)
    taken = [parameter for parameter, result in answered if result.successful]
    assert not taken, taken
    # A type that does not exist ends the request, not the node.
    unknown = [Parameter(name="device", value=ParameterValue(type=200))]
    assert call(SetParameters, f"{name}/set_parameters", parameters=unknown).results == []
