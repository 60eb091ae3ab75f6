"""What each term of the objective is worth (the paper's Table 4), and how far confidences hold.

    gbopt world --out world-2 --seed 2 --splits unseen-train --clips 10 --frames-per-clip 10
    python -m experiments.ablation --calibrate world-1/unseen-train world-2/unseen-train ...

Each folder is a recording of unseen objects with its ground truth. The variants of the objective:
L_I alone, overlaps allowed; with the non-overlap constraint; with L_F; with L_p; with refined
outlines; with motion as evidence beside the background network. The table has precision, recall and
mean IoU of the selected masks at IoU 0.5, and their AP: mean and standard deviation over the
recordings, for the profile of --config and for the recommended setting.

A calibration is fitted on the recording of --calibrate, as `gbopt calibrate` does, and judged on
the others: calibration error and a reliability diagram. Last, why L_F does what it does: the flow
residual on right and wrong masks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from experiments.command_line import (
    Distinct,
    check_apart,
    config_of,
    make_parser,
    run_facts,
    start,
)
from gbopt_ros import masks as mask_ops
from gbopt_ros.config import Config, OutlineConfig, SelectionConfig, load_config
from gbopt_ros.config.load import bundled_profile
from gbopt_ros.evaluation.calibration import (
    CalibrationQuality,
    LabelledMasks,
    calibration_quality,
    fit_calibration,
    label_masks,
    roc_auc,
)
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
from gbopt_ros.selection.confidence import confidence
from gbopt_ros.selection.objective import flow_residual
from gbopt_ros.selection.synthesis import background_photograph, composite
from gbopt_ros.structures import Clip, Cues, FlowNetwork, Proposals, Rle, Selection

matplotlib.use("Agg")
from matplotlib import pyplot


@dataclass(frozen=True)
class Recording:
    """A recording, what the networks say of it, and its truth by frame index.

    Attributes:
        moved: backgrounds of every clip, with the evidence of motion.
    """

    clips: list[tuple[Clip, Cues]]
    moved: list[list[NDArray[np.float32]]]
    truth: CocoDataset
    masks: Mapping[int, Sequence[Rle]]
    image_ids: dict[int, int]


@dataclass(frozen=True)
class Variant:
    """How masks are selected: by default as the paper does."""

    selection: SelectionConfig
    outline: str = "network"  # method that draws outlines, `outline.method`
    motion: bool = False


def read(
    bag: Path, labels: Path, config: Config, clips: int | None = None
) -> tuple[Recording, FlowNetwork]:
    """The first clips of a recording, or all of them, and the flow network."""
    pipeline = Pipeline(config)
    truth = load_coco(labels)
    perceived = [
        (clip, pipeline.perceive(clip))
        for clip in itertools.islice(pipeline.clips(open_source(bag)), clips)
    ]
    if clips is not None:
        indices = {frame.index for clip, _ in perceived for frame in clip.frames}
        images = tuple(im for im in truth.images if im.extra["frame_index"] in indices)
        truth = replace(
            truth, images=images, rles_by_image={im.id: truth.rles_by_image[im.id] for im in images}
        )
    masks = {im.extra["frame_index"]: truth.rles_by_image[im.id] for im in truth.images}
    ids = {im.extra["frame_index"]: im.id for im in truth.images}
    flow = high_detail_flow(pipeline.flow_network)
    motion = replace(config.motion, weight=config.motion.weight or 1.0)
    moved = [clip_with_motion(clip.frames, cues.backgrounds, flow, motion)
             for clip, cues in perceived]  # fmt: skip
    return Recording(perceived, moved, truth, masks, ids), pipeline.flow_network


def select_all(recording: Recording, network: FlowNetwork, variant: Variant) -> list[Selection]:
    """The masks of a variant; where they may overlap, as proposed, not cut at each other."""
    selections = []
    for (clip, cues), moved in zip(recording.clips, recording.moved, strict=True):
        backgrounds = moved if variant.motion else cues.backgrounds
        selection = select_clip(
            clip, cues.proposals, backgrounds, list(cues.flows), network, variant.selection
        )
        if variant.selection.overlap_tolerance == 1.0:  # no constraint
            selection = as_proposed(selection, cues.proposals)
        selections.append(with_outlines(selection, OutlineConfig(method=variant.outline)))
    return selections


def as_proposed(selection: Selection, proposals: Sequence[Proposals]) -> Selection:
    """The selection with whole masks, which share pixels; a selector gives each pixel to one."""
    frames = [
        replace(frame, rles=tuple(candidates.rles[i] for i in frame.indices))
        for frame, candidates in zip(selection.frames, proposals, strict=True)
    ]
    return replace(selection, frames=tuple(frames))


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


def variants(config: SelectionConfig) -> dict[str, Variant]:
    """The variants of the table, each with one part more than the one before."""
    alone = replace(config, lambda_flow=0.0, lambda_regularization=0.0)
    return {
        "L_I": Variant(replace(alone, overlap_tolerance=1.0)),
        "+ constraint": Variant(alone),
        "+ L_F": Variant(replace(config, lambda_regularization=0.0)),
        "+ L_p": Variant(config),
        "+ outlines": Variant(config, "guided"),
        "+ motion": complete(config),
    }


def complete(config: SelectionConfig) -> Variant:
    """The variant with all parts; confidences are judged on its masks."""
    return Variant(config, "guided", motion=True)


def table(
    recordings: Sequence[Recording],
    network: FlowNetwork,
    config: SelectionConfig,
    names: Sequence[str],
) -> dict[str, Any]:
    """Mean and standard deviation of every measure, by variant."""
    found = {}
    for name in names:
        variant = variants(config)[name]
        each = [quality(r, select_all(r, network, variant)) for r in recordings]
        found[name] = {
            key: [
                round(statistics.mean(q[key] for q in each), 1),
                round(statistics.stdev([q[key] for q in each]) if len(each) > 1 else 0.0, 1),
            ]
            for key in each[0]
        }
        print(f"{name:14s}", json.dumps(found[name]), flush=True)
    return found


def judged(
    validation: Recording,
    recordings: Sequence[Recording],
    network: FlowNetwork,
    config: SelectionConfig,
) -> tuple[dict[str, Any], dict[str, CalibrationQuality]]:
    """A calibration fitted on one recording and judged on others, for JSON and to draw."""

    def labelled(recording: Recording) -> LabelledMasks:
        selections = select_all(recording, network, complete(config))
        return label_masks((f for each in selections for f in each.frames), recording.masks)

    fitted = fit_calibration(labelled(validation))
    masks = LabelledMasks.joined([labelled(recording) for recording in recordings])
    probabilities = confidence(masks.margins, masks.scores, fitted)
    qualities = {
        "fitted": calibration_quality(probabilities, masks.correct),
        "network score": calibration_quality(masks.scores, masks.correct),
    }
    facts = {
        "coefficients": list(vars(fitted).values()),
        "auc_margin_alone": round(roc_auc(masks.margins, masks.correct), 3),
        **{name: each._asdict() for name, each in qualities.items()},
    }
    return facts, qualities


def draw(qualities: dict[str, CalibrationQuality], path: Path) -> None:
    """The reliability diagram."""
    figure, axis = pyplot.subplots(figsize=(4.5, 4.5), layout="constrained")
    axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfect")
    for name, each in qualities.items():
        said, was, counts = zip(*each.diagram, strict=True)
        axis.plot(said, was, marker="o", label=f"{name}, ECE {each.ece:.3f}")
        if name == "fitted":
            for x, y, n in zip(said, was, counts, strict=True):
                axis.annotate(str(n), (x, y), xytext=(4, -10), textcoords="offset points", size=7)
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share of right masks")
    axis.legend(loc="upper left", fontsize=8)
    axis.grid(alpha=0.3)
    figure.savefig(path)
    pyplot.close(figure)


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
                    partner = mask_ops.decode(later.rles[j])
                    first = composite(clip.frames[t].image, mask, photograph)
                    second = composite(clip.frames[t + 1].image, partner, photograph)
                    synthetic = network.flow([first], [second])[0]
                    residuals.append(flow_residual(cues.flows[t][mask], synthetic[mask]).mean())
                    moving.append(np.abs(cues.flows[t][mask]).sum(axis=1).mean())
                    right.append(overlaps[i] >= 0.5)
    values, flags = np.array(residuals), np.array(right)
    return {
        "candidates": len(values),
        "flow_on_masks_px": round(float(np.median(moving)), 3),
        "residual_right_px": round(float(np.median(values[flags])), 3),
        "residual_wrong_px": round(float(np.median(values[~flags])), 3),
        "auc_low_residual_means_right": round(roc_auc(-values, flags), 3),
    }


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    profile = bundled_profile("paper")
    parser = make_parser(__doc__, "benchmark-output/ablation", config=profile)
    names = list(variants(SelectionConfig()))
    parser.add_argument("recordings", type=Path, nargs="*", action=Distinct)
    parser.add_argument("--calibrate", type=Path, help="recording that is not among the others")
    parser.add_argument("--variants", nargs="+", default=names, choices=names)
    parser.add_argument(
        "--quick", action="store_true", help="two clips of the demo recording, fitted in sample"
    )
    args = parser.parse_args(arguments)
    if not args.quick and not (args.recordings and args.calibrate):
        parser.error("expected recordings and --calibrate, or --quick")
    if args.calibrate:
        check_apart(parser, [args.calibrate], args.recordings)
    return args


def run(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    recommended = load_config(None, args.set)
    if args.quick:
        bag = find_resource("demo/recording")
        validation, network = read(bag, bag.with_suffix(".json"), recommended, clips=2)
        recordings = [validation]
    else:
        (validation, network), *others = (
            read(folder / "recording", folder / "annotations.json", recommended)
            for folder in (args.calibrate, *args.recordings)
        )
        recordings = [recording for recording, _ in others]
    results: dict[str, Any] = {}
    profiles = {args.config.stem: config_of(args), "recommended": recommended}
    for name, config in profiles.items():
        print(name)
        found = table(recordings, network, config.selection, args.variants)
        facts, qualities = judged(validation, recordings, network, config.selection)
        draw(qualities, args.out / f"reliability-{name}.svg")
        print(json.dumps(facts), flush=True)
        settings = config.to_dict()["selection"]
        results[name] = {"selection": settings, "table": found, "calibration": facts}
    results["why"] = why(recordings, network, recommended.selection.seed)
    print(json.dumps(results["why"]))
    results = run_facts(recommended) | results
    (args.out / "ablation.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(start(run, parse_arguments()))
