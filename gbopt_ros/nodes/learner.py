"""Collects selected masks, fine-tunes on them, and announces versions that pass the gate.

Where another network than the student proposes, a version is announced only if it passed the
comparison with that teacher, too.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from gbopt_ros.action import Train
from gbopt_ros.io.datasets.coco import CocoDataset, load_coco_dir
from gbopt_ros.io.files import temporary_folder, unwritable
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.io.sources.images import encode_image
from gbopt_ros.learning.store.lock import LEARNER, StoreLock
from gbopt_ros.learning.store.model_store import ModelVersion, verify_version
from gbopt_ros.learning.store.store import Store
from gbopt_ros.learning.student import is_compared, student_config
from gbopt_ros.models.device import resolve_device
from gbopt_ros.models.weights import sha256_of
from gbopt_ros.msg import ClipStatus, Metric, ModelUpdate, SelectedMasks, TrainingProgress
from gbopt_ros.nodes.actions import NodeAction
from gbopt_ros.nodes.base import LATCHED_QOS, LINK_QOS, PATIENCE_S, RESULT_QOS, PipelineNode
from gbopt_ros.nodes.clip_collector import ClipCollector, CollectedFrames
from gbopt_ros.nodes.messages import IMAGE, decode_rle, stamp_ns
from gbopt_ros.nodes.settings import COMPARED, LearnerSettings
from gbopt_ros.nodes.spin import spin
from gbopt_ros.nodes.worker import Worker
from gbopt_ros.perception.load import proposal_weights, read_proposals
from gbopt_ros.structures import GboptError, Image

_JPEG_QUALITY = 95
_PROGRESS_PERIOD_S = 0.5
_STATES = TrainingProgress


class _Cancelled(Exception):
    """The node was deactivated during training, or whoever called for it cancelled."""


class LearnerNode(PipelineNode):
    """Runs in a process of its own. Two threads: one stores clips, one trains."""

    NAME = "learner"
    # The last ones are for the comparison of a student with its teacher. COMPARED are those of the
    # selector from its first clip on.
    SECTIONS = ("proposal", "learning", "background", "flow", "motion", "selection")
    _masks_stored = 0
    SETTINGS = LearnerSettings

    def configure(self) -> None:
        self._store = Store(Path(self.settings.store).expanduser())
        alone = ExitStack()
        self._entities.append(alone.close)
        lock = StoreLock(self._store.root, LEARNER)
        alone.enter_context(lock.held(f"the learner {self.get_fully_qualified_name()}"))
        student = student_config(self.config)
        path = proposal_weights(student)
        for named in {path, proposal_weights(self.config)}:
            verify_version(named)
        if student.proposal.weights:
            self._store.models.check_origin(path, student.proposal.detectron2_config)
        self._rehearsal = self._labelled(self.settings.rehearse, "demo/rehearsal")
        self._validation = self._labelled(self.settings.validation, "demo/validation")
        # Here, so that an unusable store fails the transition.
        with self._store.training_set(self.config.learning) as training_set:
            self._masks_stored = training_set.instance_count
        self._updates = self.publisher(ModelUpdate, "~/output/model_update", LATCHED_QOS)
        self._progress = self.publisher(TrainingProgress, "~/output/progress", LATCHED_QOS)
        self.input("~/input/image", IMAGE, LINK_QOS, lambda image: self._collector.add_image(image))
        self.subscription(SelectedMasks, "~/input/masks", RESULT_QOS, self._on_masks)
        self.subscription(ClipStatus, "~/input/status", RESULT_QOS, self._on_status)
        self.service(Trigger, "~/train", self._on_train)
        self._train_action = NodeAction(
            self, Train, self.topic("~/train", is_service=True), self._on_train_goal
        )
        self._entities.append(self._train_action.destroy)
        self.service(Trigger, "~/rollback", self._on_rollback)

    def activate(self) -> None:
        self._clips_stored = 0
        self._clips_since = 0  # clips with masks since the last training
        self._clip_frames = 0  # frames with masks stored of the clip so far
        self._cancel = threading.Event()
        self._last_progress = 0.0
        self._goal: Any = None  # of the action that the training is for
        self._told = ""  # the newest progress
        self._iterations = self.config.learning.iterations  # of the training, or the next one
        # What is stored, and when it was complete.
        self._storing: Worker[tuple[CollectedFrames, float]] = self.worker(
            "clips", self._add_clip, capacity=4
        )
        self._collector = ClipCollector(
            self.settings.buffered_frames(self.config.clip.length),
            lambda clip: self._storing.put((clip, time.monotonic())),
        )
        self._training = self.worker("training", self._train, capacity=1)
        self._announce_serving()
        self._tell(_STATES.STATE_IDLE, "waits for clips")

    def deactivate(self) -> None:
        self._cancel.set()
        self._collector.flush(are_whole=False)  # their status will not arrive any more
        self._storing.close(PATIENCE_S, drain=True)
        self._training.close(PATIENCE_S)
        # Of a training that did not begin, or does not end.
        self._answer("", f"{self.get_name()} was deactivated")

    def cleanup(self) -> None:
        self._cancel = threading.Event()  # a training that does not end tells nobody any more

    def facts(self) -> dict[str, object]:
        return {"masks stored": self._masks_stored}

    def introduction(self) -> list[str]:
        path = proposal_weights(student_config(self.config))
        return [f"learns from {self._parent(str(path))}", f"store {self._store.root}"]

    def hardware(self) -> str:
        return str(resolve_device(self.config.device))

    def _labelled(self, folder: str, bundled: str) -> CocoDataset | None:
        if folder:
            return load_coco_dir(Path(folder).expanduser())
        if student_config(self.config).proposal.weights:
            missing = "rehearsed" if "rehearsal" in bundled else "checked by the gate"
            self.get_logger().warning(
                f"no labelled images for the network that learns: its seen classes are not "
                f"{missing}; name a COCO folder"
            )
            return None
        return load_coco_dir(find_resource(bundled))

    def _parent(self, first: str = "the network it started with") -> str:
        """The version that is learnt from, in words; `first` before there is one."""
        try:
            return self._store.models.current_name() or first
        except GboptError:  # `_announce_serving` says so
            return "a damaged version"

    # Collecting.

    def _on_masks(self, masks: Any) -> None:
        if not self._collector.add_masks(masks):
            self.health.count("masks without image")

    def _on_status(self, status: Any) -> None:
        self._collector.add_status(status)
        self._take_settings([Parameter.from_parameter_msg(each) for each in status.settings])

    def _take_settings(self, of_selector: Sequence[Parameter]) -> None:
        """Compare a student with its teacher under the settings that select the masks."""
        other = [
            each
            for each in of_selector
            if each.name.startswith(COMPARED)
            and self.has_parameter(each.name)
            and self.get_parameter(each.name).value != each.value
        ]
        refused = [each.reason for each in self.set_parameters(other) if not each.successful]
        if refused:
            told = f"compares under other settings than those of the selector: {'; '.join(refused)}"
            self.health.warn(told, "settings")
        else:
            self.health.recover("settings")

    def _add_clip(self, item: tuple[CollectedFrames, float]) -> None:
        clip, arrival = item
        try:
            added = self._store_frames(clip)
        except OSError as error:
            raise unwritable(self._store.root, error) from error
        self._clip_frames += added
        if not clip.is_whole:
            return
        self._clips_stored += 1
        self._clips_since += self._clip_frames > 0
        self._clip_frames = 0
        self.health.done(time.monotonic() - arrival)
        self.health.count("clips stored")
        every = self.settings.train_every_clips
        if self._cancel.is_set():
            return
        if every and self._clips_since >= every and self._training.idle:
            self._training.put("after new clips")

    def _store_frames(self, clip: CollectedFrames) -> int:
        """Add frames to the training set; returns how many have masks."""
        with (
            self._store.training_set(self.config.learning) as training_set,
            temporary_folder(self._store.root, "clip") as folder,
        ):
            selected = [
                self._selected_frame(clip.session, masks, image, folder)
                for masks, image in clip.frames
                if image is not None
            ]
            added = training_set.add(selected, may_collect=self._store.models.lock.is_free)
            self._masks_stored = training_set.instance_count
        return added

    def _selected_frame(
        self, session: str, masks: Any, image: Image, folder: Path
    ) -> SelectedFrame:
        path = folder / f"{masks.frame_index}.jpg"
        path.write_bytes(encode_image(image, "jpeg", _JPEG_QUALITY).tobytes())
        return SelectedFrame(
            recording=session,
            clip_id=masks.clip_id,
            frame_index=masks.frame_index,
            stamp_ns=stamp_ns(masks.header.stamp),
            image_path=path,
            size=(masks.height, masks.width),
            rles=tuple(decode_rle(mask.mask) for mask in masks.masks),
            scores=tuple(mask.score for mask in masks.masks),
            confidences=tuple(mask.confidence for mask in masks.masks),
            model_version=masks.model_version,
            track_ids=tuple(mask.track_id or None for mask in masks.masks),
        )

    # Learning.

    def _on_train(self, request: Any, response: Any) -> str:
        self._check_trainable()
        self._training.put("called")
        return f"training starts on {self._masks_stored} masks"

    def _on_train_goal(self, goal: Any) -> None:
        if not self.active:
            raise GboptError(f"{self.get_name()} is not active")
        self._check_trainable()
        self._goal = goal
        self._training.put("called by an action")

    def _check_trainable(self) -> None:
        if not self._training.idle:
            raise GboptError("training is under way; ~/output/progress shows it")
        if self._masks_stored == 0:
            raise GboptError("no selected mask to learn from yet")

    def _train(self, reason: str) -> None:
        version, cancel = "", self._cancel
        try:
            version = self._learn(reason, cancel)
        finally:
            if cancel is self._cancel:  # else the node went down, and may have other goals now
                self._answer(version, self._told)

    def _answer(self, version: str, message: str) -> None:
        """Finish the goal that the training is for, if any; `version` is "" if there is none."""
        goal, self._goal = self._goal, None
        if goal is not None:
            self._train_action.finish(goal, success=bool(version), message=message, version=version)

    def _learn(self, reason: str, cancel: threading.Event) -> str:
        """Train once; returns the name of the version that is published, "" if none is."""
        self.get_logger().info(f"training starts ({reason}) on {self._masks_stored} masks")
        config = self.config  # what is set from now on is for the next training
        self._iterations = config.learning.iterations
        self._clips_since = 0
        self._tell(_STATES.STATE_TRAINING, f"training, {reason}")

        def tell(state: int, message: str) -> None:
            if cancel is self._cancel:  # else the node was cleaned up meanwhile: it has no topics
                self._tell(state, message)

        try:
            learnt = self._store.learn(
                config,
                rehearsal=self._rehearsal,
                validation=self._validation,
                on_step=partial(self._on_step, cancel),
            )
        except _Cancelled:
            cause = "the node was deactivated" if cancel.is_set() else "it was cancelled"
            told = f"training was stopped: {cause}"
            self.get_logger().warning(f"{told}; nothing is published, the masks stay in the store")
            tell(_STATES.STATE_FAILED, told)
            return ""
        except Exception as error:
            tell(_STATES.STATE_FAILED, f"training failed: {error}")
            raise
        if learnt.version is None:
            tell(_STATES.STATE_REJECTED, f"refused by the gate: {learnt.decision.reason}")
            self.health.count("versions refused")
            return ""
        self.health.count("versions published")
        name, reason = learnt.version.version, learnt.decision.reason
        self.get_logger().info(f"{name} published: {reason}")
        comparison = learnt.comparison
        if comparison is not None and not comparison.passed:
            reason = f"{name} does not serve yet, learning goes on from it: {comparison.reason}"
        elif not self.active:
            reason = f"{name} does not serve yet: the node was deactivated before it was published"
        else:
            self._announce(learnt.version, ModelUpdate.CAUSE_TRAINED)
            tell(_STATES.STATE_PUBLISHED, f"{name}: {reason}")
            return name
        self.get_logger().info(reason)
        tell(_STATES.STATE_REJECTED, reason)
        return name

    def _on_step(self, cancel: threading.Event, step: int, loss: float) -> None:
        goal = self._goal
        if cancel.is_set() or (goal is not None and goal.is_cancel_requested):
            raise _Cancelled
        now, last = time.monotonic(), step == self._iterations
        if last or now - self._last_progress >= _PROGRESS_PERIOD_S:
            self._last_progress = now
            state = _STATES.STATE_CHECKING if last else _STATES.STATE_TRAINING
            self._tell(state, "checking the new version" if last else "training", step, loss)

    def _on_rollback(self, request: Any, response: Any) -> str:
        if not self._training.idle:
            raise GboptError("training is under way: its parent must not change; try again later")
        models, compared = self._store.models, is_compared(self.config)
        models.rollback(compared=compared)
        self.health.recover("store")
        serving = models.serving(compared=compared)
        if serving is not None:
            self._announce(serving, ModelUpdate.CAUSE_ROLLBACK)
            return f"{serving.version} serves again"
        path = proposal_weights(self.config).resolve()
        network = read_proposals(path, self.config.proposal, resolve_device(self.config.device))
        digest = sha256_of(path)
        self._publish_update(network.version, "", path, digest, ModelUpdate.CAUSE_ROLLBACK)
        return f"{network.version} ({path}) serves again; no version of the store does"

    def _announce_serving(self) -> None:
        """Announce the version that should serve, if the store has one.

        Where it is damaged, or the current one is, `~/rollback` can repair the store.
        """
        models = self._store.models
        try:
            models.verified_current()
            serving = models.serving(compared=is_compared(self.config))
            if serving is not None:
                models.verify(serving)
                self._announce(serving, ModelUpdate.CAUSE_TRAINED)
        except GboptError as error:
            self.health.fail(f"{error}: call ~/rollback", "store")
            self.get_logger().error(f"{error}: call ~/rollback; until then nothing is learnt")

    def _announce(self, version: ModelVersion, cause: int) -> None:
        manifest = version.manifest
        self._publish_update(
            version.version,
            str(manifest["parent"]),
            version.path.resolve(),
            manifest["sha256"],
            cause,
            {name: manifest.get(name) or {} for name in ("gate", "teacher_gate")},
        )

    def _publish_update(
        self,
        version: str,
        parent: str,
        path: Path,
        sha256: str,
        cause: int,
        gates: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        metrics = [
            Metric(name=f"{gate}/{name}", value=float(value))
            for gate, decision in (gates or {}).items()
            for name, value in decision.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        self._updates.publish(
            ModelUpdate(
                stamp=self.get_clock().now().to_msg(),
                version=version,
                parent=parent,
                path=str(path),
                sha256=sha256,
                url=self.settings.url,
                cause=cause,
                metrics=metrics,
            )
        )

    def _tell(self, state: int, message: str, step: int = 0, loss: float = float("nan")) -> None:
        progress = TrainingProgress(
            stamp=self.get_clock().now().to_msg(),
            state=state,
            parent="" if state == _STATES.STATE_IDLE else self._parent(),
            iteration=step,
            iterations=self._iterations,
            loss=loss,
            clips=self._clips_stored,
            masks=self._masks_stored,
            message=message,
        )
        self._told = message
        self._progress.publish(progress)
        if (goal := self._goal) is not None:
            goal.publish_feedback(Train.Feedback(progress=progress))


def main(arguments: Sequence[str] | None = None) -> int:
    def make() -> list[PipelineNode]:
        node = LearnerNode()
        os.nice(node.settings.niceness)
        torch.set_num_threads(node.settings.threads)
        cv2.setNumThreads(node.settings.threads)
        return [node]

    return spin(make, arguments)
