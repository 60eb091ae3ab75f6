"""The methods that choose training masks, each with its masks as a training set on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import compress
from pathlib import Path

import numpy as np

from experiments import baselines, methods
from experiments.cache import Cache, digest_of_dataset, digest_of_stills
from experiments.methods.run import MethodRunner
from experiments.recordings import CachedRecordings, Masks, Recording, networks_of
from experiments.tabletop import Stills
from gbopt_ros.config import Config, MotionConfig, OutlineConfig, SelectionConfig
from gbopt_ros.evaluation.mask_quality import mask_precision_recall, threshold_curve
from gbopt_ros.io.datasets.coco import CocoDataset
from gbopt_ros.io.json_file import read_json
from gbopt_ros.io.selection_format import SelectedFrame, read_selection
from gbopt_ros.learning.confidence.cross_clip import recalibrate
from gbopt_ros.learning.data.datasets import SelectedDataset, SelectedImage, confidence_cutoff
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.masks import boxes_xyxy
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.device import resolve_device
from gbopt_ros.perception.load import proposal_weights
from gbopt_ros.structures import Proposals, Rle

LABELS = {
    "before": "before",
    "control": "control: rehearsal alone",
    "threshold": "score threshold",
    "distillation": "Data Distillation",
    "ours": "ours",
    "gt": "selected using GT",
    "truth": "trained with GT",
    "right": "ours, wrong masks taken out by GT",
    "complete": "ours, missed objects added by GT",
    "L_I": "L_I",
    "constraint": "L_I + constraint",
    "L_F": "L_I + constraint + L_F",
    "L_p": "L_I + constraint + L_F + L_p",
}
"""Labels of the methods that this module makes; `label_of` knows those of all."""
OTHERS = tuple(methods.METHODS)  # written from other papers
METHODS = (*tuple(LABELS)[:4], *OTHERS, *tuple(LABELS)[4:])  # in the order of tables
COMPARED = (
    "before", "control", "threshold", "distillation", "unovost", "ours", "gt", "truth",
)  # in the main table  # fmt: skip
LIMITS = ("right", "complete")  # ours with one kind of error corrected by ground truth
ABLATION = ("L_I", "constraint", "L_F", "L_p")  # the paper's Table 4, outlines as proposed
SELECTED = ("ours", *LIMITS, *ABLATION)  # methods that select in clips
CHOOSING = ("threshold", *OTHERS)  # with a threshold from the validation recording
MASK_FIELDS = ("rles", "scores", "confidences", "track_ids")  # of a `SelectedFrame`, by mask

Sources = tuple[Sequence[Recording], Recording | None, CocoDataset]
"""The arguments `train`, `validation` and `rehearsal` of `MaskMaker`."""


@dataclass(frozen=True)
class TrainingMasks:
    """What a method learns from.

    Attributes:
        folder: training set, None for a method that learns no new mask.
        digest: SHA-256 of images and masks as a training draws them, "" for none.
        quality: precision, recall, mean IoU (percent), masks and frames; None for none.
        facts: values that were chosen on the way, such as a threshold.
    """

    folder: Path | None = None
    digest: str = ""
    quality: Mapping[str, float] | None = None
    facts: Mapping[str, float] | None = None

    def dataset(self, config: Config) -> SelectedDataset | None:
        """The dataset that batches are drawn from."""
        return None if self.folder is None else open_dataset(self.folder, config)


def open_dataset(folder: Path, config: Config) -> SelectedDataset:
    """A training set on disk, without its masks of low confidence."""
    learning = config.learning
    with TrainingSet(folder, learning.max_bytes, learning.policy) as training_set:
        return training_set.labelled_images().filter_by_confidence(learning.min_confidence)


class MaskMaker:
    """Makes the training masks of methods; what they share is computed once and cached.

    Args:
        train: recordings that masks are made for.
        validation: recording that thresholds are chosen on; None where all masks of a method of
            `OTHERS` count, as the paper has it, and "threshold" is not asked for.
        rehearsal: labelled images; they tell how many objects an image has.
        cache: folder of masks, frames and training sets.
    """

    def __init__(
        self,
        train: Sequence[Recording],
        validation: Recording | None,
        rehearsal: CocoDataset,
        config: Config,
        cache: Cache,
    ) -> None:
        self._train, self._rehearsal = train, rehearsal
        self._config, self._cache = config, cache
        self._choose_on = validation
        self._runner = MethodRunner(config, cache, networks_of(config))
        self._shared = CachedRecordings(config, cache)

    def masks_of(self, method: str) -> TrainingMasks:
        """The training masks of a method of `METHODS`, or of `file:PATH`.

        Raises:
            GboptError: a recording cannot be read, or thresholds cannot be chosen on it.
        """
        if method in ("before", "control"):
            return TrainingMasks()
        if method in SELECTED:
            return self._collected(self.selected(method), {})
        masks, facts = self.chosen(method)
        frames = [
            SelectedFrame(
                recording=recording.name,
                clip_id=clip.clip_id,
                frame_index=frame.index,
                stamp_ns=frame.stamp_ns,
                image_path=self._shared.frames(recording) / f"{frame.index:06d}.jpg",
                size=frame.size,
                rles=masks[recording.name, frame.index].rles,
                scores=tuple(float(s) for s in masks[recording.name, frame.index].scores),
                confidences=(1.0,) * len(masks[recording.name, frame.index]),
            )
            for recording in self._train
            for clip in self._shared.clips(recording)
            for frame in clip.frames
        ]
        return self._collected(frames, facts)

    def chosen(self, method: str) -> tuple[Masks, dict[str, float]]:
        """The masks of a method that does not select in clips, and what was chosen on the way."""
        make: dict[str, Callable[[], tuple[Masks, dict[str, float]]]] = {
            "threshold": self._thresholded,
            "distillation": self._distilled,
            "gt": self._closest,
            "truth": self._true,
        }
        return make.get(method, partial(self._of_others, method))()

    def selected(self, method: str) -> list[SelectedFrame]:
        """The frames of a method of `SELECTED`, as `gbopt replay` selects them."""
        config = replace(self._config, selection=selection_of(method, self._config.selection))
        if method in ABLATION:
            config = replace(
                config, motion=MotionConfig(weight=0.0), outline=OutlineConfig(method="network")
            )
        # The name of the folder would make two training sets of two methods with equal masks.
        title = f"select: {LABELS[method]}"
        frames = [
            replace(frame, recording=recording.name)
            for recording in self._train
            for frame in read_selection(self._shared.replay(recording, config, title))
        ]
        if method in ABLATION:  # all of them are learnt
            frames = [replace(f, confidences=(1.0,) * len(f.rles)) for f in frames]
        elif config.learning.cross_clip_confidence:
            frames = self._recalibrated(frames)
        return self.corrected(method, frames) if method in LIMITS else frames

    def selections(self, recordings: Sequence[Recording]) -> tuple[Masks, float]:
        """The masks that ours selects, scored by confidence, and its seconds but for proposals."""
        found: Masks = {}
        seconds = 0.0
        for recording in recordings:
            folder = self._shared.replay(recording, self._config, f"select: {LABELS['ours']}")
            for frame in read_selection(folder):
                found[recording.name, frame.frame_index] = _by_confidence(frame)
            spent = read_json(folder / "run.json")["seconds"]
            seconds += sum(value for stage, value in spent.items() if stage != "proposals")
        return found, seconds

    def candidates(self, ensemble: bool = False) -> Masks:
        """The proposals of every frame: those of one view, or averaged over six views."""
        return self._shared.proposals(self._train, ensemble=ensemble)

    # The methods. Each gives the masks of every frame and what was chosen on the way.

    def _thresholded(self) -> tuple[Masks, dict[str, float]]:
        validation = [self._validation]
        curve = threshold_curve(self._shared.truth(validation), self._shared.proposals(validation))
        return _above(self.candidates(), baselines.best_threshold(curve))

    def _distilled(self) -> tuple[Masks, dict[str, float]]:
        proposals = self.candidates(ensemble=True)
        objects = baselines.objects_an_image(self._rehearsal.rles_by_image)
        scores = [found.scores for found in proposals.values()]
        return _above(proposals, baselines.expected_number_threshold(scores, objects))

    def _of_others(self, method: str) -> tuple[Masks, dict[str, float]]:
        """A method of `experiments.methods`.

        All of its masks count where none is right in the validation recording or there is no such
        recording, where all have one score, and where they are of files.
        """
        masks, _ = self.scored(method, self._train)
        scores = {float(score) for found in masks.values() for score in found.scores}
        if self._choose_on is None or method.startswith(methods.FILE) or len(scores) < 2:
            return masks, {}
        validation = [self._validation]
        curve = threshold_curve(self._shared.truth(validation), self.scored(method, validation)[0])
        threshold = baselines.best_threshold(curve) if curve.recall.any() else 0.0
        return _above(masks, threshold)

    def _closest(self) -> tuple[Masks, dict[str, float]]:
        truth = self._shared.truth(self._train)
        return {
            key: baselines.agreeing_with(found, truth.get(key, ()))
            for key, found in self.candidates().items()
        }, {}

    def _true(self) -> tuple[Masks, dict[str, float]]:
        truth = self._shared.truth(self._train)
        return {
            (recording.name, index): _as_proposals(size, truth.get((recording.name, index), ()))
            for recording in self._train
            for index, size in self._shared.sizes(recording).items()
        }, {}

    def corrected(self, method: str, frames: Sequence[SelectedFrame]) -> list[SelectedFrame]:
        """The confident masks of these frames, without wrong ones or with the missed proposals.

        Which masks are right is decided as in `gt`.
        """
        truth, proposals = self._shared.truth(self._train), self.candidates()
        corrected = []
        for frame in filter_by_confidence(frames, self._config):
            key = frame.recording, frame.frame_index
            learnt = list(zip(frame.rles, frame.scores, strict=True))
            true = truth.get(key, ())
            pairs = baselines.closest_pairs([rle for rle, _ in learnt], true)
            if method == "right":
                learnt = [learnt[i] for i, _ in pairs]
            else:
                found = {j for _, j in pairs}
                missed = [rle for j, rle in enumerate(true) if j not in found]
                added = baselines.agreeing_with(proposals[key], missed)
                learnt += zip(added.rles, map(float, added.scores), strict=True)
            corrected.append(
                replace(
                    frame,
                    rles=tuple(rle for rle, _ in learnt),
                    scores=tuple(score for _, score in learnt),
                    confidences=(1.0,) * len(learnt),
                    track_ids=(),
                )
            )
        return corrected

    def _recalibrated(self, frames: Sequence[SelectedFrame]) -> list[SelectedFrame]:
        """The frames with the cross-clip confidences that `gbopt learn` gives to all of them."""
        shown = [frame for frame in frames if frame.rles]
        dataset = SelectedDataset(
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

        def confidences() -> list[tuple[float, ...]]:
            network, _ = load_mask_rcnn(proposal_weights(self._config))
            device = resolve_device(self._config.device)
            found = recalibrate(dataset, network, self._config.proposal, device)
            return [entry.confidences for entry in found.entries]

        inputs = {
            "networks": networks_of(self._config, "proposal"),
            "frames": [asdict(f) | {"image_path": f.image_path.name} for f in shown],
            "recordings": [recording.digest for recording in self._train],
        }
        known = iter(self._cache.get_or_make("confidences", inputs, confidences))
        return [
            replace(frame, confidences=tuple(next(known))) if frame.rles else frame
            for frame in frames
        ]

    @property
    def _validation(self) -> Recording:
        if self._choose_on is None:
            raise ValueError("MaskMaker: a method with a threshold needs a validation recording")
        return self._choose_on

    def scored(self, method: str, recordings: Sequence[Recording]) -> tuple[Masks, float]:
        """All masks of a method of `experiments.methods` with its scores, and its seconds."""
        made = methods.make_method(method)
        selected = method in methods.ON_SELECTED
        proposals = (
            self.selections(recordings)[0] if selected else self._shared.proposals(recordings)
        )
        found: Masks = {}
        total = 0.0
        for recording, clip in self._shared.all_clips(recordings, made.label):
            keys = [(recording.name, frame.index) for frame in clip.frames]
            of_clip, seconds = self._runner.masks(
                made,
                clip,
                [proposals[key] for key in keys],
                recording.name,
                recording.digest,
                recording.truth.get(clip.frames[0].index, ()),
            )
            found.update(zip(keys, of_clip, strict=True))
            total += seconds
        return found, total

    def _collected(self, frames: Sequence[SelectedFrame], facts: dict[str, float]) -> TrainingMasks:
        """The labelled frames as a training set on disk, with the quality of what is learnt."""
        learning, truth = self._config.learning, self._shared.truth(self._train)
        frames = [frame for frame in frames if (frame.recording, frame.frame_index) in truth]
        content = [(asdict(f) | {"image_path": f.image_path.name}) for f in frames]
        digests = [recording.digest for recording in self._train]
        inputs = [content, digests, learning.max_bytes, learning.policy]
        folder = self._cache.path("set", inputs)
        with TrainingSet(folder, learning.max_bytes, learning.policy) as training_set:
            training_set.add(frames)
        confident = filter_by_confidence(frames, self._config)
        learnt = {(f.recording, f.frame_index): f.rles for f in confident}
        found = mask_precision_recall(truth, learnt)
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


def label_of(method: str) -> str:
    """What a table calls a method of `METHODS` or `file:PATH`."""
    if method in OTHERS or method.startswith(methods.FILE):
        return methods.make_method(method).label
    return LABELS.get(method, method)  # results on disk may name methods of other versions


def filter_by_confidence(frames: Sequence[SelectedFrame], config: Config) -> list[SelectedFrame]:
    """The frames with only the masks that are confident enough to be learnt."""
    minimum = config.learning.min_confidence
    least = confidence_cutoff((frame.confidences for frame in frames), minimum)
    kept = []
    for frame in frames:
        sure = [value >= least for value in frame.confidences]
        masks = {name: tuple(compress(getattr(frame, name), sure)) for name in MASK_FIELDS}
        kept.append(replace(frame, **masks))
    return kept


def masks_with(
    train: Sequence[Recording],
    validation: Recording | None,
    rehearsal: CocoDataset,
    cache: Cache,
    method: str,
    config: Config,
) -> TrainingMasks:
    """The training masks of a method with the networks of a configuration; see `MaskMaker`."""
    return MaskMaker(train, validation, rehearsal, config, cache).masks_of(method)


def selection_of(method: str, config: SelectionConfig) -> SelectionConfig:
    """The objective of a method: parts of ours for the rows of Table 4.

    The masks of `L_I` may overlap in the objective, but what is learnt is cut there, as a selector
    publishes masks; `experiments.ablation` judges them whole.
    """
    terms = replace(config, score_weight=0.0)
    alone = replace(terms, lambda_flow=0.0, lambda_regularization=0.0)
    return {
        "L_I": replace(alone, overlap_tolerance=1.0),
        "constraint": alone,
        "L_F": replace(terms, lambda_regularization=0.0),
        "L_p": terms,
    }.get(method, config)


def inputs_of(stills: Stills) -> dict[str, str]:
    """The digests of the stills that methods rehearse and are judged on."""
    named = {field.name: getattr(stills, field.name) for field in fields(Stills)}
    return {name: digest_of_stills(d) for name, d in named.items() if d is not None}


def _above(proposals: Masks, threshold: float) -> tuple[Masks, dict[str, float]]:
    kept = {key: baselines.above(found, threshold) for key, found in proposals.items()}
    return kept, {"threshold": threshold}


def _as_proposals(size: tuple[int, int], rles: Sequence[Rle]) -> Proposals:
    return Proposals(
        size, tuple(rles), np.ones(len(rles), np.float32), boxes_xyxy(rles).reshape(-1, 4)
    )


def _by_confidence(frame: SelectedFrame) -> Proposals:
    order = sorted(range(len(frame.rles)), key=lambda i: -frame.confidences[i])
    rles = tuple(frame.rles[i] for i in order)
    scores = np.array([frame.confidences[i] for i in order], np.float32)
    return Proposals(frame.size, rles, scores, boxes_xyxy(rles))
