"""What all nodes have in common: lifecycle, parameters, topics, diagnostics and shutdown."""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from gbopt_ros.config import ConfigSection, load_config, setting
from gbopt_ros.config.renamed import advice
from gbopt_ros.nodes import parameters
from gbopt_ros.nodes.health import Health
from gbopt_ros.nodes.intra_process import IntraProcessBus
from gbopt_ros.nodes.messages import IMAGE, Codec, Stamped
from gbopt_ros.nodes.wiring import NODES, remap_arguments
from gbopt_ros.nodes.worker import Worker
from gbopt_ros.structures import GboptError

T = TypeVar("T")

# Between two nodes no message may be lost. A node that starts late, or again, gets the frames that
# the others still work on.
LINK_QOS = QoSProfile(
    depth=16, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
# A clip's results are published in one burst.
RESULT_QOS = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
LINK_CAPACITY = 16  # frames that wait at a network; the clip buffer sends far fewer at a time
_DIAGNOSTICS_PERIOD_S = 1.0
_SIGNAL_LATENCY_S = 0.2


@dataclass(frozen=True)
class NodeSettings(ConfigSection):
    """The parameters of every node, beside the sections of the configuration that it uses."""

    autostart: bool = setting(
        True, "Whether the node configures and activates itself when it starts.", fixed=True
    )
    profile: str = setting(
        "",
        "YAML file of settings, as for `gbopt replay --config`. ROS parameters override it. Empty: "
        "the defaults.",
        fixed=True,
    )


class Output(Generic[T]):
    """An output topic: by reference within the process, as messages to all others."""

    def __init__(
        self, bus: IntraProcessBus | None, publisher: Any, encode: Callable[[T], Any]
    ) -> None:
        self._bus, self._publisher, self._encode = bus, publisher, encode
        # A late subscriber of a latched topic gets messages that were sent before it came.
        durability = publisher.qos_profile.durability
        self._latched = bus is None and durability == DurabilityPolicy.TRANSIENT_LOCAL

    @property
    def is_wanted(self) -> bool:
        """Whether a process subscribed, or may subscribe later and still get the message."""
        return self._latched or self.subscriptions > 0

    @property
    def topic(self) -> str:
        """Full name of the topic."""
        return str(self._publisher.topic_name)

    @property
    def subscriptions(self) -> int:
        """Number of subscriptions, without those on the intra-process bus."""
        return int(self._publisher.get_subscription_count())

    def publish(self, payload: T) -> None:
        if self._bus is not None:
            self._bus.publish(self.topic, payload)
        if self.is_wanted:
            self._publisher.publish(self._encode(payload))


class PipelineNode(LifecycleNode):
    """A lifecycle node that runs a part of the pipeline.

    A subclass has a NAME, the names of the SECTIONS of the configuration that it uses, and its own
    SETTINGS. It fills in `configure`, `activate`, `deactivate` and `cleanup`. An exception there is
    logged and fails the transition; rclpy would hide it.

    Args:
        bus: joins the nodes of one process; with None all topics go through the middleware.
        options: for rclpy's node, such as `context`, `namespace`, `parameter_overrides`.

    Raises:
        GboptError: the profile cannot be read, or a parameter has an old name.
        ValueError: a parameter is out of range.
    """

    NAME: ClassVar[str]
    SECTIONS: ClassVar[tuple[str, ...]] = ()
    SETTINGS: ClassVar[type[NodeSettings]] = NodeSettings

    def __init__(self, bus: IntraProcessBus | None = None, **options: Any) -> None:
        super().__init__(self.NAME, **options)
        self.bus = bus
        self.health = Health()
        self.active = False
        self._entities: list[Callable[[], object]] = []
        self._workers: dict[str, Worker[Any]] = {}
        old_name = advice(self._parameter_overrides)  # rclpy has no public name for them
        if old_name:
            raise GboptError(f"parameter {old_name}")
        parameters.declare(self, self.SETTINGS())
        self.settings: Any = parameters.with_values(self.SETTINGS(), self._parameter_values())
        config = load_config(self.settings.profile or None)
        parameters.declare(self, config, (*self.SECTIONS, "device"))
        self.config = parameters.with_values(config, self._parameter_values())
        self.add_on_set_parameters_callback(self._on_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # A simulated clock may stand still.
        self._wall = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=self._wall)

    # What a subclass fills in.

    def configure(self) -> None:
        """Load networks; make topics, services and timers."""

    def activate(self) -> None:
        """Start to work."""

    def deactivate(self) -> None:
        """Stop work; networks stay loaded."""

    def cleanup(self) -> None:
        """Free the networks. Topics and workers are closed anyway."""

    def facts(self) -> dict[str, object]:
        """Values for the diagnostics, besides those that every node gives."""
        return {}

    # What a subclass uses.

    def output(self, name: str, codec: Codec[T], qos: QoSProfile) -> Output[T]:
        publisher = self.publisher(codec.message_type, name, qos)
        return Output(self.bus, publisher, codec.encode)

    def input(
        self, name: str, codec: Codec[T], qos: QoSProfile, callback: Callable[[T], None]
    ) -> None:
        """Subscribe: `callback` gets every payload while the node is active, on any thread."""

        def when_active(payload: T) -> None:
            if self.active:
                callback(payload)

        if self.bus is not None:
            topic = self.resolve_topic_name(name)
            self._entities.append(self.bus.subscribe(topic, when_active))
        else:
            self.subscription(
                codec.message_type, name, qos, lambda message: when_active(codec.decode(message))
            )

    def publisher(self, message_type: Any, name: str, qos: QoSProfile) -> Any:
        publisher = self.create_publisher(message_type, name, qos)
        self._entities.append(lambda: self.destroy_publisher(publisher))
        return publisher

    def subscription(
        self, message_type: Any, name: str, qos: QoSProfile, callback: Callable[[Any], None]
    ) -> None:
        """Subscribe to messages; as `input`, but on the executor, and exceptions are logged."""

        def guarded(message: Any) -> None:
            if self.active:
                self._attempt(lambda: callback(message), name)

        subscription = self.create_subscription(message_type, name, guarded, qos)
        self._entities.append(lambda: self.destroy_subscription(subscription))

    def service(self, service_type: Any, name: str, callback: Callable[[Any, Any], str]) -> None:
        """A service whose response has `success` and `message`; `callback` returns the message.

        If it raises, `success` is false and the message tells the error.
        """

        def answer(request: Any, response: Any) -> Any:
            try:
                if not self.active:
                    raise GboptError(f"{self.get_name()} is not active")
                response.message, response.success = callback(request, response), True
                self.health.recover(name)
            except GboptError as error:
                response.message, response.success = str(error), False
            except Exception as error:
                self.report(error, name)
                response.message, response.success = f"{type(error).__name__}: {error}", False
            return response

        service = self.create_service(service_type, name, answer)
        self._entities.append(lambda: self.destroy_service(service))

    def timer(self, period_s: float, callback: Callable[[], None]) -> None:
        """Call back every `period_s` seconds of wall time while the node is active."""

        def when_active() -> None:
            if self.active:
                self._attempt(callback, callback.__name__)

        timer = self.create_timer(period_s, when_active, clock=self._wall)
        self._entities.append(lambda: self.destroy_timer(timer))

    def worker(self, name: str, handle: Callable[[T], None], **options: Any) -> Worker[T]:
        """A worker that ends when the node is deactivated.

        The diagnostics show an error of `handle` until it succeeds again.
        """

        def handled(item: T) -> None:
            handle(item)
            self.health.recover(name)

        def failed(error: Exception) -> None:
            self.report(error, name)

        worker = Worker(f"{self.get_name()} {name}", handled, failed, **options)
        self._workers[name] = worker
        return worker

    def _attempt(self, action: Callable[[], object], subject: str) -> None:
        """Call `action`; the diagnostics show its error until it succeeds again."""
        try:
            action()
        except Exception as error:
            self.report(error, subject)
        else:
            self.health.recover(subject)

    def report(self, error: Exception, subject: str = "work") -> None:
        """Log an error that the node survives, and show it on the diagnostics."""
        self.health.count("failures")
        self.health.fail(str(error), subject)
        self.get_logger().error(_in_words(error))

    # Lifecycle.

    def start(self) -> bool:
        """Configure and activate if `autostart` is true; False if that fails."""
        if not self.settings.autostart:
            return True
        done = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == done and self.trigger_activate() == done

    def close(self) -> None:
        """Stop all work, in any state, and destroy the node."""
        if self.active:
            self._deactivate()
        self._stop_workers()
        self._release()
        self.destroy_node()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("configure", self.configure, undo=self._release)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        def activate() -> None:
            self.health.begin()
            self.activate()
            self.active = True

        return self._transition("activate", activate, undo=self._stop_workers)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("deactivate", self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("clean up", self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        def shut_down() -> None:
            if self.active:
                self._deactivate()
            self._release()

        return self._transition("shut down", shut_down)

    def _transition(
        self, verb: str, action: Callable[[], None], undo: Callable[[], None] = lambda: None
    ) -> TransitionCallbackReturn:
        self.health.recover_all()
        try:
            action()
        except Exception as error:
            self.get_logger().error(f"cannot {verb}: {_in_words(error)}")
            self.health.fail(f"cannot {verb}: {error}")
            undo()
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _deactivate(self) -> None:
        self.active = False
        try:
            self.deactivate()
        finally:
            self._stop_workers()

    def _stop_workers(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def _release(self) -> None:
        while self._entities:
            self._entities.pop()()
        self.cleanup()

    # Parameters.

    def _parameter_values(self) -> dict[str, Any]:
        declared: Any = self.get_parameters_by_prefix("")
        return {name: parameter.value for name, parameter in declared.items()}

    def _on_parameters(self, changes: Sequence[Any]) -> SetParametersResult:
        values = {parameter.name: parameter.value for parameter in changes}
        try:
            config = parameters.with_values(self.config, values)
            settings = parameters.with_values(self.settings, values)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.config, self.settings = config, settings
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        state = self._state_machine.current_state[1]
        queues: dict[str, object] = {
            f"{name} queue": len(worker) for name, worker in self._workers.items()
        }
        drops: dict[str, object] = {
            f"{name} dropped": worker.dropped for name, worker in self._workers.items()
        }
        status = self.health.status(
            self.get_fully_qualified_name().lstrip("/"), state, queues | drops | self.facts()
        )
        status.hardware_id = self.config.device
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


class FrameNode(PipelineNode):
    """A node that runs a network on every image that the clip buffer sends."""

    def configure(self) -> None:
        self.load()
        self.input("~/input/image", IMAGE, LINK_QOS, self._queue)

    def activate(self) -> None:
        self._frames: Worker[tuple[Stamped[Any], float]] = self.worker(
            "image", self._timed, capacity=LINK_CAPACITY
        )

    def load(self) -> None:
        """Load the network and make the output topic."""
        raise NotImplementedError

    def process(self, image: Stamped[Any]) -> None:
        """Run the network and publish."""
        raise NotImplementedError

    def _queue(self, image: Stamped[Any]) -> None:
        self._frames.put((image, time.monotonic()))

    def _timed(self, item: tuple[Stamped[Any], float]) -> None:
        image, arrival = item
        self.process(image)
        self.health.done(time.monotonic() - arrival)


def _in_words(error: Exception) -> str:
    """One line for an error that the user can act on, the traceback for any other."""
    if isinstance(error, GboptError):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


def spin(make_nodes: Callable[[], Sequence[PipelineNode]], arguments: Sequence[str] | None) -> int:
    """Run nodes in this process until SIGINT or SIGTERM; returns its exit status.

    The topics of the nodes are remapped as `wiring` says; remap rules in `arguments` win.

    Args:
        make_nodes: called after ROS is initialised.
        arguments: command line; None takes that of the process.
    """
    given = list(sys.argv if arguments is None else arguments)
    wiring = [argument for name in NODES for argument in remap_arguments(name)]
    try:
        # rclpy's own signal handlers would stop the middleware before the nodes can close.
        rclpy.init(
            args=[*given, "--ros-args", *wiring], signal_handler_options=SignalHandlerOptions.NO
        )
    except RuntimeError as error:  # an argument after --ros-args is malformed or no such file
        get_logger("gbopt_ros").fatal(str(error))
        return 1
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    nodes: list[PipelineNode] = []
    executor = SingleThreadedExecutor()
    try:
        nodes += make_nodes()
        for node in nodes:
            executor.add_node(node)
            if not node.start():
                return 1
        while not stop.is_set():
            executor.spin_once(timeout_sec=_SIGNAL_LATENCY_S)
    except (GboptError, ValueError, ParameterException) as error:  # the last two: bad parameters
        get_logger("gbopt_ros").fatal(str(error))
        return 1
    finally:
        for node in reversed(nodes):
            node.close()
        executor.shutdown()
        rclpy.try_shutdown()
    return 0
