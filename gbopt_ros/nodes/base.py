"""What all nodes have in common: lifecycle, parameters, topics, diagnostics and shutdown."""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, ClassVar, TypeVar

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.timer import Timer

from gbopt_ros.config import Config, load_config
from gbopt_ros.nodes import parameters
from gbopt_ros.nodes.health import Health
from gbopt_ros.nodes.intra_process import IntraProcessBus, Output
from gbopt_ros.nodes.messages import IMAGE, Codec, Stamped
from gbopt_ros.nodes.settings import NodeSettings
from gbopt_ros.nodes.wiring import WIRING
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
_OVERRIDABLE = (
    QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY
)  # fmt: skip
LINK_CAPACITY = 16  # frames that wait at a network; the clip buffer sends far fewer at a time
PATIENCE_S = 5.0  # maximum time that a worker takes to end; longer than a frame, not for ever
ALARM_S = 60.0  # time for which the diagnostics tell what happened once
_DIAGNOSTICS_PERIOD_S = 1.0


class PipelineNode(LifecycleNode):
    """A lifecycle node that runs a part of the pipeline.

    A subclass has a NAME, its own SETTINGS, and in SECTIONS what it uses of the configuration:
    names of sections, or of single settings such as `learning.student`. It fills in `configure`,
    `activate`, `deactivate` and `cleanup`. An exception there is logged and fails the transition;
    rclpy would hide it. A node that cannot configure or activate stays as it was. One that raises
    while it goes down frees all that it holds and is unconfigured.

    Args:
        bus: joins the nodes of one process; with None all topics go through the middleware.
        options: for rclpy's node, such as `context`, `namespace`, `parameter_overrides`.

    Raises:
        GboptError: the profile cannot be read, or a parameter has an old name or one of no node.
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
        parameters.check_names(self._parameter_overrides)  # rclpy has no public name for them
        for service in self.services:  # rclpy's own, such as `change_state`
            service.callback = self._answering(service.callback)
        parameters.declare(self, self.SETTINGS())
        self.settings: Any = parameters.with_values(self.SETTINGS(), self._parameter_values())
        config = load_config(self.settings.profile or None)
        parameters.declare(self, config, (*self.SECTIONS, "device"))
        # Also what was given to all nodes and is a parameter of others, such as the clip length.
        given = {name: each.value for name, each in self._parameter_overrides.items()}
        self.config = parameters.with_values(config, given | self._parameter_values())
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._take_parameters)
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

    def refusal(self, config: Config, settings: Any) -> str:
        """Why the node cannot take other parameters as it is now, and what to do; "" if it can."""
        return ""

    def facts(self) -> dict[str, object]:
        """Values for the diagnostics, besides those that every node gives."""
        return {}

    def introduction(self) -> list[str]:
        """What an operator wants to know when the node becomes active, in a few words each."""
        return []

    def hardware(self) -> str:
        """The device that the node works on; known from `configure` on."""
        return "cpu"

    # What a subclass uses.

    def topic(self, name: str, *, is_service: bool = False) -> str:
        """The name of the topic or service to create for a private one such as `~/input/image`.

        A remap rule for it wins. Else an input is what the wiring says, and an output keeps its
        place if the node is renamed, so that the others still find it.
        """
        resolve = self.resolve_service_name if is_service else self.resolve_topic_name
        if resolve(name) != resolve(name, only_expand=True):
            return name
        return WIRING.get(self.NAME, {}).get(name, name.replace("~", self.NAME, 1))

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
            topic = self.resolve_topic_name(self.topic(name))
            self._entities.append(self.bus.subscribe(topic, when_active))
        else:
            self.subscription(
                codec.message_type, name, qos, lambda message: when_active(codec.decode(message))
            )

    def publisher(self, message_type: Any, name: str, qos: QoSProfile) -> Any:
        publisher = self.with_qos_overrides(
            name, qos, partial(self.create_publisher, message_type, self.topic(name))
        )
        self._entities.append(lambda: self.destroy_publisher(publisher))
        return publisher

    def subscription(
        self,
        message_type: Any,
        name: str,
        qos: QoSProfile,
        callback: Callable[[Any], None],
        on_lost: Callable[[int], None] | None = None,
    ) -> QoSProfile:
        """Subscribe to messages; as `input`, but on the executor, and exceptions are logged.

        Args:
            on_lost: called with the number of messages that were published and never came, if the
                topic has one publisher and the middleware numbers its messages, as Fast DDS does.
                A process that is too busy to take them loses them, which no event tells.

        Returns:
            The QoS in force, which parameters may have changed.
        """
        last = 0  # number of the newest message; 0 while several publishers number theirs

        def guarded(message: Any, info: Any) -> None:
            nonlocal last
            if on_lost:
                is_alone = self.count_publishers(subscription.topic_name) == 1
                number = (info["publication_sequence_number"] or 0) if is_alone else 0
                missed, last = number - last - 1 if last else 0, number
                if self.active and missed > 0:
                    on_lost(missed)
            if self.active:
                self._attempt(lambda: callback(message), name)

        create: Any = self.create_subscription  # its annotation has callbacks without info only
        subscription = self.with_qos_overrides(
            name, qos, partial(create, message_type, self.topic(name), guarded)
        )
        self._entities.append(lambda: self.destroy_subscription(subscription))
        return subscription.qos_profile

    def with_qos_overrides(self, name: str, qos: QoSProfile, create: Callable[..., T]) -> T:
        """A publisher or subscription whose QoS follows the parameters `qos_overrides.TOPIC...`.

        Raises:
            GboptError: a parameter has a value that its policy does not have.
        """
        options = QoSOverridingOptions(_OVERRIDABLE)
        try:  # rclpy writes the overrides into the profile
            return create(qos_profile=copy.copy(qos), qos_overriding_options=options)
        except (RuntimeError, ValueError, InvalidParameterTypeException) as error:
            raise GboptError(f"{name}: its QoS cannot be set: {error}") from error

    def service(self, service_type: Any, name: str, callback: Callable[[Any, Any], str]) -> None:
        """A service whose response has `success` and `message`; `callback` returns the message.

        If it raises, `success` is false and the message tells the error.
        """

        def answer(request: Any, response: Any) -> Any:
            try:
                if not self.active:
                    raise GboptError(f"{self.get_name()} is not active")
                response.message, response.success = callback(request, response), True
                self.health.recover(_raised_by(name))
            except GboptError as error:
                response.message, response.success = str(error), False
            except Exception as error:
                self._report(error, name)
                response.message, response.success = f"{type(error).__name__}: {error}", False
            return response

        service = self.create_service(service_type, self.topic(name, is_service=True), answer)
        self._entities.append(lambda: self.destroy_service(service))

    def timer(self, period_s: float, callback: Callable[[], None]) -> Timer:
        """Call back every `period_s` seconds of wall time while the node is active.

        The timer that it returns can be stopped and started again by the thread that spins.
        """

        def when_active() -> None:
            if self.active:
                self._attempt(callback, f"timer {callback.__name__}")

        timer = self.create_timer(period_s, when_active, clock=self._wall)
        self._entities.append(lambda: self.destroy_timer(timer))
        return timer

    def worker(self, name: str, handle: Callable[[T], None], **options: Any) -> Worker[T]:
        """A worker that ends when the node is deactivated.

        The diagnostics show an error of `handle` until it succeeds again, or for `ALARM_S`.
        """

        def handled(item: T) -> None:
            handle(item)
            self.health.recover(_raised_by(f"worker {name}"))

        def failed(error: Exception) -> None:
            self._report(error, f"worker {name}")

        worker = Worker(f"{self.get_name()} {name}", handled, failed, **options)
        self._workers[name] = worker
        return worker

    def _attempt(self, action: Callable[[], object], name: str) -> None:
        """Call `action`; the diagnostics show its error as that of a worker."""
        try:
            action()
        except Exception as error:
            self._report(error, name)
        else:
            self.health.recover(_raised_by(name))

    def _report(self, error: Exception, name: str) -> None:
        """Log an error that the node survives, and show it on the diagnostics."""
        self.health.count("failures")
        self.health.fail(str(error), _raised_by(name), ALARM_S)
        self.get_logger().error(in_words(error), throttle_duration_sec=1.0)

    def _answering(self, callback: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """The callback of a service of rclpy, which answers a wrong request with an empty response.

        rclpy raises, for a transition that the state does not have or a parameter of no type.
        """

        def answer(request: Any, response: Any) -> Any:
            try:
                return callback(request, response)
            except Exception as error:
                self.health.count("requests refused")
                self.get_logger().error(f"a request failed: {error}", throttle_duration_sec=1.0)
                return response

        return answer

    # Lifecycle.

    def start(self) -> bool:
        """Configure and activate if `autostart` is true; False if that fails."""
        if not self.settings.autostart:
            return True
        done = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == done and self.trigger_activate() == done

    def close(self) -> None:
        """Stop all work, in any state, and destroy the node."""
        self._attempt(self._free, "close")
        self.destroy_node()
        # rclpy forgets it: its publisher of `transition_event` would keep the node on the network.
        self._state_machine.destroy_when_not_in_use()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        def configure() -> None:
            self.configure()
            self.hardware()  # raises for a device that is missing, which may be used only later

        return self._transition("configure", configure, undo=self._release)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        def activate() -> None:
            about = ", ".join([*self.introduction(), f"device {self.hardware()}"])
            self.health.begin()
            self.activate()
            self.active = True
            self.get_logger().info(f"active: {about}")

        return self._transition("activate", activate, undo=self._stop_workers)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("deactivate", self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("clean up", self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("shut down", self._free, undo=self._free)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free what a failed transition left: then the node is unconfigured, else finalized."""
        try:
            self._free()
        except Exception as error:
            self.get_logger().error(f"cannot free what it holds: {in_words(error)}")
            return TransitionCallbackReturn.FAILURE
        self.get_logger().error("it is unconfigured now: configure and activate it again")
        return TransitionCallbackReturn.SUCCESS

    def _transition(
        self, verb: str, action: Callable[[], None], undo: Callable[[], None] | None = None
    ) -> TransitionCallbackReturn:
        """Try a transition.

        Args:
            undo: puts the node back where it was; None if nothing does, so that `on_error` follows.
        """
        self.health.recover_all()
        try:
            action()
        except Exception as error:
            self.get_logger().error(f"cannot {verb}: {in_words(error)}")
            self.health.fail(f"cannot {verb}: {error}")
        else:
            return TransitionCallbackReturn.SUCCESS
        if undo is None:
            return TransitionCallbackReturn.ERROR
        try:
            undo()
        except Exception as error:
            self.get_logger().error(f"cannot undo it: {in_words(error)}")
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.FAILURE

    def _free(self) -> None:
        """Stop all work and free all that the node holds, in any state."""
        try:
            if self.active:
                self._deactivate()
        finally:
            self._stop_workers()
            self._release()

    def _deactivate(self) -> None:
        self.active = False
        try:
            self.deactivate()
        finally:
            self._stop_workers()

    def _stop_workers(self) -> None:
        for name, worker in self._workers.items():
            if not worker.close(PATIENCE_S):
                self.get_logger().error(
                    f"{name}: still at work after {PATIENCE_S:g} s, it is not waited for"
                )
        self._workers.clear()

    def _release(self) -> None:
        with ExitStack() as stack:  # all of them, also where one raises
            stack.callback(self.cleanup)
            while self._entities:
                stack.callback(self._entities.pop(0))

    # Parameters.

    def _parameter_values(self) -> dict[str, Any]:
        declared: Any = self.get_parameters_by_prefix("")
        return {name: parameter.value for name, parameter in declared.items()}

    def _changed(self, changes: Sequence[Any]) -> tuple[Config, Any]:
        """Configuration and settings with other parameters. Raises ValueError out of range."""
        values = {parameter.name: parameter.value for parameter in changes}
        if "" in values:  # rclpy would declare it
            raise ValueError("expected a name, got none")
        config = parameters.with_values(self.config, values)
        return config, parameters.with_values(self.settings, values)

    def _check_parameters(self, changes: Sequence[Any]) -> SetParametersResult:
        try:
            reason = self.refusal(*self._changed(changes))
        except ValueError as error:
            reason = str(error)
        return SetParametersResult(successful=not reason, reason=reason)

    def _take_parameters(self, changes: Sequence[Any]) -> None:
        """Called once no callback of the node has refused the changes."""
        self.config, self.settings = self._changed(changes)

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
        try:
            status.hardware_id = self.hardware()
        except GboptError:  # no such device; `configure` says so
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


def _raised_by(name: str) -> str:
    """The subject of the alarm that a worker, timer, topic or service raised an exception.

    A success of the same name ends it, and no alarm that a node tells itself.
    """
    return f"exception of {name}"


def in_words(error: Exception) -> str:
    """One line for an error that the user can act on, the traceback for any other."""
    if isinstance(error, GboptError):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()
