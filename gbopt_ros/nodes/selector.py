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
from gbopt_ros.evaluation.overlay import ColourTracker, draw_masks
from gbopt_ros.msg import ClipStatus, SelectedMasks
from gbopt_ros.nodes import detections
from gbopt_ros.nodes.assembly import ClipAssembly, ClipCues
from gbopt_ros.nodes.base import (
    LINK_CAPACITY,
    LINK_QOS,
    RESULT_QOS,
    NodeSettings,
    PipelineNode,
    spin,
)
from gbopt_ros.nodes.clip_stream import ClipStream
from gbopt_ros.nodes.hub import Hub
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
from gbopt_ros.perception.flow import finer, make_flow
from gbopt_ros.perception.motion import clip_with_motion
from gbopt_ros.selection import redraw_outlines, select_clip
from gbopt_ros.srv import SetTarget
from gbopt_ros.structures import FrameSelection, Selection


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

    STAGES = ("motion", "selection", "outline", "flow")
    SETTINGS = SelectorSettings

    def __init__(self, hub: Hub | None = None, **options: Any) -> None:
        super().__init__("selector", hub, **options)

    def configure(self) -> None:
        self._flow_network = make_flow(self.config.flow, self.config.device)
        self._finer_flow = finer(self._flow_network)
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
            "~/input/begun_clip", CLIPS, LINK_QOS, lambda m: self._assembly.add_begun_clip(m)
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
        lag = self.config.selection.lag
        self._is_streaming = lag >= 0
        self._stream = ClipStream(self._flow_network, max(lag, 0))
        self._colours = ColourTracker()
        self._lost_lock = threading.Lock()
        self._lost_clips = 0
        self._jobs = self.worker(
            "selection",
            self._handle,
            capacity=self.settings.queue + (LINK_CAPACITY if self._is_streaming else 0),
            on_drop=self._on_drop,
        )
        self._assembly = ClipAssembly(
            self._jobs.put,
            self._on_begun,
            self._done.publish,
            self._on_lost,
            self.settings.max_buffered_frames,
        )

    def cleanup(self) -> None:
        self.__dict__.pop("_flow_network", None)
        self.__dict__.pop("_finer_flow", None)
        self.__dict__.pop("_assembly", None)

    def facts(self) -> dict[str, object]:
        assembly: ClipAssembly | None = self.__dict__.get("_assembly")
        return {"frames held": len(assembly) if assembly is not None else 0}

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

    def _on_begun(self, cues: ClipCues) -> None:
        if self._is_streaming:
            self._jobs.put(cues)
        else:
            self._done.publish(cues.headers[-1])

    def _on_drop(self, cues: ClipCues) -> None:
        if cues.is_whole:
            self._on_lost(cues.message)
        else:  # what comes later of the clip holds these frames too
            self._done.publish(cues.headers[-1])

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

    def _handle(self, cues: ClipCues) -> None:
        start = time.monotonic()
        try:
            if self._is_streaming:
                frames = tuple(self._stream.advance(cues, self.config))
            else:
                selection = self._select(cues)
                frames = selection.frames
            seconds = time.monotonic() - start
            self._publish_new(cues, frames)
            if cues.is_whole:
                if self._is_streaming:
                    selection = self._stream.finish(cues.versions[-1])
                self._end_clip(cues, selection, seconds)
        finally:
            if cues.is_whole:
                self._announced.pop(cues.clip.clip_id, None)
            self._done.publish(cues.headers[-1])

    def _select(self, cues: ClipCues) -> Selection:
        backgrounds = clip_with_motion(
            cues.clip.frames, cues.backgrounds, self._finer_flow, self.config.motion
        )
        return select_clip(
            cues.clip,
            cues.proposals,
            backgrounds,
            cues.flows,
            self._flow_network,
            self.config.selection,
            cues.versions[-1],
        )

    def _publish_new(self, cues: ClipCues, frames: Sequence[FrameSelection]) -> None:
        """Publish frames but for those that were published with the clip before."""
        if cues.clip.clip_id <= self._last_clip:  # the clip buffer was started again
            self._published.clear()
            self._last_clip = -1
        if cues.clip.clip_id != self._current:
            self._current, self._new = cues.clip.clip_id, 0
        told = zip(cues.headers, cues.versions, strict=True)
        of_index = dict(zip(cues.message.frame_indices, told, strict=True))
        for frame in frames:
            key = frame.frame.index, frame.frame.stamp_ns
            if key not in self._published:
                header, version = of_index[frame.frame.index]
                drawn = redraw_outlines(frame, self.config.outline)
                self._publish(drawn, header, cues.clip.clip_id, version)
                self._published.add(key)
                self._new += 1

    def _end_clip(self, cues: ClipCues, selection: Selection, seconds: float) -> None:
        self._last_clip = cues.clip.clip_id
        self._published = {(f.frame.index, f.frame.stamp_ns) for f in selection.frames}
        latency = (time.time_ns() - stamp_ns(cues.message.received)) / 1e9
        self._status.publish(self._status_message(cues, selection, latency, seconds))
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
        self, cues: ClipCues, selection: Selection, latency: float, seconds: float
    ) -> Any:
        return ClipStatus(
            header=cues.message.header,
            clip_id=cues.clip.clip_id,
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
            dropped_frames=cues.message.dropped,
            dropped_clips=self._lost_clips,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    return spin(lambda: [SelectorNode()], arguments)


if __name__ == "__main__":
    sys.exit(main())
