"""What each term of the objective is worth (the paper's Table 4), and how far confidences hold.

    gbopt world --out world-2 --seed 2 --splits unseen-train --clips 10 --frames-per-clip 10
    python benchmarks/terms.py --out DIR --calibrate world-1/unseen-train world-2/unseen-train ...

Each folder is a recording of unseen objects with its ground truth. Rows: L_I alone, overlaps
allowed; with the non-overlap constraint; with L_F; with L_p; with outlines drawn anew by GrabCut;
with motion as evidence beside the background network.
Precision, recall and mean IoU of the selected masks at IoU 0.5, and their AP, mean and standard
deviation over the recordings. The confidence is fitted on the recording of `--calibrate` and judged
on the others: expected calibration error over 10 bins and a reliability diagram. Last, why L_F does
what it does: the flow residual on right and wrong masks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import torch
from matplotlib import pyplot
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import Config, OutlineConfig, SelectionConfig, load_config
from gbopt_ros.evaluation.coco_metrics import evaluate_instances
from gbopt_ros.evaluation.mask_quality import (
    mask_precision_recall,
    precision_at_recall,
    threshold_curve,
)
from gbopt_ros.io.datasets.coco import CocoDataset, load_coco
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources import open_source
from gbopt_ros.perception.flow import high_detail_flow
from gbopt_ros.perception.motion import clip_with_motion
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.selection import select_clip, with_outlines
from gbopt_ros.selection.confidence import confidence, confidence_features
from gbopt_ros.selection.objective import flow_residual
from gbopt_ros.selection.synthesis import background_photograph, composite
from gbopt_ros.structures import Clip, Cues, FlowNetwork, Rle, Selection

matplotlib.use("Agg")
BINS = 10


@dataclass(frozen=True)
class Recording:
    """A recording, what the networks say of it, and its truth by frame index.

    Attributes:
        moved: the backgrounds of every clip, with what motion says.
    """

    clips: list[tuple[Clip, Cues]]
    moved: list[list[NDArray[np.float32]]]
    truth: CocoDataset
    masks: dict[int, Sequence[Rle]]
    image_ids: dict[int, int]


@dataclass(frozen=True)
class Row:
    """How masks are selected: by default as the paper does."""

    selection: SelectionConfig
    outline: str = "network"  # how outlines are drawn, `outline.method`
    motion: bool = False


def read(
    bag: Path, labels: Path, config: Config, clips: int | None = None
) -> tuple[Recording, FlowNetwork]:
    pipeline = Pipeline(config)
    truth = load_coco(labels)
    seen = [
        (clip, pipeline.perceive(clip))
        for clip in itertools.islice(pipeline.clips(open_source(bag)), clips)
    ]
    if clips is not None:
        indices = {frame.index for clip, _ in seen for frame in clip.frames}
        images = tuple(im for im in truth.images if im.extra["frame_index"] in indices)
        truth = replace(
            truth, images=images, rles_by_image={im.id: truth.rles_by_image[im.id] for im in images}
        )
    masks = {im.extra["frame_index"]: truth.rles_by_image[im.id] for im in truth.images}
    ids = {im.extra["frame_index"]: im.id for im in truth.images}
    flow = high_detail_flow(pipeline.flow_network)
    motion = replace(config.motion, weight=config.motion.weight or 1.0)
    moved = [clip_with_motion(clip.frames, cues.backgrounds, flow, motion) for clip, cues in seen]
    return Recording(seen, moved, truth, masks, ids), pipeline.flow_network


def select_all(recording: Recording, network: FlowNetwork, row: Row) -> list[Selection]:
    selections = []
    for (clip, cues), moved in zip(recording.clips, recording.moved, strict=True):
        backgrounds = moved if row.motion else cues.backgrounds
        selection = select_clip(
            clip, cues.proposals, backgrounds, list(cues.flows), network, row.selection
        )
        selections.append(with_outlines(selection, OutlineConfig(method=row.outline)))
    return selections


def quality(recording: Recording, selections: Sequence[Selection]) -> dict[str, float]:
    """Precision, recall and AP, percent; and the precision of thresholded proposals there."""
    frames = [frame for selection in selections for frame in selection.frames]
    selected = {frame.frame.index: frame.rles for frame in frames}
    found = mask_precision_recall(recording.masks, selected)
    results = [
        {
            "image_id": recording.image_ids[frame.frame.index],
            "category_id": 1,
            "segmentation": rle,
            "score": float(score),
        }
        for frame in frames
        for rle, score in zip(frame.rles, frame.scores, strict=True)
    ]
    proposals = {
        frame.index: candidates
        for clip, cues in recording.clips
        for frame, candidates in zip(clip.frames, cues.proposals, strict=True)
    }
    curve = threshold_curve(recording.masks, proposals)
    return {
        "precision": 100 * found.precision,
        "recall": 100 * found.recall,
        "mean_iou": 100 * found.counts.mean_iou,
        "AP": evaluate_instances(recording.truth, results).AP,
        "threshold_precision_at_recall": 100 * precision_at_recall(curve, found.recall),
        "masks_a_frame": found.counts.masks / len(frames),
    }


def rows_of(config: SelectionConfig) -> dict[str, Row]:
    alone = replace(config, lambda_flow=0.0, lambda_regularization=0.0)
    return {
        "L_I": Row(replace(alone, overlap_tolerance=1.0)),
        "+ constraint": Row(alone),
        "+ L_F": Row(replace(config, lambda_regularization=0.0)),
        "+ L_p": Row(config),
        "+ GrabCut": Row(config, "grabcut"),
        "+ motion": complete(config),
    }


def complete(config: SelectionConfig) -> Row:
    """What confidences are of."""
    return Row(config, "grabcut", motion=True)


def table(
    recordings: Sequence[Recording],
    network: FlowNetwork,
    config: SelectionConfig,
    names: Sequence[str],
) -> dict[str, Any]:
    rows = {}
    for name, row in rows_of(config).items():
        if name not in names:
            continue
        each = [quality(r, select_all(r, network, row)) for r in recordings]
        rows[name] = {
            key: [
                round(statistics.mean(q[key] for q in each), 1),
                round(statistics.stdev([q[key] for q in each]) if len(each) > 1 else 0.0, 1),
            ]
            for key in each[0]
        }
        print(f"{name:14s}", json.dumps(rows[name]), flush=True)
    return rows


@dataclass(frozen=True)
class Labelled:
    """Selected masks: what is known of them, and whether they are right (IoU >= 0.5)."""

    margins: NDArray[np.float64]
    scores: NDArray[np.float32]
    right: NDArray[np.bool_]


def labelled(recording: Recording, selections: Sequence[Selection]) -> Labelled:
    margins, scores, right = [], [], []
    for frame in (frame for selection in selections for frame in selection.frames):
        overlaps = mask_ops.iou_matrix(frame.rles, list(recording.masks[frame.frame.index]))
        right.append(overlaps.max(axis=1, initial=0.0) >= 0.5)
        margins.append(frame.margins)
        scores.append(frame.scores)
    return Labelled(np.concatenate(margins), np.concatenate(scores), np.concatenate(right))


def fit(data: Labelled) -> tuple[float, float, float]:
    """Logistic regression: bias, weights of margin and score.

    A larger margin never makes a mask less probable: where it would, its weight is 0.
    """
    features = confidence_features(data.margins, data.scores)
    bias, margin, score = _logistic(features, data.right)
    if margin < 0:
        bias, score = _logistic(features[:, 1:], data.right)
        margin = 0.0
    return round(bias, 3), round(margin, 3), round(score, 3)


def _logistic(features: NDArray[np.float64], right: NDArray[np.bool_]) -> list[float]:
    """Bias and weights by Newton's method."""
    design = np.column_stack([np.ones(len(features)), features])
    weights = np.zeros(design.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-design @ weights))
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 1e-3 * np.eye(len(weights))
        weights += np.linalg.solve(hessian, design.T @ (right - p) - 1e-3 * weights)
    return [float(w) for w in weights]


