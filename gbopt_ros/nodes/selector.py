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
from gbopt_ros.nodes.base import LINK_QOS, RESULT_QOS, NodeSettings, PipelineNode, spin
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
from gbopt_ros.pipeline import load_flow_network
from gbopt_ros.selection import select_clip
from gbopt_ros.srv import SetTarget
from gbopt_ros.structures import FrameSelection, Selection


@dataclass(frozen=True)
class SelectorSettings(NodeSettings):
    """Parameters of the selector itself."""

    queue: int = setting(2, "clips that wait for their selection; newest win", low=1)
    max_buffered_frames: int = setting(
        96, "frames held at most: two clips and what is in flight", low=4, fixed=True
    )
    stall_timeout_s: float = setting(
        10.0, "a clip that is not complete by then is given up, seconds on the wall", above=0.0
    )


class SelectorNode(PipelineNode):
    """Publishes the selection of each clip frame by frame, and `~/output/done` for backpressure.

    A frame is done when all its cues have arrived or, where it ends a clip, when the masks of the
    clip are out. The clip buffer announces a clip before it sends the clip's last image, so the
    announcement is here before the cues of that image.
    """

    STAGES = ("selection", "flow")
    SETTINGS = SelectorSettings

    def __init__(self, hub: Hub | None = None, **options: Any) -> None:
        super().__init__("selector", hub, **options)

    def configure(self) -> None:
        self._flow_network = load_flow_network(self.config)
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
        self.service(SetTarget, "~/set_target", self._on_set_target)
        self.timer(1.0, self._give_up)

    def activate(self) -> None:
        self._announced: dict[int, float] = {}  # clip: when
        self._published: set[int] = set()  # indices of the last clip's frames
        self._last_clip = -1
        self._colours = ColourTracker()
        self._lost_lock = threading.Lock()
        self._lost_clips = 0
        self._jobs = self.worker(
            "selection",
            self._select,
            capacity=self.settings.queue,
            on_drop=lambda cues: self._on_lost(cues.message),
        )
        self._assembly = ClipAssembly(
            self._jobs.put, self._done.publish, self._on_lost, self.settings.max_buffered_frames
        )

    def cleanup(self) -> None:
        self.__dict__.pop("_flow_network", None)
        self.__dict__.pop("_assembly", None)

    def facts(self) -> dict[str, object]:
        assembly: ClipAssembly | None = self.__dict__.get("_assembly")
        return {"frames held": len(assembly) if assembly is not None else 0}

    def _on_clip(self, message: Any) -> None:
        age = (time.time_ns() - stamp_ns(message.received)) / 1e9
        if age > self.settings.stall_timeout_s:  # it was announced to a selector that is no more
            return
        if len(message.stamps) > self.settings.max_buffered_frames:
            self.health.fail(
                f"a clip of {len(message.stamps)} frames does not fit max_buffered_frames "
                f"({self.settings.max_buffered_frames})"
            )
        self._announced[message.clip_id] = time.monotonic()
        self._assembly.add_clip(message)

    def _give_up(self) -> None:
        limit = time.monotonic() - self.settings.stall_timeout_s
        self._assembly.give_up_oldest(
            lambda message: self._announced.get(message.clip_id, limit) < limit
        )

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

    def _select(self, cues: ClipCues) -> None:
        start = time.monotonic()
        try:
            selection = select_clip(
                cues.clip,
                cues.proposals,
                cues.backgrounds,
                cues.flows,
                self._flow_network,
                self.config.selection,
                cues.versions[-1],
            )
            seconds = time.monotonic() - start
            new = 0
            if cues.clip.clip_id <= self._last_clip:  # the clip buffer was started again
                self._published.clear()
            self._last_clip = cues.clip.clip_id
            for frame, header, version in zip(
                selection.frames, cues.headers, cues.versions, strict=True
            ):
                if frame.frame.index not in self._published:  # in the overlap with another clip
                    self._publish(frame, header, cues.clip.clip_id, version)
                    new += 1
            self._published = {frame.frame.index for frame in selection.frames}
            latency = (time.time_ns() - stamp_ns(cues.message.received)) / 1e9
            self._status.publish(self._status_message(cues, selection, new, latency, seconds))
            self.health.done(latency)
            self.health.count("masks", selection.mask_count)
            self.health.recover()
        finally:
            self._announced.pop(cues.clip.clip_id, None)
            self._done.publish(cues.message.header)

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
        self, cues: ClipCues, selection: Selection, new: int, latency: float, seconds: float
    ) -> Any:
        return ClipStatus(
            header=cues.message.header,
            clip_id=cues.clip.clip_id,
            model_version=selection.model_version,
            frames=len(selection),
            published=new,
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
