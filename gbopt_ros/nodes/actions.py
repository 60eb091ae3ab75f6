"""Actions of a node: goals that wait for a worker, while the executor goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.clock import Clock, ClockType
from rclpy.executors import ShutdownException, TimeoutException

from gbopt_ros.structures import GboptError

_RESULT_TIMEOUT_S = 60  # for which a result with all its masks is kept; rclpy's default is 15 min
_SYSTEM_CLOCK = Clock(clock_type=ClockType.SYSTEM_TIME)  # rcl only points to that of an action


class _OnSystemClock:
    """A node with the clock of the system, and all else as it is."""

    def __init__(self, node: Any) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def get_clock(self) -> Clock:
        return _SYSTEM_CLOCK


class _Server(ActionServer):
    """A server whose goals are executing from when they are accepted.

    rclpy would call back at once, on the executor, and take what that returns for the result.

    Results are kept for wall time: the timer for it would wake the executor with every message on
    /clock, also while there are none.
    """

    def __init__(self, node: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(_OnSystemClock(node), *arguments, **options)
        self._node = node  # stamps what it accepts

    def notify_execute(self, goal_handle: Any, execute_callback: Any) -> None:
        if execute_callback is not None:
            super().notify_execute(goal_handle, execute_callback)


class NodeAction:
    """An action of a node. Every goal is accepted, so that a refused one can say why.

    A goal is executing until `finish` is called with it, from any thread.

    Args:
        name: name of the action. Unlike rclpy's, it follows the remap rules of services.
        start: called with the handle of each goal, on the executor. If it raises a GboptError, the
            goal is aborted with its text as `message`. When a client asks to cancel, the handle
            says so by `is_cancel_requested`; the goal still has to be finished.
    """

    def __init__(
        self, node: Any, action_type: Any, name: str, start: Callable[[Any], None]
    ) -> None:
        self._node, self._type, self._start = node, action_type, start
        self._finished: list[Any] = []  # goals whose results the executor has still to send
        self._server = _Server(
            node,
            action_type,
            node.resolve_service_name(name),
            execute_callback=lambda goal: action_type.Result(),  # never called, see `_Server`
            handle_accepted_callback=self._on_goal,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
            result_timeout=_RESULT_TIMEOUT_S,
        )

    def destroy(self) -> None:
        """Take the action from the network, after the results of the goals that are finished.

        To be called on the thread of the executor, or when it does not spin any more.
        """
        executor = self._node.executor
        if self._finished and executor is not None:
            for _ in range(2):  # a task concludes the goal and leaves one that sends the result
                with suppress(ShutdownException, TimeoutException):
                    while True:
                        task, *_ = executor.wait_for_ready_callbacks(0.0, [])  # of no node
                        task()
        self._server.destroy()

    def finish(self, goal: Any, **result: Any) -> None:
        """Answer a goal: it succeeded, was cancelled or is aborted.

        Args:
            result: the fields of the result, among them `success`.
        """
        self._finished.append(goal)
        self._server.notify_execute(goal, partial(self._conclude, result=result))

    def _on_goal(self, goal: Any) -> None:
        goal.execute()
        try:
            self._start(goal)
        except Exception as error:
            self.finish(goal, success=False, message=str(error))
            if not isinstance(error, GboptError):
                raise

    def _conclude(self, goal: Any, result: dict[str, Any]) -> Any:
        # Tasks run before anything else, so the result is sent when this one has run.
        self._node.executor.create_task(self._finished.remove, goal)
        if result["success"]:
            goal.succeed()
        elif goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return self._type.Result(**result)
