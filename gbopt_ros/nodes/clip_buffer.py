"""Camera in, clips out: sends no more frames than the networks can keep up with."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_srvs.srv import Trigger

from gbopt_ros.config import Config
from gbopt_ros.io.clip_cutter import ClipCutter
from gbopt_ros.io.sources.images import (
    IMAGE_TYPES,
    image_from_compressed_message,
)
from gbopt_ros.msg import ClipFrames
from gbopt_ros.nodes.base import ALARM_S, LINK_QOS, PATIENCE_S, PipelineNode
from gbopt_ros.nodes.camera import silence, topic_in_words
from gbopt_ros.nodes.intra_process import IntraProcessBus
from gbopt_ros.nodes.messages import CLIPS, HEADERS, IMAGE, Stamped, make_time, stamp_ns
from gbopt_ros.nodes.ros_libraries import colour_image
from gbopt_ros.nodes.settings import TRANSPORTS, ClipBufferSettings
from gbopt_ros.nodes.spin import spin
from gbopt_ros.structures import Clip, ClipEnd, Frame, GboptError

_DECODERS = {
    "raw": (ImageMessage, colour_image),
    "compressed": (CompressedImage, image_from_compressed_message),
}
_TYPES = dict(zip(TRANSPORTS, IMAGE_TYPES, strict=True))
_CAMERA_QOS = qos_profile_sensor_data
_WATCH_PERIOD_S, _LOOK_PERIOD_S = 0.5, 2.0  # of the look for the camera's publishers
_DROPS_WINDOW_S, _MANY_DROPS = 10.0, 0.1  # share of the frames whose loss is worth a warning
_LOST = "lost before arrival"  # a count of the diagnostics
_REASONS = {
    ClipEnd.LENGTH: ClipFrames.REASON_LENGTH,
    ClipEnd.GAP: ClipFrames.REASON_GAP,
    ClipEnd.SIZE: ClipFrames.REASON_SIZE,
    ClipEnd.STAMP: ClipFrames.REASON_STAMP,
    ClipEnd.STREAM: ClipFrames.REASON_END,
}


@dataclass(frozen=True)
class _Arrival:
    """A camera message, its number and its time. Without message: the clip ends here."""

    message: Any
    index: int
    received_ns: int
    end: ClipEnd = ClipEnd.STREAM
    received: float = field(default_factory=time.monotonic)


class ClipBufferNode(PipelineNode):
    """Frames are dropped only here: the networks process every frame that is sent.

    A frame is in flight from when it is sent until the selector has finished it. While there are
    `max_in_flight` of them, new frames wait, `queue` of them and for `max_wait_s`; then the oldest
    is dropped. Frames also wait until all `consumers` have loaded their networks and subscribed.
    """

    NAME = "clip_buffer"
    SECTIONS = ("clip",)
    SETTINGS = ClipBufferSettings

    def __init__(self, bus: IntraProcessBus | None = None, **options: Any) -> None:
        self._lock = threading.Lock()
        self._in_flight: dict[int, float] = {}  # stamp: when the frame was sent
        self._received = 0
        super().__init__(bus, **options)
        self._longest = self.config.clip.length

    def configure(self) -> None:
        self._images = self.output("~/output/image", IMAGE, LINK_QOS)
        self._clips = self.output("~/output/clips", CLIPS, LINK_QOS)
        self._partial_clips = self.output("~/output/partial_clip", CLIPS, LINK_QOS)
        self.input("~/input/done", HEADERS, LINK_QOS, self._on_done)
        message_type, self._decode = _DECODERS[self.settings.image_transport]
        self._camera_qos = self.subscription(
            message_type, self._camera, _CAMERA_QOS, self._on_image,
            on_lost=partial(self.health.count, _LOST),
        )  # fmt: skip
        self.service(Trigger, "~/flush", self._on_flush)
        self.timer(_WATCH_PERIOD_S, self._watch)

    def activate(self) -> None:
        self._received = 0
        self._last_arrival = self._last_frame = time.monotonic()
        self._next_look = 0.0
        # Time, frames that were sent or dropped, and frames dropped by then.
        self._drops = deque([(self._last_frame, 0, 0)])
        self._in_flight.clear()
        self._is_heard = self.bus is not None  # within a process all nodes are there from the start
        self._hear()
        self._clip_ends: set[int] = set()  # stamps of the last frames of clips, in flight
        self._last_done = time.monotonic()
        self._last_done_sent = 0.0  # when the newest finished frame was sent
        self._last_stamp_ns = 0  # of the newest frame
        self._stale = 0  # frames that waited too long
        self._dropped_before = 0  # frames lost, or dropped from the queue, until the last one
        self._cut_by = self.config.clip
        self._cutter = self._make_cutter(first_id=0)
        self._arrivals = self.worker(
            "camera",
            self._handle,
            capacity=self.settings.queue,
            ready=self._has_room,
            on_drop=lambda arrival: self.health.count("dropped"),
            is_kept=lambda arrival: arrival.message is None,
        )

    def deactivate(self) -> None:
        self._arrivals.close(PATIENCE_S)
        self._publish_clips(self._cutter.flush(), time.time_ns())

    def refusal(self, config: Config, settings: Any) -> str:
        if config.clip.length <= self._longest:
            return ""
        return (
            f"clip.length: the other nodes hold the frames of clips of at most {self._longest}; "
            "start all nodes with a larger one"
        )

    def facts(self) -> dict[str, object]:
        return {"in flight": len(self._in_flight), "received": self._received}

    def introduction(self) -> list[str]:
        return [f"camera {self._camera_in_words()}"]

    @property
    def _camera(self) -> str:
        """The topic of the images, named as image_transport names it."""
        name = self.topic("~/input/image")
        base = str(self.resolve_topic_name(name))
        if self.settings.image_transport == "raw" or base.endswith("/compressed"):
            return name
        return f"{base}/{self.settings.image_transport}"

    def _camera_in_words(self) -> str:
        topic = self.resolve_topic_name(self._camera)
        return topic_in_words(topic, _TYPES[self.settings.image_transport], self._camera_qos)

    def _why_silent(self) -> str:
        topic = self.resolve_topic_name(self._camera)
        compressed = "set image_transport to compressed"
        if not topic.endswith("/compressed"):  # which `_camera` would append
            compressed += f" and remap {topic}/compressed to {topic}"
        advice = {
            _TYPES["raw"]: f"set image_transport to raw and the camera topic to {topic}",
            _TYPES["compressed"]: compressed,
        }
        return silence(self, topic, _TYPES[self.settings.image_transport], advice)

    def _make_cutter(self, first_id: int) -> ClipCutter:
        clip = self._cut_by
        return ClipCutter(
            clip.length,
            max_gap_s=clip.max_gap_s,
            overlap=clip.overlap,
            first_id=first_id,
            max_pixels=clip.max_pixels,
        )

    def _has_room(self) -> bool:
        return self._is_heard and len(self._in_flight) < self.settings.max_in_flight

    def _on_image(self, message: Any) -> None:
        self._last_arrival = self._last_frame = time.monotonic()
        self._arrivals.put(_Arrival(message, self._received, time.time_ns()))
        self._received += 1

    def _on_done(self, header: Any) -> None:
        with self._lock:
            self._last_done = time.monotonic()
            stamp = stamp_ns(header.stamp)
            sent = self._in_flight.pop(stamp, 0.0)
            self._last_done_sent = max(self._last_done_sent, sent)
            self._clip_ends.discard(stamp)
        self.health.recover("stall")
        self._arrivals.poke()

    def _on_flush(self, request: Any, response: Any) -> str:
        self._arrivals.put(_Arrival(None, -1, time.time_ns()))
        return "the clip ends here"

    def _watch(self) -> None:
        """End the clip if the camera is silent; give up frames that nobody finishes."""
        now = time.monotonic()
        self._watch_camera(now)
        self._watch_drops(now)
        if not self._is_heard:  # nothing was sent: no clip to end, and no frame to give up
            self._look_for_consumers()
            return
        if now - self._last_arrival > self.settings.idle_timeout_s:
            self._last_arrival = now
            self._arrivals.put(_Arrival(None, -1, time.time_ns(), ClipEnd.GAP))
        with self._lock:
            # Slow networks finish frames in order. So an old frame is given up only if no frame is
            # finished any more, or a later one was. The last frame of a clip waits for its clip.
            limit = now - self.settings.stall_timeout_s
            is_still = self._last_done < limit
            late = [
                stamp
                for stamp, sent in self._in_flight.items()
                if sent < limit
                and (is_still or (sent < self._last_done_sent and stamp not in self._clip_ends))
            ]
            for stamp in late:
                del self._in_flight[stamp]
                self._clip_ends.discard(stamp)
        if late:
            self.health.count("given up", len(late))
            cause = "a node failed on them or lost them; its log says why"
            if is_still:
                cause = (
                    "none is finished any more. Of proposal, background, flow and selector, one is "
                    "not active, fails (/diagnostics says so), or needs longer than "
                    "stall_timeout_s"
                )
            complaint = (
                f"{len(late)} frames given up after {self.settings.stall_timeout_s:g} s: {cause}"
            )
            if is_still:
                self.health.warn(complaint, "stall")
            self.get_logger().warning(complaint, throttle_duration_sec=60.0)
            self._arrivals.poke()

    def _watch_camera(self, now: float) -> None:
        silent = now - self._last_frame
        if silent <= self.settings.idle_timeout_s:
            self.health.recover("silence")
            return
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_PERIOD_S
        since = f"no frame for {silent:.0f} s" if self._received else "no frame yet"
        complaint = f"{since} on {self._camera_in_words()}: {self._why_silent()}"
        self.health.fail(complaint, "silence")
        self.get_logger().warning(complaint, throttle_duration_sec=30.0)

    def _watch_drops(self, now: float) -> None:
        """Warn while many of the last frames were dropped, or lost before they came here."""
        gone = self.health.counted("dropped") + self.health.counted(_LOST)
        self._drops.append((now, gone + self.health.counted("done"), gone))
        while self._drops[0][0] < now - _DROPS_WINDOW_S:
            self._drops.popleft()
        (_, all_before, gone_before), (_, all_now, gone_now) = self._drops[0], self._drops[-1]
        lost, of = gone_now - gone_before, all_now - all_before
        if lost > _MANY_DROPS * of:
            self.health.warn(f"{lost} of the last {of} frames dropped", "drops")
        else:
            self.health.recover("drops")

    def _hear(self) -> None:
        """Note the time from which on frames are sent: those that came before wait from then on."""
        self._heard_at, self._heard_ns = time.monotonic(), time.time_ns()

    def _look_for_consumers(self) -> None:
        """Send frames from now on if all consumers have subscribed; they may leave later."""
        wanted, topic = self.settings.consumers, self._images.topic
        names = [] if wanted == "none" else [name.strip() for name in wanted.split(",")]
        subscribed = self.get_subscriptions_info_by_topic(topic)
        there = {subscription.node_name for subscription in subscribed}
        missing = [name for name in names if name not in there]
        # A subscription is known a little before it is matched.
        if not missing and self._images.subscriptions >= len(names):
            self._hear()
            self._is_heard = True
            self.health.recover("consumers")
            self._arrivals.poke()
        elif missing and self._received > 0:
            complaint = f"frames wait: {topic} is not subscribed by {', '.join(missing)}"
            self.health.warn(complaint, "consumers")
            self.get_logger().warning(
                f"{complaint}: are they configured? (parameter consumers)",
                throttle_duration_sec=10.0,
            )

    def _handle(self, arrival: _Arrival) -> None:
        received_ns = max(arrival.received_ns, self._heard_ns)
        if self._cut_by != self.config.clip:  # a parameter was changed
            self._publish_clips(self._cutter.flush(), received_ns)
            self._cut_by = self.config.clip
            self._cutter = self._make_cutter(first_id=self._cutter.next_id)
        if arrival.message is None:
            self._publish_clips(self._cutter.flush(arrival.end), received_ns)
            return
        arrived = max(arrival.received, self._heard_at)
        is_newest = arrival.index == self._received - 1
        if time.monotonic() - arrived > self.settings.max_wait_s and not is_newest:
            self._stale += 1
            self.health.count("dropped")
            return
        frame = self._decoded(arrival)
        if frame is None:
            return
        repeats = self._cutter.dropped
        dropped = self._arrivals.dropped + self._stale + self.health.counted(_LOST)
        clips = self._cutter.push(frame)
        # A clip is announced before its last frame is sent, see `SelectorNode`.
        self._publish_clips(clips, received_ns)
        if self._cutter.dropped > repeats:
            self.health.count("dropped")
            self.health.count("repeated stamps")
            complaint = (
                f"frame {frame.index} repeats the stamp {frame.stamp_ns / 1e9:.6f} s: dropped"
            )
            self.health.warn(complaint, "stamps")
            self.get_logger().warning(
                f"{complaint}; if this happens to every frame, the camera driver does not fill "
                "header.stamp",
                throttle_duration_sec=10.0,
            )
            return
        self.health.recover()
        self.health.recover("stamps")
        if frame.stamp_ns < self._last_stamp_ns:
            self._tell_of_jump(frame)
        self._last_stamp_ns = frame.stamp_ns
        if dropped > self._dropped_before and any(clip.end is ClipEnd.GAP for clip in clips):
            self._tell_of_torn_clips()
        elif any(clip.end is ClipEnd.LENGTH for clip in clips):
            self.health.recover("torn clips")
        self._dropped_before = dropped
        growing = self._cutter.partial
        if growing is not None:
            self._partial_clips.publish(self._message(growing, received_ns))
        with self._lock:
            self._in_flight[frame.stamp_ns] = time.monotonic()
        self._images.publish(Stamped(arrival.message.header, frame.image))
        self.health.done(time.monotonic() - arrived)

    def _decoded(self, arrival: _Arrival) -> Frame | None:
        """The frame of a message; None, counted and logged, if it is broken."""
        header = arrival.message.header
        stamp = stamp_ns(header.stamp)
        try:
            if stamp < 0:
                raise GboptError(f"stamp {stamp} ns: expected 0 or later")
            make_time(stamp)  # raises where no message can announce it
            if getattr(arrival.message, "width", 1) * getattr(arrival.message, "height", 1) == 0:
                raise GboptError("the image has 0 pixels; does the camera deliver any?")
            image = self._decode(arrival.message, self._cut_by.max_pixels)
            return Frame(image, stamp, arrival.index, header.frame_id)
        except GboptError as error:
            self.health.count("dropped")
            self.health.count("undecodable")
            self.health.warn(f"frame {arrival.index}: {error}")
            self.get_logger().warning(
                f"frame {arrival.index} skipped: {error}", throttle_duration_sec=10.0
            )
            return None

    def _tell_of_jump(self, frame: Frame) -> None:
        """Warn that a stamp jumped back, with which all objects get new ids."""
        self.health.count("stamps jumped back")
        seconds = (self._last_stamp_ns - frame.stamp_ns) / 1e9
        complaint = (
            f"the stamp of frame {frame.index} jumped back by {seconds:.3f} s, a new clip begins"
        )
        topic = self.resolve_topic_name(self._camera)
        publishers = self.count_publishers(topic)
        if publishers > 1:
            complaint += f": {publishers} nodes publish {topic}"
        self.health.warn(complaint, "jump", ALARM_S)
        self.get_logger().warning(complaint, throttle_duration_sec=10.0)

    def _tell_of_torn_clips(self) -> None:
        """Warn that frames were dropped or lost, which left a gap that ends the clip."""
        complaint = (
            f"clips end early: dropped frames leave gaps of more than {self._cut_by.max_gap_s:g} s"
        )
        self.health.warn(complaint, "torn clips")
        self.get_logger().warning(
            f"{complaint} (clip.max_gap_s); where the networks are too slow, raise it, or take "
            "smaller networks or images",
            throttle_duration_sec=60.0,
        )

    def _publish_clips(self, clips: Sequence[Clip], received_ns: int) -> None:
        for clip in clips:
            with self._lock:
                self._clip_ends.add(clip.frames[-1].stamp_ns)
            self._clips.publish(self._message(clip, received_ns))
            self.health.count("clips")

    def _message(self, clip: Clip, received_ns: int) -> Any:
        last = clip.frames[-1]
        message = ClipFrames(
            clip_id=clip.clip_id,
            stamps=[make_time(frame.stamp_ns) for frame in clip.frames],
            frame_indices=[frame.index for frame in clip.frames],
            height=clip.size[0],
            width=clip.size[1],
            reason=_REASONS[clip.end],
            received=make_time(received_ns),
            dropped=self.health.counted("dropped"),
        )
        message.header.stamp = make_time(last.stamp_ns)
        message.header.frame_id = last.frame_id
        return message


def main(arguments: Sequence[str] | None = None) -> int:
    return spin(lambda: [ClipBufferNode()], arguments)
