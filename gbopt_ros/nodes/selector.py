"""Selects the masks of every clip jointly and publishes them for planners and for the learner."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sensor_msgs.msg import Image as ImageMessage

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import setting
from gbopt_ros.io.overlay import ColourTracker, draw_masks
from gbopt_ros.msg import ClipStatus, SelectedMasks
from gbopt_ros.nodes import detections
from gbopt_ros.nodes.assembly import AssembledClip, ClipAssembly
from gbopt_ros.nodes.base import (
    LINK_CAPACITY,
    LINK_QOS,
    RESULT_QOS,
    NodeSettings,
    PipelineNode,
    spin,
)
from gbopt_ros.nodes.intra_process import IntraProcessBus
from gbopt_ros.nodes.messages import (
    CLIPS,
    HEADERS,
    IMAGE,
    MAP,
    PROPOSALS,
    Stamped,
    encode_image,
    label_image,
    segmask,
    selected_masks,
    stamp_ns,
)
from gbopt_ros.nodes.target import Target
from gbopt_ros.perception.flow import make_flow
from gbopt_ros.selection import StreamSelector, make_selector
from gbopt_ros.srv import SetTarget
from gbopt_ros.structures import FlowNetwork, FrameSelection, Selection


@dataclass(frozen=True)
class SelectorSettings(NodeSettings):
    """Parameters of the selector itself."""

    queue: int = setting(
        2, "clips that wait for their selection, frames apart; newest win", low=1, fixed=True
    )
    max_buffered_frames: int = setting(
        96, "frames held at most: two clips and what is in flight", low=4, fixed=True
    )
    stall_timeout_s: float = setting(
        10.0,
        "a clip that lacks frames is given up after this, if none is finished any more or later "
        "ones were; seconds on the wall",
        above=0.0,
    )


class SelectorNode(PipelineNode):
    """Publishes the selection of each clip frame by frame, and `~/output/done` for backpressure.

    By whole clips (`selection.lag` -1) a frame is done when all its cues have arrived or, where it
    ends a clip, when the masks of the clip are out. With a lag it is done when the search has
    gone on to it, and the masks that this decided are out.

    The clip buffer announces a clip, and the clip so far, before it sends the last image of it, so
    the announcement is here before the cues of that image.
    """

    SECTIONS = ("motion", "selection", "outline", "flow")
    SETTINGS = SelectorSettings
    _flow_network: FlowNetwork | None = None
    _held: ClipAssembly | None = None

    def __init__(self, bus: IntraProcessBus | None = None, **options: Any) -> None:
        super().__init__("selector", bus, **options)

    def configure(self) -> None:
        self._flow_network = make_flow(self.config.flow, self.config.device)
        self._target = Target()
        self._done = self.output("~/output/done", HEADERS, LINK_QOS)
        self._masks = self.publisher(SelectedMasks, "~/output/masks", RESULT_QOS)
        self._labels = self.publisher(ImageMessage, "~/output/label_image", RESULT_QOS)
        self._segmask = self.publisher(ImageMessage, "~/output/segmask", RESULT_QOS)
        self._status = self.publisher(ClipStatus, "~/output/status", RESULT_QOS)
        self._overlay = self.publisher(ImageMessage, "~/debug/overlay", RESULT_QOS)
        self._detections = None
        if detections.AVAILABLE:
            self._detections = self.publisher(
                detections.Detection2DArray, "~/output/detections", RESULT_QOS
            )
        self.input("~/input/image", IMAGE, LINK_QOS, lambda m: self._assembly.add_image(m))
        self.input(
            "~/input/proposals", PROPOSALS, LINK_QOS, lambda m: self._assembly.add_proposals(m)
        )
        self.input("~/input/background", MAP, LINK_QOS, lambda m: self._assembly.add_background(m))
        self.input("~/input/flow", MAP, LINK_QOS, lambda m: self._assembly.add_flow(m))
        self.input("~/input/clips", CLIPS, LINK_QOS, self._on_clip)
        self.input(
            "~/input/partial_clip", CLIPS, LINK_QOS, lambda m: self._assembly.add_partial_clip(m)
        )
        self.service(SetTarget, "~/set_target", self._on_set_target)
        self.timer(1.0, self._give_up)

    def activate(self) -> None:
        # Clip: when, and how many frames were finished then.
        self._announced: dict[int, tuple[float, int]] = {}
        # Indices and stamps of the frames of the last clip and of the one that is streamed.
        self._published: set[tuple[int, int]] = set()
        self._current, self._new = -1, 0  # a clip, and how many of its frames were published
        self._last_clip = -1
        assert self._flow_network is not None
        self._selector = make_selector(self._flow_network, self.config)
        self._is_streaming = isinstance(self._selector, StreamSelector)
        self._colours = ColourTracker()
        self._lost_lock = threading.Lock()
        self._lost_clips = 0
        self._jobs = self.worker(
            "selection",
            self._handle,
            capacity=self.settings.queue + (LINK_CAPACITY if self._is_streaming else 0),
            on_drop=self._on_drop,
        )
        self._held = ClipAssembly(
            self._jobs.put,
            self._on_partial,
            self._done.publish,
            self._on_lost,
            self.settings.max_buffered_frames,
        )

    @property
    def _assembly(self) -> ClipAssembly:
        assert self._held is not None
        return self._held

    def cleanup(self) -> None:
        self._flow_network = self._held = None

    def facts(self) -> dict[str, object]:
        return {"frames held": len(self._held) if self._held is not None else 0}

    def _on_clip(self, message: Any) -> None:
        age = (time.time_ns() - stamp_ns(message.received)) / 1e9
        if age > self.settings.stall_timeout_s:  # it was announced to a selector that is no more
            self.get_logger().info(
                f"clip {message.clip_id} ended {age:.0f} s ago and is left out; if all are, the "
                "clocks of two machines disagree",
                throttle_duration_sec=60.0,
            )
            return
        if len(message.stamps) > self.settings.max_buffered_frames:
            complaint = (
                f"a clip of {len(message.stamps)} frames does not fit max_buffered_frames "
                f"({self.settings.max_buffered_frames}): shorten clip.length, or start selector "
                "and learner with more"
            )
            self.health.fail(complaint)
            self.get_logger().error(complaint, throttle_duration_sec=60.0)
        self._announced[message.clip_id] = time.monotonic(), self._assembly.finished_frames
        self._assembly.add_clip(message)

    def _give_up(self) -> None:
        """Clips of which nothing comes any more, or whose last frames were overtaken."""
        limit = time.monotonic() - self.settings.stall_timeout_s
        is_still = self._assembly.last_progress < limit
        overtaken = self._assembly.finished_frames - LINK_CAPACITY

        def is_lost(message: Any) -> bool:
            announced, finished = self._announced.get(message.clip_id, (0.0, 0))
            return announced < limit and (is_still or finished < overtaken)

        self._assembly.give_up_oldest(is_lost)

    def _on_partial(self, clip: AssembledClip) -> None:
        if self._is_streaming:
            self._jobs.put(clip)
        else:
            self._done.publish(clip.headers[-1])

    def _on_drop(self, clip: AssembledClip) -> None:
        if clip.is_whole:
            self._on_lost(clip.message)
        else:  # what comes later of the clip holds these frames too
            self._done.publish(clip.headers[-1])

    def _on_lost(self, message: Any) -> None:
        """A clip that is not selected: its frames may go, and it is counted."""
        with self._lost_lock:
            self._lost_clips += 1
        self.health.count("clips lost")
        self.health.warn(f"clip {message.clip_id} was given up")
        self._announced.pop(message.clip_id, None)
        self._done.publish(message.header)

    def _on_set_target(self, request: Any, response: Any) -> str:
        self._target = Target.from_request(request)
        return f"segmask shows {self._target}"

    def _handle(self, clip: AssembledClip) -> None:
        start = time.monotonic()
        self._selector.config = self.config
        try:
            frames = self._selector.advance(clip.clip, clip.cues, is_whole=clip.is_whole)
            seconds = time.monotonic() - start
            self._publish_new(clip, frames)
            if clip.is_whole:
                self._end_clip(clip, self._selector.finish(clip.versions[-1]), seconds)
        finally:
            if clip.is_whole:
                self._announced.pop(clip.clip.clip_id, None)
            self._done.publish(clip.headers[-1])

    def _publish_new(self, clip: AssembledClip, frames: Sequence[FrameSelection]) -> None:
        """Publish frames but for those that were published with the clip before."""
        if clip.clip.clip_id <= self._last_clip:  # the clip buffer was started again
            self._published.clear()
            self._last_clip = -1
        if clip.clip.clip_id != self._current:
            self._current, self._new = clip.clip.clip_id, 0
        told = zip(clip.headers, clip.versions, strict=True)
        of_index = dict(zip(clip.message.frame_indices, told, strict=True))
        for frame in frames:
            key = frame.frame.index, frame.frame.stamp_ns
            if key not in self._published:
                header, version = of_index[frame.frame.index]
                self._publish(frame, header, clip.clip.clip_id, version)
                self._published.add(key)
                self._new += 1

    def _end_clip(self, clip: AssembledClip, selection: Selection, seconds: float) -> None:
        self._last_clip = clip.clip.clip_id
        self._published = {(f.frame.index, f.frame.stamp_ns) for f in selection.frames}
        latency = (time.time_ns() - stamp_ns(clip.message.received)) / 1e9
        self._status.publish(self._status_message(clip, selection, latency, seconds))
        self._current = -1
        self.health.done(latency)
        self.health.count("masks", selection.mask_count)
        self.health.recover()

    def _publish(self, frame: FrameSelection, header: Any, clip_id: int, version: str) -> None:
        size = frame.frame.size
        message = selected_masks(header, clip_id, frame, version)
        self._masks.publish(message)
        if self._labels.get_subscription_count():
            self._labels.publish(label_image(header, frame.rles, size))
        if self._segmask.get_subscription_count():
            chosen = mask_ops.decode_all(self._target.choose(frame), size)
            self._segmask.publish(segmask(header, np.asarray(chosen.any(axis=0))))
        if self._overlay.get_subscription_count():
            texts = [f"{confidence:.2f}" for confidence in frame.confidences]
            colours = self._colours.colours(frame.rles)
            drawn = draw_masks(frame.frame.image, frame.rles, texts, colours=colours)
            self._overlay.publish(encode_image(Stamped(header, drawn)))
        if self._detections is not None and self._detections.get_subscription_count():
            self._detections.publish(detections.detection_array(message))

    def _status_message(
        self, clip: AssembledClip, selection: Selection, latency: float, seconds: float
    ) -> Any:
        return ClipStatus(
            header=clip.message.header,
            clip_id=clip.clip.clip_id,
            model_version=selection.model_version,
            frames=len(selection),
            published=self._new,
            masks=selection.mask_count,
            energy=selection.energy,
            lower_bound=selection.lower_bound,
            optimal=selection.optimal,
            flow_runs=selection.flow_runs,
            latency=latency,
            selection_time=seconds,
            dropped_frames=clip.message.dropped,
            dropped_clips=self._lost_clips,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    return spin(lambda: [SelectorNode()], arguments)


if __name__ == "__main__":
    sys.exit(main())
