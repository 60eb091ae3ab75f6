"""Camera in, clips out: decodes, cuts, and lets through only what the networks keep up with."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_srvs.srv import Trigger

from gbopt_ros.config import setting
from gbopt_ros.io.clip_cutter import ClipCutter
from gbopt_ros.io.sources.images import image_from_compressed_message, image_from_message
from gbopt_ros.msg import ClipFrames
from gbopt_ros.nodes.base import LINK_QOS, NodeSettings, PipelineNode, spin
from gbopt_ros.nodes.intra_process import IntraProcessBus
from gbopt_ros.nodes.messages import CLIPS, HEADERS, IMAGE, Stamped, make_time, stamp_ns
from gbopt_ros.structures import Clip, ClipEnd, Frame, GboptError

TRANSPORTS = {
    "raw": (ImageMessage, image_from_message),
    "compressed": (CompressedImage, image_from_compressed_message),
}
_REASONS = {
    ClipEnd.LENGTH: ClipFrames.REASON_LENGTH,
    ClipEnd.GAP: ClipFrames.REASON_GAP,
    ClipEnd.SIZE: ClipFrames.REASON_SIZE,
    ClipEnd.STAMP: ClipFrames.REASON_STAMP,
    ClipEnd.STREAM: ClipFrames.REASON_END,
}


@dataclass(frozen=True)
class ClipBufferSettings(NodeSettings):
    """Parameters of the clip buffer itself."""

    image_transport: str = setting(
        "raw", "of the camera topic", choices=tuple(TRANSPORTS), fixed=True
    )
    queue: int = setting(
        1, "frames that wait until the networks are free; newest win", low=1, fixed=True
    )
    max_in_flight: int = setting(
        4, "frames that the networks work on at a time; further ones wait", low=1, high=16
    )
    consumers: str = setting(
        "proposal, background, flow, selector",
        "nodes that must have subscribed before the first frame goes out, where they have other "
        "processes; none waits for nobody",
        fixed=True,
    )
    idle_timeout_s: float = setting(
        5.0, "without a frame the current clip ends after this, seconds on the wall", above=0.0
    )
    stall_timeout_s: float = setting(
        10.0,
        "a frame that went out is given up after this, if none is finished any more or later ones "
        "were; seconds on the wall",
        above=0.0,
    )


@dataclass(frozen=True)
class _Arrival:
    """A camera message (None: end the clip for `end`), its number and its time."""

    message: Any
    index: int
    received_ns: int
    end: ClipEnd = ClipEnd.STREAM


class ClipBufferNode(PipelineNode):
    """Backpressure is here and nowhere else: every frame that goes out is seen by all networks.

    Frames in flight are those that went out and that the selector has not finished yet. While
    there are `max_in_flight` of them, arriving frames wait; beyond `queue` the oldest is dropped.
    So they do until all `consumers` have loaded their networks and subscribed: what goes out
    before would be lost to them.
    """

    SECTIONS = ("clip",)
    SETTINGS = ClipBufferSettings

    def __init__(self, bus: IntraProcessBus | None = None, **options: Any) -> None:
        self._lock = threading.Lock()
        self._in_flight: dict[int, float] = {}  # stamp, when it went out
        self._received = 0
        super().__init__("clip_buffer", bus, **options)

    def configure(self) -> None:
        self._images = self.output("~/output/image", IMAGE, LINK_QOS)
        self._clips = self.output("~/output/clips", CLIPS, LINK_QOS)
        self._begun = self.output("~/output/partial_clip", CLIPS, LINK_QOS)
        self.input("~/input/done", HEADERS, LINK_QOS, self._on_done)
        message_type, self._decode = TRANSPORTS[self.settings.image_transport]
        self.subscription(message_type, "~/input/image", qos_profile_sensor_data, self._on_image)
        self.service(Trigger, "~/flush", self._on_flush)
        self.timer(0.2, self._watch)

    def activate(self) -> None:
        self._received = 0
        self._last_arrival = time.monotonic()
        self._in_flight.clear()
        self._is_heard = self.bus is not None  # there, everyone is before frames come
        self._clip_ends: set[int] = set()  # stamps in flight that end a clip
        self._last_done = time.monotonic()
        self._last_done_sent = 0.0  # when what was finished went out, the latest of them
        self._dropped_before = 0  # the frame that came last, by the queue
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
        self._arrivals.close()
        self._publish_clips(self._cutter.flush(), time.time_ns())

    def facts(self) -> dict[str, object]:
        return {"in flight": len(self._in_flight), "received": self._received}

    def _make_cutter(self, first_id: int) -> ClipCutter:
        clip = self._cut_by
        return ClipCutter(
            clip.length, max_gap_s=clip.max_gap_s, overlap=clip.overlap, first_id=first_id
        )

    def _has_room(self) -> bool:
        return self._is_heard and len(self._in_flight) < self.settings.max_in_flight

    def _on_image(self, message: Any) -> None:
        self._last_arrival = time.monotonic()
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
        """End the clip of a camera that fell silent; give up frames that nobody finishes."""
        now = time.monotonic()
        if not self._is_heard:  # nothing went out: no clip to end, and no frame to give up
            self._look_for_consumers()
            return
        if now - self._last_arrival > self.settings.idle_timeout_s:
            self._last_arrival = now
            self._arrivals.put(_Arrival(None, -1, time.time_ns(), ClipEnd.GAP))
        with self._lock:
            # Slow networks finish one frame after the other: one that went out long ago is given up
            # only where nothing is finished any more or a later one was; but what ends a clip is
            # finished with the clip.
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
            cause = "a network lost them, its log says why"
            if is_still:
                self.health.warn(
                    "frames go out, but nobody finishes them: is the selector active?", "stall"
                )
                cause = "are proposal, background, flow and selector active?"
            self.get_logger().warning(
                f"{len(late)} frames given up after {self.settings.stall_timeout_s:g} s: {cause}",
                throttle_duration_sec=60.0,
            )
            self._arrivals.poke()

    def _look_for_consumers(self) -> None:
        """Let frames go out once everyone subscribes to them; who leaves later may come back."""
        wanted, topic = self.settings.consumers, self._images.topic
        names = [] if wanted == "none" else [name.strip() for name in wanted.split(",")]
        subscribed = self.get_subscriptions_info_by_topic(topic)
        there = {subscription.node_name for subscription in subscribed}
        missing = [name for name in names if name not in there]
        # A subscription is known of a little before it is matched.
        if not missing and self._images.subscriptions >= len(names):
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
        if self._cut_by != self.config.clip:  # the parameters were changed
            self._publish_clips(self._cutter.flush(), arrival.received_ns)
            self._cut_by = self.config.clip
            self._cutter = self._make_cutter(first_id=self._cutter.next_id)
        if arrival.message is None:
            self._publish_clips(self._cutter.flush(arrival.end), arrival.received_ns)
            return
        start = time.monotonic()
        header = arrival.message.header
        stamp = stamp_ns(header.stamp)
        try:
            if stamp < 0:
                raise GboptError(f"stamp {stamp} ns: expected 0 or later")
            image = self._decode(arrival.message)
        except GboptError as error:
            self.health.count("dropped")
            self.health.count("undecodable")
            self.health.warn(f"frame {arrival.index}: {error}")
            self.get_logger().warning(
                f"frame {arrival.index} skipped: {error}", throttle_duration_sec=10.0
            )
            return
        repeats, dropped = self._cutter.dropped, self._arrivals.dropped
        clips = self._cutter.push(Frame(image, stamp, arrival.index, header.frame_id))
        # The end of a clip goes out before the frame that it ends with, see `SelectorNode`.
        self._publish_clips(clips, arrival.received_ns)
        if self._cutter.dropped > repeats:
            self.health.count("dropped")
            self.health.count("repeated stamps")
            complaint = f"frame {arrival.index} repeats the stamp {stamp / 1e9:.6f} s: left out"
            self.health.warn(complaint, "stamps")
            self.get_logger().warning(
                f"{complaint}; if all do, the camera driver does not fill header.stamp",
                throttle_duration_sec=10.0,
            )
            return
        self.health.recover()
        self.health.recover("stamps")
        if dropped > self._dropped_before and any(clip.end is ClipEnd.GAP for clip in clips):
            self._tell_of_torn_clips()
        elif any(clip.end is ClipEnd.LENGTH for clip in clips):
            self.health.recover("torn clips")
        self._dropped_before = dropped
        begun = self._cutter.begun
        if begun is not None:
            self._begun.publish(self._message(begun, arrival.received_ns))
        with self._lock:
            self._in_flight[stamp] = time.monotonic()
        self._images.publish(Stamped(header, image))
        self.health.done(time.monotonic() - start)

    def _tell_of_torn_clips(self) -> None:
        """Frames that were dropped because the networks are busy left a gap that ends the clip."""
        complaint = (
            f"clips end early: the networks are slower than a frame in {self._cut_by.max_gap_s:g} s"
        )
        self.health.warn(complaint, "torn clips")
        self.get_logger().warning(
            f"{complaint} (clip.max_gap_s); raise it, or take smaller networks or images",
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


if __name__ == "__main__":
    sys.exit(main())
