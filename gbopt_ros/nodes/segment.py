"""The action `~/segment`: the masks of a number of frames, when they are wanted."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gbopt_ros.action import Segment
from gbopt_ros.nodes.actions import NodeAction
from gbopt_ros.nodes.messages import stamp_ns
from gbopt_ros.structures import GboptError

MOST_FRAMES = 200  # a goal may ask for; as many are remembered
_MOST_GOALS = 32  # that may wait at once: each holds masks
_WATCH_PERIOD_S = 0.2


@dataclass(eq=False)
class _Goal:
    """A goal that waits.

    Attributes:
        count: number of frames that are wanted.
        since_ns: stamp from which they count.
        end: when to give up, seconds of the monotonic clock.
        earlier: number of frames that came and were taken before `since_ns`.
        too_old: number of frames that came too long before the goal.
    """

    handle: Any
    count: int
    since_ns: float
    end: float
    masks: list[Any] = field(default_factory=list)
    earlier: int = 0
    too_old: int = 0


class SegmentAction:
    """Remembers the newest masks and gives them to whoever asks.

    Args:
        node: a `PipelineNode` with the setting `segment_max_age_s`.
        name: name of the action.
        waits: why there are no masks after those of a stamp, in words; called when a goal ends
            without all of its masks.
    """

    def __init__(self, node: Any, name: str, waits: Callable[[int], str]) -> None:
        self._node, self._waits = node, waits
        self._lock = threading.Lock()
        self._goals: list[_Goal] = []
        # Masks, and when they were published, seconds of the monotonic clock.
        self._newest: deque[tuple[Any, float]] = deque(maxlen=MOST_FRAMES)
        self._action = NodeAction(node, Segment, name, self._start)
        # It stands still while no goal waits: each time that it wakes the node costs 2 ms.
        self._timer = node.timer(_WATCH_PERIOD_S, self.watch)
        self._timer.cancel()

    def destroy(self) -> None:
        """Take the action from the network."""
        self._action.destroy()

    def forget(self) -> None:
        """Forget the masks of before, to be called when the node is activated."""
        with self._lock:
            self._newest.clear()

    def add(self, masks: Any) -> None:
        """Note a `SelectedMasks` that is published, from any thread."""
        with self._lock:
            self._newest.append((masks, time.monotonic()))
            for goal in self._goals:
                if stamp_ns(masks.header.stamp) < goal.since_ns:
                    goal.earlier += 1
                    continue
                goal.masks.append(masks)
                goal.handle.publish_feedback(Segment.Feedback(received=len(goal.masks)))
        self._answer_ended()

    def watch(self) -> None:
        """Answer the goals that have all masks, are cancelled, or took too long.

        To be called when the node is deactivated, by the thread that spins; what else it needs,
        this object does itself.
        """
        self._answer_ended()
        # Only here: rclpy fails to call a timer that another thread stops when it has run out.
        if not self._goals:
            self._timer.cancel()

    def _answer_ended(self) -> None:
        now = time.monotonic()
        with self._lock:
            done = [
                goal
                for goal in self._goals
                if len(goal.masks) >= goal.count
                or goal.handle.is_cancel_requested
                or now >= goal.end
                or not self._node.active
            ]
            self._goals = [goal for goal in self._goals if goal not in done]
        for goal in done:
            self._answer(goal)

    def _start(self, handle: Any) -> None:
        wanted = handle.request
        if not self._node.active:
            raise GboptError(f"{self._node.get_name()} is not active")
        if not 1 <= wanted.frames <= MOST_FRAMES:
            raise GboptError(f"frames: expected 1 to {MOST_FRAMES}, got {wanted.frames}")
        if not 0 < wanted.timeout < math.inf:
            raise GboptError(f"timeout: expected seconds above 0, got {wanted.timeout}")
        since = self._node.get_clock().now().nanoseconds if wanted.from_now else -math.inf
        now = time.monotonic()
        goal = _Goal(handle, wanted.frames, since, now + wanted.timeout)
        with self._lock:
            if len(self._goals) >= _MOST_GOALS:
                raise GboptError(f"{_MOST_GOALS} goals wait already: cancel one, or come later")
            if not wanted.from_now:
                oldest = now - self._node.settings.segment_max_age_s
                fresh = [masks for masks, published in self._newest if published >= oldest]
                goal.masks += fresh[-goal.count :]
                goal.too_old = len(self._newest) - len(fresh)
            self._goals.append(goal)
            self._timer.reset()
        self.watch()

    def _answer(self, goal: _Goal) -> None:
        count = len(goal.masks)
        message = f"masks of {count} frames"
        if count < goal.count:
            message = f"masks of {count} of {goal.count} frames: {self._why(goal)}"
        self._action.finish(
            goal.handle,
            success=count >= goal.count,
            message=message,
            masks=goal.masks[-goal.count :],
        )

    def _why(self, goal: _Goal) -> str:
        if goal.handle.is_cancel_requested:
            return "the goal was cancelled"
        if not self._node.active:
            return f"{self._node.get_name()} is not active any more"
        if goal.earlier:
            return f"{goal.earlier} others were taken before the goal came, by their stamps"
        with self._lock:
            last = stamp_ns(self._newest[-1][0].header.stamp) if self._newest else -1
        if goal.too_old:
            age = self._node.settings.segment_max_age_s
            return (
                f"{goal.too_old} others were published more than {age:g} s before the goal came "
                f"(segment_max_age_s); {self._waits(last)}"
            )
        return self._waits(last)
