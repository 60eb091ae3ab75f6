"""Selects the masks of every clip jointly and publishes them for planners and for the learner."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sensor_msgs.msg import Image as ImageMessage

from gbopt_ros.config import Config
from gbopt_ros.io.overlay import draw_masks
from gbopt_ros.msg import ClipStatus, SelectedMasks
from gbopt_ros.nodes.assembly import AssembledClip, ClipAssembly
from gbopt_ros.nodes.base import (
    ALARM_S,
    LINK_CAPACITY,
    LINK_QOS,
    RESULT_QOS,
    PipelineNode,
)
from gbopt_ros.nodes.detections import VisionOutputs
from gbopt_ros.nodes.flow import device_of
from gbopt_ros.nodes.intra_process import IntraProcessBus
from gbopt_ros.nodes.messages import (
    CLIPS,
    HEADERS,
    IMAGE,
    MAP,
    PROPOSALS,
    Stamped,
    clip_status,
    encode_image,
    label_image,
    segmask,
    selected_masks,
    stamp_ns,
)
from gbopt_ros.nodes.segment import SegmentAction
from gbopt_ros.nodes.settings import COMPARED, SelectorSettings
from gbopt_ros.nodes.spin import spin
from gbopt_ros.nodes.target import Target
from gbopt_ros.perception.flow import make_flow
from gbopt_ros.selection import StreamSelector, make_selector
from gbopt_ros.srv import SetTarget
from gbopt_ros.structures import FlowNetwork, FrameSelection

_CATCH_UP_S = 5.0  # in this time a selector that starts gets old clips


class SelectorNode(PipelineNode):
    """Publishes the masks of each frame, and `~/output/done` when a frame is done.

    With `selection.lag` -1 a frame is done when all its results have arrived; the last frame of a
    clip is done when the masks of the clip are out. With another lag a frame is done when the
    selection has taken it, and the masks that are decided then are out.

    The clip buffer announces a clip, whole or partial, before it sends the last image of it. So
    the announcement is here before the results for that image.
    """

    NAME = "selector"
    SECTIONS = ("motion", "selection", "outline", "flow", "tracks")
    SETTINGS = SelectorSettings
    _flow_network: FlowNetwork | None = None

    def __init__(self, bus: IntraProcessBus | None = None, **options: Any) -> None:
        super().__init__(bus, **options)
        self._capacity = self.settings.buffered_frames(self.config.clip.length)
        self._assembly = ClipAssembly(
            self._on_ready, self._publish_done, self._on_lost, self._capacity
        )

    def configure(self) -> None:
        self._flow_network = make_flow(self.config.flow, self.config.device)
        self._target = Target()
        self._linker = self.config.tracks.linker()  # for as long as somebody may know an id
        self._done = self.output("~/output/done", HEADERS, LINK_QOS)
        self._masks = self.publisher(SelectedMasks, "~/output/masks", RESULT_QOS)
        self._labels = self.publisher(ImageMessage, "~/output/label_image", RESULT_QOS)
        self._segmask = self.publisher(ImageMessage, "~/output/segmask", RESULT_QOS)
        self._status = self.publisher(ClipStatus, "~/output/status", RESULT_QOS)
        self._overlay = self.publisher(ImageMessage, "~/debug/overlay", RESULT_QOS)
        self._vision = VisionOutputs(
            self.publisher, "~/output/detections", "~/output/label_info", "~/output/vision_info"
        )
        assembly = self._assembly
        self.input("~/input/image", IMAGE, LINK_QOS, assembly.add_image)
        self.input("~/input/proposals", PROPOSALS, LINK_QOS, assembly.add_proposals)
        self.input("~/input/background", MAP, LINK_QOS, assembly.add_background)
        self.input("~/input/flow", MAP, LINK_QOS, assembly.add_flow)
        self.input("~/input/clips", CLIPS, LINK_QOS, self._on_clip)
        self.input("~/input/partial_clip", CLIPS, LINK_QOS, assembly.add_partial_clip)
        self.service(SetTarget, "~/set_target", self._on_set_target)
        self._segment = SegmentAction(
            self, self.topic("~/segment", is_service=True), self._why_no_masks
        )
        self._entities.append(self._segment.destroy)
        self.timer(1.0, self._give_up)

    def activate(self) -> None:
        assert self._flow_network is not None
        self._selector = make_selector(self._flow_network, self.config)
        self._is_streaming = isinstance(self._selector, StreamSelector)
        # Index and stamp of the frames of the last clips, and the clip that they were published in.
        self._published: dict[tuple[int, int], int] = {}
        self._last_clip = -1
        self._start = time.monotonic()
        self._assembly.clear()
        self._segment.forget()
        self._jobs = self.worker(
            "selection",
            self._handle,
            capacity=self.settings.queue + (LINK_CAPACITY if self._is_streaming else 0),
            on_drop=self._on_drop,
        )

    def deactivate(self) -> None:
        self._segment.watch()

    def cleanup(self) -> None:
        self._flow_network = None
        self._assembly.clear()

    def refusal(self, config: Config, settings: Any) -> str:
        if not self.active or config.selection.lag == self.config.selection.lag:
            return ""
        return "selection.lag: the selector is active; deactivate it, set the lag, and activate it"

    def facts(self) -> dict[str, object]:
        return {"frames held": len(self._assembly)}

    def introduction(self) -> list[str]:
        return [f"masks on {self._masks.topic_name}"]

    def hardware(self) -> str:
        return device_of(self._flow_network, self.config.device)

    def _on_clip(self, message: Any) -> None:
        age = _age_s(message)
        if abs(age) > self.settings.stall_timeout_s:
            complaint = (
                f"clip {message.clip_id} ended {age:.0f} s ago by the clock of the clip buffer: "
                "the clocks of two machines differ, or one was set"
            )
            # A selector that starts gets clips that were announced before.
            if time.monotonic() - self._start > _CATCH_UP_S:
                self.health.warn(complaint, "clock", ALARM_S)
                self.get_logger().warning(complaint, throttle_duration_sec=60.0)
            if age > 0:
                self.health.count("clips left out")
                return
        if len(message.stamps) > self._capacity:
            complaint = (
                f"a clip of {len(message.stamps)} frames does not fit max_buffered_frames "
                f"({self._capacity}): shorten clip.length, or start all nodes with it"
            )
            self.health.fail(complaint)
            self.get_logger().error(complaint, throttle_duration_sec=60.0)
        self._assembly.add_clip(message)

    def _give_up(self) -> None:
        self._assembly.give_up(self.settings.stall_timeout_s, LINK_CAPACITY)

    def _on_ready(self, clip: AssembledClip) -> None:
        if clip.is_whole or self._is_streaming:
            self._jobs.put(clip)
        else:
            self._publish_done(clip.headers[-1])

    def _on_drop(self, clip: AssembledClip) -> None:
        if clip.is_whole:
            self._on_lost(clip.message)
        else:  # the next part of the clip has these frames too
            self._publish_done(clip.headers[-1])

    def _on_lost(self, message: Any) -> None:
        """Count a clip that is not selected, and let its frames go."""
        self.health.count("clips lost")
        self.health.warn(f"clip {message.clip_id} was given up", "lost clip", ALARM_S)
        self._publish_done(message.header)

    def _why_no_masks(self, last_ns: int) -> str:
        waiting = self._assembly.count_after(last_ns)
        if waiting == 0:
            return "no frame arrived; /diagnostics of clip_buffer says why"
        return f"{waiting} more wait for the end of their clip, or for their selection"

    def _on_set_target(self, request: Any, response: Any) -> str:
        self._target = Target.from_request(request)
        return f"segmask shows {self._target}"

    def _handle(self, clip: AssembledClip) -> None:
        start = time.monotonic()
        if 0 < self.settings.max_age_s < _age_s(clip.message):
            self.health.count("clips too old", int(clip.is_whole))
            self._on_drop(clip)
            return
        self._selector.config = self.config
        tracks = self.config.tracks
        self._linker.min_iou, self._linker.max_gap_s = tracks.min_iou, tracks.max_gap_s
        try:
            frames = self._selector.advance(clip.clip, clip.cues, is_whole=clip.is_whole)
            seconds = time.monotonic() - start
            self._publish_new(clip, frames)
            if clip.is_whole:
                self._end_clip(clip, seconds)
        finally:
            self._publish_done(clip.headers[-1])

    def _publish_new(self, clip: AssembledClip, frames: Sequence[FrameSelection]) -> None:
        """Publish the frames that were not published in the previous clip."""
        clip_id = clip.clip.clip_id
        if clip_id <= self._last_clip:  # the clip buffer was started again
            self._published, self._last_clip = {}, -1
        sent = zip(clip.headers, clip.versions, strict=True)
        of_index = dict(zip(clip.message.frame_indices, sent, strict=True))
        for frame in frames:
            if _key(frame) not in self._published:
                header, version = of_index[frame.frame.index]
                self._publish(frame, header, clip_id, version)
                self._published[_key(frame)] = clip_id

    def _end_clip(self, clip: AssembledClip, seconds: float) -> None:
        selection = self._selector.finish(clip.versions[-1])
        message = clip_status(clip.message, selection)
        message.published = list(self._published.values()).count(selection.clip_id)
        message.latency = _age_s(clip.message)
        message.selection_time = seconds
        message.dropped_clips = self.health.counted("clips lost")
        sections: Any = [self.get_parameters_by_prefix(name) for name in COMPARED]
        message.settings = [
            parameter.to_parameter_msg() for section in sections for parameter in section.values()
        ]
        self._status.publish(message)
        self._last_clip = selection.clip_id
        self._published = {_key(frame): selection.clip_id for frame in selection.frames}
        self.health.done(message.latency)
        self.health.count("masks", selection.mask_count)
        self.health.recover()

    def _publish(self, frame: FrameSelection, header: Any, clip_id: int, version: str) -> None:
        track_ids = self._linker.link(frame.rles, frame.frame.stamp_ns, after_cut=frame.after_cut)
        message = selected_masks(header, clip_id, frame, version, track_ids)
        self._masks.publish(message)
        self._segment.add(message)
        if self._labels.get_subscription_count():
            self._labels.publish(label_image(header, frame.rles, frame.frame.size))
        chosen = self._target.choose(frame, track_ids)  # always: a point is followed from now on
        if self._segmask.get_subscription_count():
            self._segmask.publish(segmask(header, chosen, frame.frame.size))
        if self._overlay.get_subscription_count():
            texts = [f"{confidence:.2f}" for confidence in frame.confidences]
            drawn = draw_masks(frame.frame.image, frame.rles, texts, colours=track_ids)
            self._overlay.publish(encode_image(Stamped(header, drawn)))
        self._vision.publish(message)

    def _publish_done(self, header: Any) -> None:
        self._done.publish(header)


def _age_s(clip: Any) -> float:
    """Seconds since the last frame of a `ClipFrames` arrived, by the system clock."""
    return (time.time_ns() - stamp_ns(clip.received)) / 1e9


def _key(selected: FrameSelection) -> tuple[int, int]:
    return selected.frame.index, selected.frame.stamp_ns


def main(arguments: Sequence[str] | None = None) -> int:
    return spin(lambda: [SelectorNode()], arguments)
