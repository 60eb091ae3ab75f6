"""What the selection is worth on real video: networks, backgrounds and terms of the objective.

    python -m experiments.real_selection ../shared/real/ycbv-* --out real-selection \\
        --proposals bundled yolov8n-seg-640.onnx --backgrounds bundled isnet.onnx bundled,isnet.onnx

Every SEQUENCE is a folder of frames with a PNG of labels beside each. For each proposal network,
background network and choice of masks the table has the precision and the recall of the masks at
IoU 0.5, and the precision of the best score threshold that reaches this recall. The difference has
a 95 % interval by bootstrap over sequences. Labels are incomplete: a mask of an object without a
label counts as wrong, in every row. A second table says how far the confidences of the last choice
hold, beside those of single masks and the network scores.

Writes OUT/real-selection.md and .json. What networks say is kept in OUT/cache.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import ablation
from experiments.cache import digest
from experiments.command_line import (
    Distinct,
    config_of,
    make_parser,
    positive,
    run_facts,
    start,
)
from experiments.recordings import networks_of, truth_of
from gbopt_ros.config import Config, TrackConfig
from gbopt_ros.config.background import BUNDLED
from gbopt_ros.evaluation.calibration import LabelledMasks, calibration_quality, label_masks
from gbopt_ros.evaluation.coco_metrics import evaluate_instances
from gbopt_ros.evaluation.mask_quality import mask_precision_recall, threshold_curve
from gbopt_ros.evaluation.results import CocoResult
from gbopt_ros.io.datasets.coco import CocoDataset, CocoImage
from gbopt_ros.io.files import replacing, write_text
from gbopt_ros.io.sources import open_source
from gbopt_ros.perception.flow import high_detail_flow, make_flow
from gbopt_ros.perception.load import load_background_network
from gbopt_ros.perception.motion import clip_with_motion
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.selection.confidence import with_track_confidence
from gbopt_ros.structures import BackgroundNetwork, FrameSelection, Image, Selection

RESAMPLES = 1000


@dataclass(frozen=True)
class Counts:
    """Counts of a sequence: of the masks of one choice, and of proposals from every score on.

    Attributes:
        matched, masks, instances: of the chosen masks.
        thresholds: (P,) scores, descending.
        matched_from, masks_from: (P,) counts of the proposals with at least that score.
    """

    matched: int
    masks: int
    instances: int
    thresholds: NDArray[np.float64]
    matched_from: NDArray[np.float64]
    masks_from: NDArray[np.float64]


class Remembering:
    """A background network whose maps are kept on disk: some take seconds an image."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._config = config
        self._network: BackgroundNetwork | None = None
        self._folder = folder / digest(networks_of(config, "background"))[:16]

    def background(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        return [self._of(image) for image in images]

    def _of(self, image: Image) -> NDArray[np.float32]:
        path = self._folder / f"{digest(image.tobytes().hex())[:24]}.npy"
        if not path.exists():
            self._network = self._network or load_background_network(self._config)
            content = io.BytesIO()  # on a full disk, NumPy writes a part and says nothing
            np.save(content, self._network.background([image])[0].astype(np.float16))
            with replacing(path) as aside:
                aside.write_bytes(content.getbuffer())
        return np.load(path).astype(np.float32)


def read(folder: Path, frames: int, config: Config, cache: Path) -> ablation.Recording:
    """The first frames of a sequence, what the networks say of them, and the labels."""
    pipeline = Pipeline(config, background_network=Remembering(config, cache))
    shown = list(itertools.islice(open_source(folder), frames))
    masks = truth_of(folder, shown)
    perceived = [(clip, pipeline.perceive(clip)) for clip in pipeline.clips(shown)]
    detailed = high_detail_flow(pipeline.flow_network)
    moved = [
        clip_with_motion(clip.frames, cues.backgrounds, detailed, config.motion)
        for clip, cues in perceived
    ]
    return ablation.Recording(perceived, moved, CocoDataset((), {}), masks, {})


def counts_of(recording: ablation.Recording, selections: Sequence[Selection]) -> Counts:
    """How many masks of a choice are right in a sequence, and how many proposals."""
    selected = {f.frame.index: f.rles for selection in selections for f in selection.frames}
    found = mask_precision_recall(recording.masks, selected).counts
    proposals = {
        frame.index: candidates
        for clip, cues in recording.clips
        for frame, candidates in zip(clip.frames, cues.proposals, strict=True)
    }
    curve = threshold_curve(recording.masks, proposals)
    scores = np.sort(np.concatenate([each.scores for each in proposals.values()]))
    below = np.searchsorted(scores, curve.thresholds)
    return Counts(
        found.matched, found.masks, found.instances, curve.thresholds,
        curve.recall * curve.instances, (len(scores) - below).astype(np.float64),
    )  # fmt: skip


def compared(counts: Sequence[Counts]) -> tuple[float, float, float]:
    """Precision and recall of the choice, and the threshold's best precision at that recall."""
    matched = sum(c.matched for c in counts)
    precision = matched / max(1, sum(c.masks for c in counts))
    instances = sum(c.instances for c in counts)
    scores = np.unique(np.concatenate([c.thresholds for c in counts]))[::-1]
    right, all_masks = np.zeros(len(scores)), np.zeros(len(scores))
    for c in counts:
        # Number of this sequence's thresholds that are at least the score.
        kept = np.searchsorted(-c.thresholds, -scores, side="right")
        right += np.append(0, c.matched_from)[kept]
        all_masks += np.append(0, c.masks_from)[kept]
    reached = right >= matched - 1e-9
    threshold = float((right[reached] / np.maximum(all_masks[reached], 1)).max(initial=0.0))
    return precision, matched / max(1, instances), threshold


def row(counts: Sequence[Counts]) -> dict[str, float]:
    """The percentages of a row, with the interval of the difference over resampled sequences."""
    precision, recall, threshold = compared(counts)
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(RESAMPLES):
        drawn = [counts[i] for i in rng.integers(len(counts), size=len(counts))]
        chosen, _, at_recall = compared(drawn)
        differences.append(100 * (chosen - at_recall))
    low, high = np.percentile(differences, [2.5, 97.5])
    return {
        "precision": 100 * precision,
        "recall": 100 * recall,
        "threshold_precision": 100 * threshold,
        "difference": 100 * (precision - threshold),
        "low": float(low),
        "high": float(high),
        "masks": sum(c.masks for c in counts),
    }


def confidence_rows(
    recordings: Sequence[ablation.Recording],
    selections: Sequence[Sequence[Selection]],
    tracks: TrackConfig,
) -> list[dict[str, Any]]:
    """How far the confidences of the selected masks hold, by track and alone, and the scores.

    AP is that of the selected masks in the order of each.
    """
    frames = [[f for selection in each for f in selection.frames] for each in selections]
    correct = LabelledMasks.joined(
        [label_masks(f, recording.masks) for f, recording in zip(frames, recordings, strict=True)]
    ).correct
    if not len(correct):
        return []
    every = list(itertools.chain.from_iterable(frames))
    linked = (with_track_confidence(s, tracks.linker()) for each in selections for s in each)
    probabilities = {
        "confidence": [f.confidences for selection in linked for f in selection.frames],
        "confidence of single masks": [f.confidences for f in every],
        "network score": [f.scores for f in every],
    }
    truth = joined_labels(recordings, frames)
    rows = []
    for name, of_frames in probabilities.items():
        values = np.concatenate(of_frames)
        quality = calibration_quality(values.astype(np.float64), correct)
        results = [
            CocoResult(image_id=image.id, segmentation=rle, score=float(value))
            for image, frame, of_frame in zip(truth.images, every, of_frames, strict=True)
            for rle, value in zip(frame.rles, of_frame, strict=True)
        ]
        rows.append(
            {
                "probability": name,
                "mean": float(values.mean()),
                "right": quality.correct,
                "ece": quality.ece,
                "brier": quality.brier,
                "auc": quality.auc,
                "masks": quality.masks,
                "AP": evaluate_instances(truth, results).AP,
            }
        )
    return rows


def joined_labels(
    recordings: Sequence[ablation.Recording], frames: Sequence[Sequence[FrameSelection]]
) -> CocoDataset:
    """The labels of the frames of all recordings, in order, as one dataset."""
    labelled = [
        (frame.frame.size, recording.masks[frame.frame.index])
        for recording, of_recording in zip(recordings, frames, strict=True)
        for frame in of_recording
    ]
    images = tuple(
        CocoImage(number, f"{number}", *size) for number, (size, _) in enumerate(labelled, start=1)
    )
    masks = dict(enumerate((tuple(rles) for _, rles in labelled), start=1))
    return CocoDataset(images, masks)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "benchmark-output/real-selection")
    parser.add_argument("sequences", type=Path, nargs="+", action=Distinct)
    parser.add_argument("--proposals", nargs="+", default=[""], help="files (default: the bundled)")
    parser.add_argument(
        "--backgrounds", nargs="+", default=["bundled"], help="values of background.weights"
    )
    parser.add_argument("--frames", type=positive, default=12, help="first frames of a sequence")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    confidences: list[dict[str, Any]] = []
    for proposals, background in itertools.product(args.proposals, args.backgrounds):
        named = [f"background.weights={background}"]
        named += [f"proposal.weights={proposals}"] if proposals not in ("", BUNDLED) else []
        config = config_of(args, *named)
        recordings = [
            read(folder, args.frames, config, args.out / "cache") for folder in args.sequences
        ]
        flow = make_flow(config.flow, config.device)
        networks = {
            "proposals": Path(proposals).stem or BUNDLED,
            "background": ", ".join(Path(each).stem for each in background.split(",")),
        }
        for name, variant in choices(config).items():
            selections = [ablation.select_all(each, flow, variant) for each in recordings]
            found = row([counts_of(*each) for each in zip(recordings, selections, strict=True)])
            rounded = {key: round(value, 1) for key, value in found.items()}
            rows.append({**networks, "choice": name, **rounded})
            print(line(rows[-1]), flush=True)
        confidences += [
            networks | each for each in confidence_rows(recordings, selections, config.tracks)
        ]
    facts = run_facts(config_of(args)) | {
        "sequences": [folder.resolve().name for folder in args.sequences],
        "frames": args.frames,
        "rows": rows,
        "confidences": confidences,
    }
    write_text(args.out / "real-selection.json", json.dumps(facts, indent=1) + "\n")
    table = "".join(f"{line(each)}\n" for each in rows)
    second = "".join(f"{confidence_line(each)}\n" for each in confidences)
    text = f"{HEADER}\n{table}\n{CONFIDENCE_HEADER}\n{second}"
    write_text(args.out / "real-selection.md", text)


