"""The training masks of every row of the experiment, each as a training set on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import baselines
import cv2
import numpy as np
from stored import Stored, digest_of_pool, digest_of_stills
from tabletop import Recording, Stills, Tabletop
from tqdm import tqdm

from gbopt_ros.config import Config, OutlineConfig, SelectionConfig
from gbopt_ros.evaluation.mask_quality import mask_precision_recall, threshold_curve
from gbopt_ros.learning.training_set import SelectedFrame, SelectedPool, TrainingSet, read_replay
from gbopt_ros.masks import boxes_xyxy
from gbopt_ros.outputs import ReplayWriter
from gbopt_ros.perception.weights import sha256_of
from gbopt_ros.pipeline import (
    Pipeline,
    background_weights,
    load_flow_network,
    load_proposal_network,
    proposal_weights,
)
from gbopt_ros.sources.clips import cut_clips
from gbopt_ros.structures import Clip, ProposalNetwork, Proposals, Rle

LABELS = {
    "before": "before",
    "control": "control: rehearsal alone",
    "threshold": "score threshold",
    "distillation": "Data Distillation",
    "tracklets": "tracklets (manner of UnOVOST)",
    "ours": "ours",
    "gt": "selected using GT",
    "truth": "trained with GT",
    "L_I": "L_I",
    "constraint": "L_I + constraint",
    "L_F": "L_I + constraint + L_F",
    "L_p": "L_I + constraint + L_F + L_p",
}
ROWS = tuple(LABELS)[:8]
TERMS = tuple(LABELS)[8:]  # the paper's Table 4, outlines as proposed
CHOOSING = ("threshold", "tracklets")  # rows with a threshold from the validation recording
_JPEG_QUALITY = 95  # of frames, the same as in the output of a replay


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

    def pool(self, config: Config) -> SelectedPool | None:
        """What batches are drawn from."""
        return None if self.folder is None else open_pool(self.folder, config)


def open_pool(folder: Path, config: Config) -> SelectedPool:
    """The pool of a training set on disk, as `gbopt learn` draws from it."""
    learning = config.learning
    with TrainingSet(folder, learning.max_bytes, learning.policy) as training_set:
        return training_set.labelled_images(learning.min_confidence)


class MaskMaker:
    """Makes the training masks of rows; what they share is computed once and stored.

    Args:
        stored: where masks, frames and training sets lie.
    """

    def __init__(self, tabletop: Tabletop, config: Config, stored: Stored) -> None:
        self._tabletop, self._config, self._stored = tabletop, config, stored
        self._clips: dict[str, list[Clip]] = {}

    def masks_of(self, row: str) -> TrainingMasks:
        """The training masks of a row of `LABELS`.

        Raises:
            GboptError: a recording cannot be read, or thresholds cannot be chosen on it.
        """
        if row in ("before", "control"):
            return TrainingMasks()
        if row == "ours" or row in TERMS:
            return self._selected(row)
        make: dict[str, Callable[[], tuple[dict[int, Proposals], dict[str, float]]]] = {
            "threshold": self._thresholded,
            "distillation": self._distilled,
            "tracklets": self._tracked,
            "gt": self._closest,
            "truth": self._true,
        }
        masks, facts = make[row]()
        frames = [
            SelectedFrame(
                recording="recording",
                clip_id=clip.clip_id,
                frame_index=frame.index,
                stamp_ns=frame.stamp_ns,
                image_path=self._frames / f"{frame.index:06d}.jpg",
                size=frame.size,
                rles=masks[frame.index].rles,
                scores=tuple(float(s) for s in masks[frame.index].scores),
                confidences=(1.0,) * len(masks[frame.index]),
            )
            for clip in self._clips_of(self._tabletop.train)
            for frame in clip.frames
        ]
        return self._collected(frames, facts)

    # The methods. Each gives the masks of every frame and what was chosen on the way.

    def _thresholded(self) -> tuple[dict[int, Proposals], dict[str, float]]:
        validation = self._validation
        curve = threshold_curve(self._truth(validation), self._proposals(validation))
        return self._above(self._proposals(self._tabletop.train), baselines.best_threshold(curve))

    def _distilled(self) -> tuple[dict[int, Proposals], dict[str, float]]:
        proposals = self._proposals(self._tabletop.train, ensemble="scales")
        objects = baselines.objects_an_image(self._tabletop.rehearsal.rles_by_image)
        scores = [found.scores for found in proposals.values()]
        return self._above(proposals, baselines.expected_number_threshold(scores, objects))

    def _tracked(self) -> tuple[dict[int, Proposals], dict[str, float]]:
        validation = self._validation
        curve = threshold_curve(self._truth(validation), self._tracklets(validation))
        return self._above(self._tracklets(self._tabletop.train), baselines.best_threshold(curve))

    def _closest(self) -> tuple[dict[int, Proposals], dict[str, float]]:
        truth = self._truth(self._tabletop.train)
        proposals = self._proposals(self._tabletop.train)
        return {i: baselines.agreeing_with(p, truth[i]) for i, p in proposals.items()}, {}

    def _true(self) -> tuple[dict[int, Proposals], dict[str, float]]:
        return {
            frame.index: _as_proposals(frame.size, self._tabletop.train.truth[frame.index])
            for clip in self._clips_of(self._tabletop.train)
            for frame in clip.frames
        }, {}

    def _above(
        self, proposals: dict[int, Proposals], threshold: float
    ) -> tuple[dict[int, Proposals], dict[str, float]]:
        kept = {index: baselines.above(found, threshold) for index, found in proposals.items()}
        return kept, {"threshold": threshold}

    def _selected(self, row: str) -> TrainingMasks:
        """Ours, by the replay that `gbopt replay` does."""
        config = replace(self._config, selection=selection_of(row, self._config.selection))
        if row in TERMS:
            config = replace(config, outline=OutlineConfig(method="network"))
        inputs = {
            "recording": self._tabletop.train.digest,
            "networks": self._networks(config),
            "selection": config.selection,
            "outline": config.outline,
        }
        folder = self._stored.path("replay", inputs)
        if not folder.exists():
            pipeline, clips = Pipeline(config), self._clips_of(self._tabletop.train)
            with (
                ReplayWriter(folder, "recording") as writer,
                tqdm(clips, f"select: {LABELS[row]}", unit="clip", dynamic_ncols=True) as progress,
            ):
                for clip in progress:
                    writer.add(pipeline.select(clip, pipeline.perceive(clip)))
                writer.finish(config=config.to_dict(), seconds=dict(pipeline.seconds))
        # The name of the folder would make two rows of equal masks two training sets.
        frames = [replace(frame, recording="recording") for frame in read_replay(folder)]
        return self._collected(frames, {})

    # What the methods share.

    @property
    def _validation(self) -> Recording:
        if self._tabletop.validation is None:
            raise ValueError("MaskMaker: rows with a threshold need a validation recording")
        return self._tabletop.validation

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

    def _truth(self, recording: Recording) -> dict[int, tuple[Rle, ...]]:
        indices = {f.index for clip in self._clips_of(recording) for f in clip.frames}
        return {index: recording.truth[index] for index in sorted(indices)}

    def _proposals(self, recording: Recording, ensemble: str = "") -> dict[int, Proposals]:
        """The candidates of every frame, by default those that selection chooses from."""
        proposal = self._config.proposal
        config = replace(
            self._config, proposal=replace(proposal, ensemble=ensemble or proposal.ensemble)
        )
        inputs = {"recording": recording.digest, "networks": self._networks(config, "proposal")}
        clips = self._clips_of(recording)
        network: ProposalNetwork | None = None
        found: dict[int, Proposals] = {}
        title = f"proposals, {config.proposal.ensemble}"
        for clip in tqdm(clips, title, unit="clip", dynamic_ncols=True):
            known = self._stored.get("proposals", inputs | {"clip": clip.clip_id})
            if known is None:
                network = network or load_proposal_network(config)
                candidates = network.propose([frame.image for frame in clip.frames])
                known = [_to_json(each) for each in candidates]
                self._stored.put("proposals", inputs | {"clip": clip.clip_id}, known)
            for frame, value in zip(clip.frames, known, strict=True):
                found[frame.index] = _from_json(value)
        return found

    def _tracklets(self, recording: Recording) -> dict[int, Proposals]:
        inputs = {
            "recording": recording.digest,
            "networks": self._networks(self._config, "proposal", "flow"),
        }

        def follow() -> dict[str, Any]:
            network, proposals = load_flow_network(self._config), self._proposals(recording)
            found: dict[str, Any] = {}
            for clip in tqdm(
                self._clips_of(recording), "tracklets", unit="clip", dynamic_ncols=True
            ):
                images = [frame.image for frame in clip.frames]
                flows = network.flow(images[:-1], images[1:])
                candidates = [proposals[frame.index] for frame in clip.frames]
                tracked = baselines.tracklets(clip, candidates, flows)
                for frame, masks in zip(clip.frames, tracked, strict=True):
                    found[str(frame.index)] = _to_json(masks)
            return found

        found = self._stored.get_or_make("tracklets", inputs, follow)
        return {int(index): _from_json(value) for index, value in found.items()}

    @cached_property
    def _frames(self) -> Path:
        """The frames of the recording as image files."""
        folder = self._stored.path("frames", [self._tabletop.train.digest, self._config.clip])
        if not folder.exists():
            self._stored.folder.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=".frames-", dir=self._stored.folder))
            try:
                for clip in self._clips_of(self._tabletop.train):
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
        inputs = [content, self._tabletop.train.digest, learning.max_bytes, learning.policy]
        folder = self._stored.path("set", inputs)
        with TrainingSet(folder, learning.max_bytes, learning.policy) as training_set:
            training_set.add(frames)
        learnt = {
            f.frame_index: [
                rle
                for rle, confidence in zip(f.rles, f.confidences, strict=True)
                if confidence >= learning.min_confidence
            ]
            for f in frames
        }
        found = mask_precision_recall(self._truth(self._tabletop.train), learnt)
        quality = {
            "precision": 100 * found.precision,
            "recall": 100 * found.recall,
            "mean_iou": 100 * found.counts.mean_iou,
            "masks": found.counts.masks,
            "frames": sum(bool(rles) for rles in learnt.values()),
        }
        return TrainingMasks(
            folder, digest_of_pool(open_pool(folder, self._config)), quality, facts
        )

    def _networks(self, config: Config, *stages: str) -> dict[str, Any]:
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
