"""Runs nodes in this process until a signal ends it; an exception ends none of them."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import rclpy
from rclpy.exceptions import InvalidHandle, ParameterException
from rclpy.executors import ShutdownException, SingleThreadedExecutor, TimeoutException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.time_source import CLOCK_TOPIC
from rosgraph_msgs.msg import Clock

from gbopt_ros.nodes.base import PipelineNode
from gbopt_ros.process import stop_on_signals
from gbopt_ros.structures import GboptError

_SIGNAL_LATENCY_S = 0.4
_NAMES = (  # rcl tells the place alone
    ". Topics and namespaces have letters, digits and _ between slashes, and no digit comes first"
)


class SteadyExecutor(SingleThreadedExecutor):
    """An executor that logs whatever a callback raises, and goes on.

    rclpy's own raises it out of `spin`, so that one message ends all nodes of the process. It also
    leaves the callback group of the node locked if the message cannot be read.
    """

    def spin_once(self, timeout_sec: float | None = None) -> None:
        try:
            ready: Any = self.wait_for_ready_callbacks(timeout_sec, None)
        except (TimeoutException, ShutdownException):
            return
        except InvalidHandle:  # another thread has destroyed an entity that it was to wait for
            return
        handler, entity, node = ready
        handler()
        error = handler.exception()
        if error is None:
            return
        if not isinstance(error, Exception):  # such as SystemExit
            raise error
        if entity is not None:  # a task has none, such as one that sends the result of a goal
            # If the message could not be taken, rclpy still counts the entity as being executed.
            entity._executor_event = False
            with suppress(AssertionError):  # it does not hold the group
                entity.callback_group.ending_execution(entity)
        log = node.get_logger() if node is not None else get_logger("gbopt_ros")
        trace = "".join(traceback.format_exception(error)).rstrip()
        log.error(f"a callback failed: {trace}", throttle_duration_sec=1.0)
        if isinstance(node, PipelineNode):
            node.health.count("failures")


class SideNode:
    """A node with a thread of its own, for topics with hundreds of messages a second.

    Each of them would wake the executor that all nodes of the process share, which takes several
    times as long as the message itself.

    Args:
        owner: the node that it is for.
        purpose: ends its name.
        subscribe: makes its subscriptions; what it returns is kept as long as the node.
    """

    def __init__(self, owner: Any, purpose: str, subscribe: Callable[[Node], object]) -> None:
        name = f"{owner.get_name()}_{purpose}"
        self._node = Node(
            name,
            context=owner.context,
            namespace=owner.get_namespace(),
            cli_args=["--ros-args", "-r", f"__node:={name}"],  # also where the owner is renamed
            parameter_overrides=[
                Parameter(each, value=False)
                for each in ("use_sim_time", "start_type_description_service")
            ],
            start_parameter_services=False,
            enable_rosout=False,
        )
        self._kept = subscribe(self._node)
        self._executor = SteadyExecutor(context=owner.context)
        self._executor.add_node(self._node)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Unsubscribe, and take the node from the network."""
        self._ended.set()
        self._executor.wake()
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()

    def _spin(self) -> None:
        while not self._ended.is_set():
            self._executor.spin_once(timeout_sec=_SIGNAL_LATENCY_S)


def simulated_clock(nodes: Sequence[Any]) -> SideNode | None:
    """Takes /clock for the nodes that have `use_sim_time` now; None if none has.

    rclpy would subscribe each of them, on the executor. rclcpp has a thread for it, too.
    """
    simulated = [node for node in nodes if node.get_parameter("use_sim_time").value]
    if not simulated:
        return None
    sources = [node._time_source for node in simulated]  # rclpy has no public name for it
    for source in sources:
        source.detach_node()

    def heard(message: Any) -> None:
        for source in sources:
            source.clock_callback(message)

    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    return SideNode(
        nodes[0], "clock", lambda side: side.create_subscription(Clock, CLOCK_TOPIC, heard, qos)
    )


def spin(make_nodes: Callable[[], Sequence[PipelineNode]], arguments: Sequence[str] | None) -> int:
    """Run nodes in this process until SIGINT or SIGTERM; returns its exit status.

    Args:
        make_nodes: called after ROS is initialised.
        arguments: command line; None takes that of the process.
    """
    given: list[str] = list(sys.argv if arguments is None else arguments)
    signals = stop_on_signals()
    try:
        # rclpy's own signal handlers would stop the middleware before the nodes can close.
        rclpy.init(args=given, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # an argument after --ros-args is malformed or no such file
        advice = _NAMES if "remap rule" in str(error) else ""
        get_logger("gbopt_ros").fatal(f"{error}{advice}")
        return 1
    nodes: list[Any] = []
    clock: SideNode | None = None
    executor = SteadyExecutor()
    try:
        try:
            nodes += make_nodes()
        except rclpy_implementation.RCLError as error:
            raise GboptError(
                f"ROS makes no node: {error}. With ROS_SECURITY_ENABLE, the middleware needs DDS "
                "security, and the keystore must allow the node on this ROS_DOMAIN_ID"
            ) from error
        clock = simulated_clock(nodes)
        for node in nodes:
            executor.add_node(node)
            if not signals and not node.start():
                return 1
        align_timers(nodes)
        while not signals:
            executor.spin_once(timeout_sec=_SIGNAL_LATENCY_S)
    except (GboptError, ValueError, ParameterException) as error:  # the last two: bad parameters
        get_logger("gbopt_ros").fatal(str(error))
        return 1
    finally:
        if clock is not None:
            clock.close()
        for node in reversed(nodes):
            node.close()
        executor.shutdown()
        rclpy.try_shutdown()
    return 0


def align_timers(nodes: Sequence[Any]) -> None:
    """Let the timers of all nodes run out together.

    Each time that the executor wakes, it looks at all entities of all nodes, which takes 2 ms.
    """
    for timer in [timer for node in nodes for timer in node.timers if not timer.is_canceled()]:
        timer.reset()