def choices(config: Config) -> dict[str, ablation.Variant]:
    """The variants of the ablation as the paper has them, and all parts with the score prior."""
    without_scores = replace(config.selection, score_weight=0.0)
    return {
        **ablation.variants(without_scores),
        "+ scores": ablation.complete(config.selection),
    }


HEADER = (
    "| proposals | background | choice | precision | recall | threshold there | difference |\n"
    "|---|---|---|---:|---:|---:|---:|"
)


def line(found: Mapping[str, Any]) -> str:
    """A row of the table."""
    return (
        f"| {found['proposals']} | {found['background']} | {found['choice']} | "
        f"{found['precision']} | {found['recall']} | {found['threshold_precision']} | "
        f"{found['difference']:+} ({found['low']:+} to {found['high']:+}) |"
    )


CONFIDENCE_HEADER = (
    "| proposals | background | probability | mean | share right | expected calibration error | "
    "Brier score | area under ROC | masks | AP |\n|---|---|---|---:|---:|---:|---:|---:|---:|---:|"
)


def confidence_line(found: Mapping[str, Any]) -> str:
    """A row of the table of confidences."""
    values = " | ".join(f"{found[key]:.3f}" for key in ("mean", "right", "ece", "brier", "auc"))
    return (
        f"| {found['proposals']} | {found['background']} | {found['probability']} | {values} | "
        f"{found['masks']} | {found['AP']:.1f} |"
    )


if __name__ == "__main__":
    sys.exit(start(run, parse_arguments()))