def calibration(data: Labelled, probability: NDArray[np.floating]) -> dict[str, Any]:
    """Expected calibration error, Brier score, area under the ROC curve, and the diagram."""
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    diagram = [
        (float(probability[bins == b].mean()), float(data.right[bins == b].mean()), int(n))
        for b in range(BINS)
        if (n := (bins == b).sum())
    ]
    error = sum(n * abs(said - was) for said, was, n in diagram) / len(probability)
    return {
        "masks": len(probability),
        "right": round(float(data.right.mean()), 3),
        "ece": round(error, 4),
        "brier": round(float(((probability - data.right) ** 2).mean()), 4),
        "auc": round(_auc(probability, data.right), 3),
        "diagram": diagram,
    }


def _auc(values: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """The probability that a right mask has a higher value than a wrong one."""
    above = values[right][:, None] > values[~right][None, :]
    equal = values[right][:, None] == values[~right][None, :]
    return float((above + 0.5 * equal).mean())


def draw(rows: dict[str, Any], path: Path) -> None:
    figure, axis = pyplot.subplots(figsize=(4.5, 4.5), layout="constrained")
    axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfect")
    for name, row in rows.items():
        said, was, counts = zip(*row["diagram"], strict=True)
        axis.plot(said, was, marker="o", label=f"{name}, ECE {row['ece']:.3f}")
        if name == "fitted":
            for x, y, n in zip(said, was, counts, strict=True):
                axis.annotate(str(n), (x, y), xytext=(4, -10), textcoords="offset points", size=7)
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share of right masks")
    axis.legend(loc="upper left", fontsize=8)
    axis.grid(alpha=0.3)
    figure.savefig(path)


def why(recordings: Sequence[Recording], network: FlowNetwork, seed: int) -> dict[str, Any]:
    """The residual |F - F'| on every candidate pasted alone, for right and wrong candidates.

    A candidate is pasted with the candidate of the next frame that overlaps it most. If L_F is to
    tell objects from other masks, the residual of the wrong ones must be the larger.
    """
    residuals, moving, right = [], [], []
    for recording in recordings:
        for clip, cues in recording.clips:
            photograph = background_photograph(clip.size, seed)
            for t in range(0, len(clip) - 1, 4):
                now, later = cues.proposals[t], cues.proposals[t + 1]
                if not len(now) or not len(later):
                    continue
                partners = mask_ops.iou_matrix(now.rles, later.rles).argmax(axis=1)
                truth = list(recording.masks[clip.frames[t].index])
                overlaps = mask_ops.iou_matrix(now.rles, truth).max(axis=1, initial=0.0)
                for i, j in enumerate(partners):
                    mask = mask_ops.decode(now.rles[i])
                    if not mask.any():
                        continue
                    pair = [
                        composite(clip.frames[t].image, mask, photograph),
                        composite(
                            clip.frames[t + 1].image, mask_ops.decode(later.rles[j]), photograph
                        ),
                    ]
                    synthetic = network.flow(pair[:1], pair[1:])[0]
                    residuals.append(flow_residual(cues.flows[t][mask], synthetic[mask]).mean())
                    moving.append(np.abs(cues.flows[t][mask]).sum(axis=1).mean())
                    right.append(overlaps[i] >= 0.5)
    values, flags = np.array(residuals), np.array(right)
    return {
        "candidates": len(values),
        "flow_on_masks_px": round(float(np.median(moving)), 3),
        "residual_right_px": round(float(np.median(values[flags])), 3),
        "residual_wrong_px": round(float(np.median(values[~flags])), 3),
        "auc_low_residual_means_right": round(_auc(-values, flags), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", type=Path, nargs="*")
    parser.add_argument("--calibrate", type=Path, help="not among the recordings")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    parser.add_argument(
        "--quick", action="store_true", help="two clips of the demo recording, fitted in sample"
    )
    parser.add_argument("--config", type=Path, help="default: the paper's weights")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    known_rows = list(rows_of(SelectionConfig()))
    parser.add_argument("--rows", nargs="+", default=known_rows, choices=known_rows)
    arguments = parser.parse_args()
    if not arguments.quick and not (arguments.recordings and arguments.calibrate):
        parser.error("expected recordings and --calibrate, or --quick")
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    config = load_config(arguments.config, arguments.set)
    demo = load_config(None, arguments.set)
    if arguments.quick:
        root = find_resource("demo/recording")
        validation, network = read(root, root.with_suffix(".json"), demo, clips=2)
        recordings = [validation]
    else:
        folders = [arguments.calibrate, *arguments.recordings]
        (validation, network), *others = (
            read(folder / "recording", folder / "annotations.json", demo) for folder in folders
        )
        recordings = [recording for recording, _ in others]
    results: dict[str, Any] = {}
    for name, settings in (("paper", config.selection), ("demo profile", demo.selection)):
        print(name)
        results[name] = {"table": table(recordings, network, settings, arguments.rows)}
        known = labelled(validation, select_all(validation, network, complete(settings)))
        bias, margin, score = fit(known)
        fitted = replace(
            settings, confidence_bias=bias, confidence_margin=margin, confidence_score=score
        )
        unseen = [labelled(r, select_all(r, network, complete(settings))) for r in recordings]
        test = Labelled(
            *(
                np.concatenate([getattr(u, f) for u in unseen])
                for f in ("margins", "scores", "right")
            )
        )
        rows = {
            "fitted": calibration(test, confidence(test.margins, test.scores, fitted)),
            "network score": calibration(test, test.scores),
        }
        results[name]["calibration"] = {"coefficients": [bias, margin, score], **rows}
        results[name]["calibration"]["auc_margin_alone"] = round(_auc(test.margins, test.right), 3)
        draw(rows, arguments.out / f"reliability-{name.split()[0]}.svg")
        print(json.dumps(results[name]["calibration"]), flush=True)
    results["why"] = why(recordings, network, demo.selection.seed)
    print(json.dumps(results["why"]))
    (arguments.out / "terms.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
