"""The training masks of every row of the experiment, each as a training set on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from tqdm import tqdm

from experiments import baselines
from experiments.cache import Cache, digest_of_dataset, digest_of_stills
from experiments.tabletop import Stills
from gbopt_ros.config import Config, MotionConfig, OutlineConfig, SelectionConfig
from gbopt_ros.evaluation.mask_quality import mask_precision_recall, threshold_curve
from gbopt_ros.io.clip_cutter import cut_clips
from gbopt_ros.io.datasets.coco import CocoDataset
from gbopt_ros.io.selection_format import ReplayWriter, SelectedFrame, read_replay
from gbopt_ros.learning.confidence.cross_clip import recalibrate
from gbopt_ros.learning.data.training_set import (
    SelectedDataset,
    SelectedImage,
    TrainingSet,
    confidence_cutoff,
)
from gbopt_ros.learning.round import adapt
from gbopt_ros.masks import boxes_xyxy
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.device import resolve_device
from gbopt_ros.models.weights import save_weights, sha256_of
from gbopt_ros.perception.flow import make_flow
from gbopt_ros.perception.load import background_weights, load_proposal_network, proposal_weights
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import Clip, Frame, ProposalNetwork, Proposals, Rle

LABELS = {
    "before": "before",
    "control": "control: rehearsal alone",
    "threshold": "score threshold",
    "distillation": "Data Distillation",
    "tracklets": "tracklets (manner of UnOVOST)",
    "ours": "ours",
    "adapted": "ours, background adapted",
    "gt": "selected using GT",
    "truth": "trained with GT",
    "right": "ours, wrong masks taken out by GT",
    "complete": "ours, missed objects added by GT",
    "L_I": "L_I",
    "constraint": "L_I + constraint",
    "L_F": "L_I + constraint + L_F",
    "L_p": "L_I + constraint + L_F + L_p",
}
ROWS = tuple(LABELS)[:9]
LIMITS = tuple(LABELS)[9:11]  # what holds ours back: each of its two errors mended by ground truth
TERMS = tuple(LABELS)[11:]  # the paper's Table 4, outlines as proposed
SELECTED = ("ours", "adapted", *LIMITS, *TERMS)  # by selection in clips
CHOOSING = ("threshold", "tracklets")  # rows with a threshold from the validation recording
_JPEG_QUALITY = 95  # of frames, the same as in the output of a replay

FrameKey = tuple[str, int]
"""Name of a recording and index of a frame in it."""
Masks = dict[FrameKey, Proposals]


class Recording(Protocol):
    """Frames with their ground truth.

    Attributes:
        name: no other recording of the same experiment has it.
        digest: SHA-256 of frames and ground truth.
        truth: the instances of every frame, by frame index.
    """

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def truth(self) -> Mapping[int, tuple[Rle, ...]]: ...

    def open(self) -> Iterable[Frame]:
        """The frames, from the first one again at every call."""
        ...


@dataclass(frozen=True)
class TrainingMasks:
    """What a row learns from.

    Attributes:
        folder: of the training set, None for a row that learns no new mask.
        digest: SHA-256 of images and masks as a training draws them, "" for none.
        quality: precision, recall, mean IoU (percent), masks and frames; empty for none.
        facts: what was chosen on the way, such as a threshold.
    """

    folder: Path | None = None
    digest: str = ""
    quality: Mapping[str, float] | None = None
    facts: Mapping[str, float] | None = None

    def pool(self, config: Config) -> SelectedDataset | None:
        """What batches are drawn from."""
        return None if self.folder is None else open_dataset(self.folder, config)


def open_dataset(folder: Path, config: Config) -> SelectedDataset:
    """The pool of a training set on disk, as `gbopt learn` draws from it.

    But that looks at no more frames than its steps draw images.
    """
    learning = config.learning
    with TrainingSet(folder, learning.max_bytes, learning.policy) as training_set:
        return training_set.labelled_images().filter_by_confidence(learning.min_confidence)


class MaskMaker:
    """Makes the training masks of rows; what they share is computed once and stored.

    Args:
        train: what masks are made for.
        validation: thresholds are chosen on it; None where no row of `CHOOSING` is asked for.
        rehearsal: labelled images; they tell how many objects an image has.
        stored: where masks, frames and training sets lie.
    """

    def __init__(
        self,
        train: Sequence[Recording],
        validation: Recording | None,
        rehearsal: CocoDataset,
        config: Config,
        stored: Cache,
    ) -> None:
        self._train, self._rehearsal = train, rehearsal
        self._config, self._stored = config, stored
        self._choose_on = validation
        self._clips: dict[str, list[Clip]] = {}

    def masks_of(self, row: str) -> TrainingMasks:
        """The training masks of a row of `LABELS`.

        Raises:
            GboptError: a recording cannot be read, or thresholds cannot be chosen on it.
        """
        if row in ("before", "control"):
            return TrainingMasks()
        if row in SELECTED:
            return self._collected(self.selected(row), {})
        make: dict[str, Callable[[], tuple[Masks, dict[str, float]]]] = {
            "threshold": self._thresholded,
            "distillation": self._distilled,
            "tracklets": self._tracked,
            "gt": self._closest,
            "truth": self._true,
        }
        masks, facts = make[row]()
        frames = [
            SelectedFrame(
                recording=recording.name,
                clip_id=clip.clip_id,
                frame_index=frame.index,
                stamp_ns=frame.stamp_ns,
                image_path=self._frames_of(recording) / f"{frame.index:06d}.jpg",
                size=frame.size,
                rles=masks[recording.name, frame.index].rles,
                scores=tuple(float(s) for s in masks[recording.name, frame.index].scores),
                confidences=(1.0,) * len(masks[recording.name, frame.index]),
            )
            for recording in self._train
            for clip in self._clips_of(recording)
            for frame in clip.frames
        ]
        return self._collected(frames, facts)

    def selected(self, row: str) -> list[SelectedFrame]:
        """The frames of a row of `SELECTED`: ours, by the replay that `gbopt replay` does."""
        config = replace(self._config, selection=selection_of(row, self._config.selection))
        if row in TERMS:
            config = replace(
                config, motion=MotionConfig(weight=0.0), outline=OutlineConfig(method="network")
            )
        # The name of the folder would make two rows of equal masks two training sets.
        frames = []
        for recording in self._train:
            used = self._adapted_to(recording, config) if row == "adapted" else config
            replay = self._replay_of(recording, used, f"select: {LABELS[row]}")
            frames += [replace(frame, recording=recording.name) for frame in read_replay(replay)]
        if row in TERMS:  # what was selected, all of it
            frames = [replace(f, confidences=(1.0,) * len(f.rles)) for f in frames]
        elif config.learning.recurrence:
            frames = self._revised(frames)
        if row in LIMITS:
            frames = self._mended(row, frames)
        return frames

    def candidates(self) -> Masks:
        """The proposals that selection chooses from, of every frame."""
        return self._proposals(self._train)

    # The methods. Each gives the masks of every frame and what was chosen on the way.

    def _thresholded(self) -> tuple[Masks, dict[str, float]]:
        validation = [self._validation]
        curve = threshold_curve(self._truth(validation), self._proposals(validation))
        return _above(self._proposals(self._train), baselines.best_threshold(curve))

    def _distilled(self) -> tuple[Masks, dict[str, float]]:
        proposals = self._proposals(self._train, ensemble="scales")
        objects = baselines.objects_an_image(self._rehearsal.rles_by_image)
        scores = [found.scores for found in proposals.values()]
        return _above(proposals, baselines.expected_number_threshold(scores, objects))

    def _tracked(self) -> tuple[Masks, dict[str, float]]:
        validation = [self._validation]
        curve = threshold_curve(self._truth(validation), self._tracklets(validation))
        return _above(self._tracklets(self._train), baselines.best_threshold(curve))

    def _closest(self) -> tuple[Masks, dict[str, float]]:
        truth, proposals = self._truth(self._train), self._proposals(self._train)
        return {key: baselines.agreeing_with(p, truth[key]) for key, p in proposals.items()}, {}

    def _true(self) -> tuple[Masks, dict[str, float]]:
        sizes = {
            (recording.name, frame.index): frame.size
            for recording in self._train
            for clip in self._clips_of(recording)
            for frame in clip.frames
        }
        truth = self._truth(self._train)
        return {key: _as_proposals(size, truth[key]) for key, size in sizes.items()}, {}

    def _mended(self, row: str, frames: Sequence[SelectedFrame]) -> list[SelectedFrame]:
        """What is learnt from these frames, less its wrong masks or with proposals of the missed.

        Which masks are right is decided as in `gt`.
        """
        truth, proposals = self._truth(self._train), self._proposals(self._train)
        mended = []
        for frame in sure(frames, self._config):
            key = frame.recording, frame.frame_index
            learnt = list(zip(frame.rles, frame.scores, strict=True))
            pairs = baselines.closest_pairs([rle for rle, _ in learnt], truth[key])
            if row == "right":
                learnt = [learnt[i] for i, _ in pairs]
            else:
                found = {j for _, j in pairs}
                missed = [rle for j, rle in enumerate(truth[key]) if j not in found]
                added = baselines.agreeing_with(proposals[key], missed)
                learnt += zip(added.rles, map(float, added.scores), strict=True)
            mended.append(
                replace(
                    frame,
                    rles=tuple(rle for rle, _ in learnt),
                    scores=tuple(score for _, score in learnt),
                    confidences=(1.0,) * len(learnt),
                )
            )
        return mended

    def _revised(self, frames: Sequence[SelectedFrame]) -> list[SelectedFrame]:
        """With the confidences that `gbopt learn` gives, where its steps draw every frame."""
        shown = [frame for frame in frames if frame.rles]
        pool = SelectedDataset(
            [
                SelectedImage(
                    frame.image_path,
                    frame.rles,
                    frame.confidences,
                    recording=frame.recording,
                    clip_id=frame.clip_id,
                )
                for frame in shown
            ]
        )

        def revised() -> list[tuple[float, ...]]:
            network, _ = load_mask_rcnn(proposal_weights(self._config))
            device = resolve_device(self._config.device)
            found = recalibrate(pool, network, self._config.proposal, device)
            return [entry.confidences for entry in found.entries]

        inputs = {
            "networks": networks_of(self._config, "proposal"),
            "frames": [asdict(f) | {"image_path": f.image_path.name} for f in shown],
            "recordings": [recording.digest for recording in self._train],
        }
        known = iter(self._stored.get_or_make("confidences", inputs, revised))
        return [
            replace(frame, confidences=tuple(next(known))) if frame.rles else frame
            for frame in frames
        ]

    def _adapted_to(self, recording: Recording, config: Config) -> Config:
        """The configuration with a background network taught as `gbopt adapt` does."""
        inputs = {
            "recording": recording.digest,
            "networks": networks_of(config, "background", "flow"),
            "motion": config.motion,
            "adapt": config.adapt,
            "rehearsal": digest_of_stills(self._rehearsal),
        }
        path = self._stored.path("background", inputs, ".safetensors")
        if not path.exists():
            adapted = adapt(recording.open(), config, rehearsal=self._rehearsal)
            save_weights(path, adapted.network, adapted.info)
        return replace(config, background=replace(config.background, weights=str(path)))

    def _replay_of(self, recording: Recording, config: Config, title: str) -> Path:
        inputs = {
            "recording": recording.digest,
            "networks": networks_of(config),
            "motion": config.motion,
            "selection": config.selection,
            "outline": config.outline,
        }
        folder = self._stored.path("replay", inputs)
        if not folder.exists():
            pipeline, clips = Pipeline(config), self._clips_of(recording)
            with (
                ReplayWriter(folder, recording.name) as writer,
                tqdm(clips, title, unit="clip", dynamic_ncols=True) as progress,
            ):
                for clip in progress:
                    writer.add(pipeline.select(clip, pipeline.perceive(clip)))
                writer.finish(config=config.to_dict(), seconds=dict(pipeline.seconds))
        return folder

    # What the methods share.

    @property
    def _validation(self) -> Recording:
        if self._choose_on is None:
            raise ValueError("MaskMaker: rows with a threshold need a validation recording")
        return self._choose_on

    def _clips_of(self, recording: Recording) -> list[Clip]:
        if recording.digest not in self._clips:
            config = self._config.clip
            self._clips[recording.digest] = list(
                cut_clips(
                    recording.open(),
                    config.length,
                    max_gap_s=config.max_gap_s,
                    overlap=config.overlap,
                )
            )
        return self._clips[recording.digest]

    def _truth(self, recordings: Sequence[Recording]) -> dict[FrameKey, tuple[Rle, ...]]:
        return {
            (recording.name, frame.index): recording.truth[frame.index]
            for recording in recordings
            for clip in self._clips_of(recording)
            for frame in clip.frames
        }

    def _proposals(self, recordings: Sequence[Recording], ensemble: str = "") -> Masks:
        """The candidates of every frame, by default those that selection chooses from."""
        proposal = self._config.proposal
        config = replace(
            self._config, proposal=replace(proposal, ensemble=ensemble or proposal.ensemble)
        )
        networks = networks_of(config, "proposal")
        clips = [
            (recording, clip) for recording in recordings for clip in self._clips_of(recording)
        ]
        network: ProposalNetwork | None = None
        found: Masks = {}
        title = f"proposals, {config.proposal.ensemble}"
        for recording, clip in tqdm(clips, title, unit="clip", dynamic_ncols=True):
            inputs = {"recording": recording.digest, "networks": networks, "clip": clip.clip_id}
            known = self._stored.get("proposals", inputs)
            if known is None:
                network = network or load_proposal_network(config)
                candidates = network.propose([frame.image for frame in clip.frames])
                known = [_to_json(each) for each in candidates]
                self._stored.put("proposals", inputs, known)
            for frame, value in zip(clip.frames, known, strict=True):
                found[recording.name, frame.index] = _from_json(value)
        return found

    def _tracklets(self, recordings: Sequence[Recording]) -> Masks:
        networks = networks_of(self._config, "proposal", "flow")
        flow_network = make_flow(self._config.flow, self._config.device)
        proposals = self._proposals(recordings)
        clips = [
            (recording, clip) for recording in recordings for clip in self._clips_of(recording)
        ]
        found: Masks = {}
        for recording, clip in tqdm(clips, "tracklets", unit="clip", dynamic_ncols=True):
            candidates = [proposals[recording.name, frame.index] for frame in clip.frames]

            def follow(clip: Clip = clip, candidates: list[Proposals] = candidates) -> list[Any]:
                images = [frame.image for frame in clip.frames]
                flows = flow_network.flow(images[:-1], images[1:])
                return [_to_json(masks) for masks in baselines.tracklets(clip, candidates, flows)]

            inputs = {"recording": recording.digest, "networks": networks, "clip": clip.clip_id}
            tracked = self._stored.get_or_make("tracklets", inputs, follow)
            for frame, value in zip(clip.frames, tracked, strict=True):
                found[recording.name, frame.index] = _from_json(value)
        return found

    def _frames_of(self, recording: Recording) -> Path:
        """The frames of a recording as image files."""
        folder = self._stored.path("frames", [recording.digest, self._config.clip])
        if not folder.exists():
            self._stored.folder.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=".frames-", dir=self._stored.folder))
            try:
                for clip in self._clips_of(recording):
                    for frame in clip.frames:
                        bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
                        path = aside / f"{frame.index:06d}.jpg"
                        cv2.imwrite(str(path), bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
                os.replace(aside, folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        return folder

    def _collected(self, frames: Sequence[SelectedFrame], facts: dict[str, float]) -> TrainingMasks:
        """The frames as a training set on disk, with the quality of what is learnt."""
        learning = self._config.learning
        content = [(asdict(f) | {"image_path": f.image_path.name}) for f in frames]
        digests = [recording.digest for recording in self._train]
        inputs = [content, digests, learning.max_bytes, learning.policy]
        folder = self._stored.path("set", inputs)
        with TrainingSet(folder, learning.max_bytes, learning.policy) as training_set:
            training_set.add(frames)
        learnt = {(f.recording, f.frame_index): f.rles for f in sure(frames, self._config)}
        found = mask_precision_recall(self._truth(self._train), learnt)
        quality = {
            "precision": 100 * found.precision,
            "recall": 100 * found.recall,
            "mean_iou": 100 * found.counts.mean_iou,
            "masks": found.counts.masks,
            "frames": sum(bool(rles) for rles in learnt.values()),
        }
        return TrainingMasks(
            folder, digest_of_dataset(open_dataset(folder, self._config)), quality, facts
        )


def sure(frames: Sequence[SelectedFrame], config: Config) -> list[SelectedFrame]:
    """The frames with the masks alone that are sure enough to be learnt."""
    minimum = config.learning.min_confidence
    least = confidence_cutoff((frame.confidences for frame in frames), minimum)
    kept = []
    for frame in frames:
        chosen = [i for i, value in enumerate(frame.confidences) if value >= least]
        kept.append(
            replace(
                frame,
                rles=tuple(frame.rles[i] for i in chosen),
                scores=tuple(frame.scores[i] for i in chosen),
                confidences=tuple(frame.confidences[i] for i in chosen),
            )
        )
    return kept


def networks_of(config: Config, *stages: str) -> dict[str, Any]:
    """What decides the results of the networks, all of them where no stage is named."""
    weights = {
        "proposal": lambda: sha256_of(proposal_weights(config)),
        "background": lambda: sha256_of(background_weights(config)),
        "flow": lambda: sha256_of(Path(config.flow.weights)) if config.flow.weights else "",
    }
    return {
        "clip": config.clip,
        **{
            stage: [asdict(getattr(config, stage)) | {"weights": weights[stage]()}]
            for stage in stages or weights
        },
    }


def masks_with(
    train: Sequence[Recording],
    validation: Recording | None,
    rehearsal: CocoDataset,
    stored: Cache,
    row: str,
    config: Config,
) -> TrainingMasks:
    """What a row learns from, selected with the networks of a configuration; see `MaskMaker`."""
    return MaskMaker(train, validation, rehearsal, config, stored).masks_of(row)


def selection_of(row: str, config: SelectionConfig) -> SelectionConfig:
    """The objective of a row: parts of ours for the rows of Table 4."""
    alone = replace(config, lambda_flow=0.0, lambda_regularization=0.0)
    return {
        "L_I": replace(alone, overlap_tolerance=1.0),
        "constraint": alone,
        "L_F": replace(config, lambda_regularization=0.0),
    }.get(row, config)


def inputs_of(stills: Stills) -> dict[str, str]:
    """The digests of the stills that rows rehearse and are judged on."""
    return {
        "rehearsal": digest_of_stills(stills.rehearsal),
        "unseen": digest_of_stills(stills.unseen),
        "seen": digest_of_stills(stills.seen),
    }


def _above(proposals: Masks, threshold: float) -> tuple[Masks, dict[str, float]]:
    kept = {key: baselines.above(found, threshold) for key, found in proposals.items()}
    return kept, {"threshold": threshold}


def _as_proposals(size: tuple[int, int], rles: Sequence[Rle]) -> Proposals:
    return Proposals(
        size, tuple(rles), np.ones(len(rles), np.float32), boxes_xyxy(rles).reshape(-1, 4)
    )


def _to_json(found: Proposals) -> dict[str, Any]:
    return {
        "size": list(found.size),
        "counts": [rle["counts"] for rle in found.rles],
        "scores": [float(score) for score in found.scores],
        "boxes": found.boxes.tolist(),
    }


def _from_json(value: Mapping[str, Any]) -> Proposals:
    height, width = value["size"]
    return Proposals(
        (height, width),
        tuple(Rle(size=[height, width], counts=counts) for counts in value["counts"]),
        np.array(value["scores"], np.float32),
        np.array(value["boxes"], np.float32).reshape(-1, 4),
    )
