"""What all nodes have in common: lifecycle, parameters, streams, diagnostics, and their end."""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
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

from gbopt_ros.config import Config, ConfigSection, load_config, setting
from gbopt_ros.nodes import parameters
from gbopt_ros.nodes.health import Health
from gbopt_ros.nodes.intra_process import IntraProcessBus
from gbopt_ros.nodes.messages import IMAGE, Codec, Stamped
from gbopt_ros.nodes.wiring import NODES, remap_arguments
from gbopt_ros.nodes.worker import Worker
from gbopt_ros.structures import GboptError

T = TypeVar("T")

# Between the nodes of the graph nothing may be lost, and a node that comes late, or comes back,
# gets what is still being worked on.
LINK_QOS = QoSProfile(
    depth=16, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
# A clip's results are published in one burst.
RESULT_QOS = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
LINK_CAPACITY = 16  # frames that wait at a network; the clip buffer lets far fewer through
_DIAGNOSTICS_PERIOD_S = 1.0
_SIGNAL_LATENCY_S = 0.2


@dataclass(frozen=True)
class NodeSettings(ConfigSection):
    """The parameters of a node itself, beside those of the stages that it runs."""

    autostart: bool = setting(True, "configure and activate without being asked", fixed=True)
    profile: str = setting("", "YAML file of overrides, as gbopt replay takes", fixed=True)


class Output(Generic[T]):
    """A stream out of a node: by reference within the process, as messages to everyone else."""

    def __init__(
        self, bus: IntraProcessBus | None, publisher: Any, encode: Callable[[T], Any]
    ) -> None:
        self._bus, self._publisher, self._encode = bus, publisher, encode
        # A late subscriber of a latched topic gets messages that nobody was there for.
        durability = publisher.qos_profile.durability
        self._latched = bus is None and durability == DurabilityPolicy.TRANSIENT_LOCAL

    @property
    def is_wanted(self) -> bool:
        """Somebody outside the process subscribed, or may do so later and is owed it."""
        return self._latched or self.subscriptions > 0

    @property
    def topic(self) -> str:
        """Its full name."""
        return str(self._publisher.topic_name)

    @property
    def subscriptions(self) -> int:
        """How many are matched by now, those within the process aside."""
        return int(self._publisher.get_subscription_count())

    def publish(self, payload: T) -> None:
        if self._bus is not None:
            self._bus.publish(self.topic, payload)
        if self.is_wanted:
            self._publisher.publish(self._encode(payload))


class PipelineNode(LifecycleNode):
    """A lifecycle node that runs stages of the pipeline.

    A subclass names its stages, and says what to do in `configure`, `activate`, `deactivate` and
    `cleanup`. What these raise is logged and fails the transition; rclpy would swallow it.

    Args:
        name: of the node.
        bus: joins the nodes of one process; None sends everything through the middleware.
        options: of rclpy's node, such as `context`, `namespace`, `parameter_overrides`.
    """

    SECTIONS: ClassVar[tuple[str, ...]] = ()
    SETTINGS: ClassVar[type[NodeSettings]] = NodeSettings

    def __init__(self, name: str, bus: IntraProcessBus | None = None, **options: Any) -> None:
        super().__init__(name, **options)
        self.bus = bus
        self.health = Health()
        self.active = False
        self._entities: list[Callable[[], object]] = []
        self._workers: dict[str, Worker[Any]] = {}
        self.settings = self._declare_settings()
        profile = Path(self.settings.profile) if self.settings.profile else None
        self.config = self._declare_stages(load_config(profile))
        self.add_on_set_parameters_callback(self._on_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # A simulated clock stands still with the simulation or at the end of a bag.
        self._wall = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=self._wall)

    # What a subclass fills in.

    def configure(self) -> None:
        """Load networks, make streams."""

    def activate(self) -> None:
        """Begin to work."""

    def deactivate(self) -> None:
        """Stop working; what was loaded stays."""

    def cleanup(self) -> None:
        """Let go of what `configure` loaded. Streams and workers end by themselves."""

    def facts(self) -> dict[str, object]:
        """Values for the diagnostics, beside those that every node gives."""
        return {}

    # What a subclass uses.

    def output(self, name: str, codec: Codec[T], qos: QoSProfile) -> Output[T]:
        publisher = self.publisher(codec.message_type, name, qos)
        return Output(self.bus, publisher, codec.encode)

    def input(
        self, name: str, codec: Codec[T], qos: QoSProfile, callback: Callable[[T], None]
    ) -> None:
        """Call back with every payload while the node is active, from any thread."""

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
        """Call back on the executor while the node is active; what is raised is logged."""

        def guarded(message: Any) -> None:
            if self.active:
                self._attempt(lambda: callback(message), name)

        subscription = self.create_subscription(message_type, name, guarded, qos)
        self._entities.append(lambda: self.destroy_subscription(subscription))

    def service(self, service_type: Any, name: str, callback: Callable[[Any, Any], str]) -> None:
        """A service whose response has `success` and `message`; `callback` gives the message.

        A `GboptError` is the answer, with `success` false.
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
        """Call back while the node is active, every so many seconds on the wall."""

        def when_active() -> None:
            if self.active:
                self._attempt(callback, callback.__name__)

        timer = self.create_timer(period_s, when_active, clock=self._wall)
        self._entities.append(lambda: self.destroy_timer(timer))

    def worker(self, name: str, handle: Callable[[T], None], **options: Any) -> Worker[T]:
        """A worker that lives until the node is deactivated.

        What it raises is told on the diagnostics until it gets through a piece of work again.
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
        """Do it; what is raised is told on the diagnostics until it succeeds again."""
        try:
            action()
        except Exception as error:
            self.report(error, subject)
        else:
            self.health.recover(subject)

    def report(self, error: Exception, subject: str = "work") -> None:
        """Log a failure that ends neither the node nor its next piece of work."""
        self.health.count("failures")
        self.health.fail(str(error), subject)
        self.get_logger().error(_in_words(error))

    # Lifecycle.

    def start(self) -> bool:
        """Configure and activate, if `autostart` says so; False where that failed."""
        if not self.settings.autostart:
            return True
        done = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == done and self.trigger_activate() == done

    def close(self) -> None:
        """Stop whatever runs, in any state, and take the node out of the graph."""
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

    def _declare_settings(self) -> Any:
        parameters.declare(self, "", self.SETTINGS())
        return parameters.with_values(self.SETTINGS(), "", self._values())

    def _declare_stages(self, config: Config) -> Config:
        for stage in self.SECTIONS:
            parameters.declare(self, f"{stage}.", getattr(config, stage))
        device = next(s for s in parameters.settings(Config) if s.name == "device")
        self.declare_parameter("device", config.device, parameters.descriptor(device))
        return self._with_parameters(config, self._values())

    def _values(self) -> dict[str, Any]:
        declared: Any = self.get_parameters_by_prefix("")
        return {name: parameter.value for name, parameter in declared.items()}

    def _with_parameters(self, config: Config, values: dict[str, Any]) -> Config:
        changed = {
            stage: parameters.with_values(getattr(config, stage), f"{stage}.", values)
            for stage in self.SECTIONS
        }
        return replace(config, **changed, device=values.get("device", config.device))

    def _on_parameters(self, changes: Sequence[Any]) -> SetParametersResult:
        values = {parameter.name: parameter.value for parameter in changes}
        before = self.config, self.settings
        try:
            self.config = self._with_parameters(self.config, values)
            self.settings = parameters.with_values(self.settings, "", values)
        except ValueError as error:
            self.config, self.settings = before
            return SetParametersResult(successful=False, reason=str(error))
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
    """A node that runs a network on every image of the clip buffer."""

    def configure(self) -> None:
        self.load()
        self.input("~/input/image", IMAGE, LINK_QOS, self._queue)

    def activate(self) -> None:
        self._frames: Worker[tuple[Stamped[Any], float]] = self.worker(
            "image", self._timed, capacity=LINK_CAPACITY
        )

    def load(self) -> None:
        """Load the network and make the outputs."""
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
    """One line for what the user can mend, the traceback of anything else."""
    if isinstance(error, GboptError):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


def spin(make_nodes: Callable[[], Sequence[PipelineNode]], arguments: Sequence[str] | None) -> int:
    """Run nodes in this process until it is told to end; returns its exit status.

    The nodes are wired to each other; a remap rule of the command line goes before that.

    Args:
        make_nodes: called once ROS is initialised.
        arguments: of the command line; None takes the process's own.
    """
    given = list(sys.argv if arguments is None else arguments)
    wiring = [argument for name in NODES for argument in remap_arguments(name)]
    try:
        # rclpy's own handlers would end the middleware before the nodes could say goodbye.
        rclpy.init(
            args=[*given, "--ros-args", *wiring], signal_handler_options=SignalHandlerOptions.NO
        )
    except RuntimeError as error:  # what follows --ros-args is malformed, or names no file
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
