"""Plays a recording on a camera topic, at its own pace or in lockstep with the nodes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import rclpy
from rclpy.exceptions import NameValidationException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.validate_topic_name import validate_topic_name
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from gbopt_ros.msg import ClipFrames, ClipStatus
from gbopt_ros.nodes.base import LINK_QOS, RESULT_QOS
from gbopt_ros.nodes.messages import Stamped, encode_image, make_header, stamp_ns
from gbopt_ros.structures import Frame, GboptError

_SETTLE_S = 0.5  # in this time what is on its way arrives
_SILENCE_S = 2.0  # after which a wait for subscribers is told


class Player:
    """Publishes frames as `sensor_msgs/Image` with their own stamps.

    Args:
        topic: camera topic.
        lockstep: publish a frame only when the nodes are done with the previous one, so that no
            frame is dropped on a slow machine.
        finish: at the end, end the last clip and wait for its masks. In lockstep it always does.
        subscribed: topics that need a subscriber before the first frame is published.
        patience_s: maximum time to wait for a subscriber or for a frame to be done, seconds.
        linger_s: time after the last masks, in which other subscribers get them too, seconds.
        options: for rclpy's node, such as `context` and `namespace`.
    """

    def __init__(
        self,
        topic: str,
        *,
        lockstep: bool = False,
        finish: bool = False,
        subscribed: Sequence[str] = (),
        patience_s: float = 60.0,
        linger_s: float = 0.5,
        **options: Any,
    ) -> None:
        self._node: Node = rclpy.create_node("player", **options)
        self._executor = SingleThreadedExecutor(context=self._node.context)
        self._executor.add_node(self._node)
        self._patience_s, self._linger_s = patience_s, linger_s
        self._lockstep, self._finishes = lockstep, lockstep or finish
        for name in subscribed:
            validate_topic_name(name)
        self._awaited = [self._node.resolve_topic_name(name) for name in subscribed]
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self._images = self._node.create_publisher(ImageMessage, topic, qos)
        self._done: set[int] = set()  # stamps
        self._clips: dict[int, set[int]] = {}  # the stamps of each clip that was announced
        self._selected: set[int] = set()  # clips whose masks are out
        subscribe = self._node.create_subscription
        if lockstep:
            subscribe(Header, "selector/output/done", self._on_done, LINK_QOS)
        if self._finishes:
            subscribe(ClipFrames, "clip_buffer/output/clips", self._on_clip, LINK_QOS)
            subscribe(ClipStatus, "selector/output/status", self._on_status, RESULT_QOS)
            self._flush = self._node.create_client(Trigger, "clip_buffer/flush")

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()

    def play(
        self,
        frames: Iterable[Frame],
        rate: float = 1.0,
        published: Callable[[Frame], None] = lambda frame: None,
    ) -> int:
        """Publish all frames; returns how many.

        Args:
            rate: speed relative to the recording; no effect in lockstep.
            published: called with each frame after it was published.

        Raises:
            GboptError: nobody subscribes to a topic, a frame is never done, or its stamp does not
                fit a ROS header.
        """
        self._wait(
            lambda: self._images.get_subscription_count() > 0,
            f"nobody subscribes to {self._images.topic_name}: do the nodes run, and is this their "
            "camera topic?",
            told_after_s=_SILENCE_S,
        )
        for name in self._awaited:
            self._wait(
                partial(self._has_subscriber, name),
                f"nobody subscribes to {name}",
                told_after_s=_SILENCE_S,
            )
        if self._finishes:
            self._spin_for(_SETTLE_S)
            self._clips.clear()
            self._selected.clear()
        sent: set[int] = set()
        count = 0
        first_ns = last_ns = None
        start = time.monotonic()
        for frame in frames:
            first_ns = frame.stamp_ns if first_ns is None else first_ns
            if not self._lockstep:
                due = start + (frame.stamp_ns - first_ns) / 1e9 / rate
                self._spin_for(due - time.monotonic())
            self._done.clear()
            self._images.publish(
                encode_image(Stamped(make_header(frame.stamp_ns, frame.frame_id), frame.image))
            )
            sent.add(frame.stamp_ns)
            count += 1
            # The nodes drop a frame that repeats the previous stamp, as a replay does.
            if self._lockstep and frame.stamp_ns != last_ns:
                self._wait(
                    partial(self._done.__contains__, frame.stamp_ns),
                    f"the nodes did not finish frame {frame.index}: are all of them active?",
                )
            last_ns = frame.stamp_ns
            published(frame)
        if self._finishes and last_ns is not None:
            if not self._lockstep:
                self._spin_for(_SETTLE_S)  # the call below must not overtake the last image
            # Without lockstep some frames may be dropped, but never the last one.
            self._finish(sent if self._lockstep else {last_ns})
            self._spin_for(self._linger_s)
        return count

    def _finish(self, sent: set[int]) -> None:
        """End the last clip and wait until the masks of all clips with these frames are out."""
        if not self._flush.wait_for_service(self._patience_s):
            raise GboptError("no service clip_buffer/flush: do the nodes run?")
        answer = self._flush.call_async(Trigger.Request())

        def is_over() -> bool:
            clips = {number for number, stamps in self._clips.items() if stamps & sent}
            told = set[int]().union(*(self._clips[number] for number in clips))
            return sent <= told and clips <= self._selected

        self._wait(is_over, "the nodes did not finish the last clip")
        # A service waits for a client that leaves before its answer; the answer itself may be lost.
        self._spin_for(_SETTLE_S, answer.done)

    def _on_done(self, header: Any) -> None:
        self._done.add(stamp_ns(header.stamp))

    def _on_clip(self, message: Any) -> None:
        self._clips[message.clip_id] = {stamp_ns(stamp) for stamp in message.stamps}

    def _on_status(self, message: Any) -> None:
        self._selected.add(message.clip_id)

    def _has_subscriber(self, topic: str) -> bool:
        return bool(self._node.count_subscribers(topic) > 0)

    def _spin_for(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not is_over():
            self._executor.spin_once(timeout_sec=min(left, 0.1))

    def _wait(
        self, condition: Callable[[], bool], complaint: str, told_after_s: float = math.inf
    ) -> None:
        start = time.monotonic()
        while not condition():
            waited = time.monotonic() - start
            if waited > self._patience_s:
                raise GboptError(f"{complaint} (waited {self._patience_s:g} s)")
            if waited > told_after_s:
                self._node.get_logger().info(f"waiting up to {self._patience_s:g} s: {complaint}")
                told_after_s = math.inf
            self._executor.spin_once(timeout_sec=0.05)


@contextmanager
def player(topic: str, **options: Any) -> Iterator[Player]:
    """A player in a ROS context of its own; arguments as for `Player`.

    Raises:
        GboptError: the topic or the namespace is no valid ROS name.
    """
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    try:
        playing = Player(topic, context=context, **options)
        try:
            yield playing
        finally:
            playing.close()
    except NameValidationException as error:
        # Its last line marks a place in the line before.
        raise GboptError(" ".join(str(error).split()).rstrip(" ^")) from error
    finally:
        context.try_shutdown()


def looped(frames: Iterable[Frame], times: int) -> Iterator[Frame]:
    """The recording `times` times, 0 for ever; the stamps go on increasing."""
    offset, done = 0, 0
    while times == 0 or done < times:
        stamps: list[int] = []
        for frame in frames:
            stamps.append(frame.stamp_ns)
            yield replace(frame, stamp_ns=frame.stamp_ns + offset)
        steps = [b - a for a, b in pairwise(stamps) if b > a]
        period = int(median(steps)) if steps else 10**8
        offset += max(stamps) - min(stamps) + period
        done += 1
