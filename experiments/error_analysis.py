"""What ours learns wrong and what it misses, by environment and by object.

    python -m experiments.error_analysis --out learning --environments 101 102 103 104

Masks are selected, and their confidences recalibrated, as in a first round of
`experiments.comparison --environment`; nothing is trained. A mask fits an object from an IoU of 0.5
on, one to one (Hungarian method). The tables, in percent: how well confidences rank right masks
above wrong ones before and after recalibration (area under the ROC curve), with precision and
recall; the share of right masks for each confidence; what is wrong with the masks that are learnt,
and how far each view of an object came; and the same by object, those first of which most views are
proposed and not learnt. Writes OUT/error-analysis.json and .md; the cache is the comparison's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from experiments.baselines import closest_pairs
from experiments.cache import Cache, cache_of
from experiments.command_line import config_of, make_parser, run_facts, start
from experiments.recordings import FrameKey
from experiments.tabletop import Recording, Tabletop, environment
from experiments.training_masks import MaskMaker, filter_by_confidence
from gbopt_ros.config import Config
from gbopt_ros.evaluation.calibration import roc_auc
from gbopt_ros.evaluation.mask_quality import mask_precision_recall
from gbopt_ros.io.files import write_text
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.masks import iou_matrix
from gbopt_ros.structures import GboptError, Rle

FATES = {  # of a view of an object, by the best of the masks that fit it
    "learnt": "learnt",
    "unsure": "left out as unsure",
    "unselected": "proposed, not selected",
    "unfit": "nothing fits",
}
ERRORS = {  # of a mask that is learnt
    "right": "right",
    "near": "IoU from 0.3, or a second one",
    "part": "part of an object",
    "none": "mostly on none",
}
_NEAR_IOU = 0.3
_PART_SHARE = 0.5  # of a mask's area on one object


class View(NamedTuple):
    """An object in a frame: how far it came, one of `FATES`, and whether a proposal fits it."""

    fate: str
    proposed: bool


def views(
    truth: Sequence[Rle], learnt: Sequence[Rle], selected: Sequence[Rle], proposed: Sequence[Rle]
) -> list[View]:
    """The objects of a frame. Outlines of selected masks are other ones than those of proposals."""
    found = [{j for _, j in closest_pairs(masks, truth)} for masks in (learnt, selected, proposed)]
    return [
        View(
            next((fate for fate, those in zip(FATES, found, strict=False) if j in those), "unfit"),
            j in found[-1],
        )
        for j in range(len(truth))
    ]


def errors(masks: Sequence[Rle], truth: Sequence[Rle]) -> list[str]:
    """What each mask of a frame is, one of `ERRORS`."""
    right = {i for i, _ in closest_pairs(masks, truth)}
    nearest = iou_matrix(masks, truth).max(axis=1, initial=0.0)
    within = np.zeros((len(masks), 1))
    if masks and truth:  # as crowds are matched: intersection over the mask's own area
        within = np.asarray(coco_mask.iou(list(masks), list(truth), [1] * len(truth)))
    kinds = []
    for i, share in enumerate(within.max(axis=1, initial=0.0)):
        if i in right:
            kinds.append("right")
        elif nearest[i] >= _NEAR_IOU:
            kinds.append("near")
        else:
            kinds.append("part" if share >= _PART_SHARE else "none")
    return kinds


def examined(tabletop: Tabletop, config: Config, cache: Cache) -> dict[str, Any]:
    """All numbers of an environment, shares in percent.

    Raises:
        GboptError: the objects of the recording have no names.
    """
    recording = tabletop.train
    if not recording.names:
        raise GboptError(
            f"{recording.labels}: objects have no names, so an earlier version wrote it; remove "
            f"{recording.labels.parent.parent}, and it is rendered again"
        )
    makers = [
        MaskMaker([recording], None, tabletop.rehearsal, each, cache)
        for each in (config, without_recalibration(config))
    ]
    frames, before = (maker.selected("ours") for maker in makers)
    proposals = makers[0].candidates()
    by_object: dict[str, list[View]] = {}
    kinds: list[str] = []
    for frame, learnt in zip(frames, filter_by_confidence(frames, config), strict=True):
        truth = recording.truth[frame.frame_index]
        kinds += errors(learnt.rles, truth)
        seen = views(truth, learnt.rles, frame.rles, proposals[_key(frame)].rles)
        for name, view in zip(recording.names[frame.frame_index], seen, strict=True):
            by_object.setdefault(name, []).append(view)
    most_missed_first = sorted(by_object.items(), key=lambda item: -missed(item[1]))
    return {
        "confidences": {
            "selected": _quality(recording, before),
            "before": _quality(recording, filter_by_confidence(before, config))
            | _ranking(recording, before),
            "recalibrated": _quality(recording, filter_by_confidence(frames, config))
            | _ranking(recording, frames),
        },
        "errors": _shares(kinds, ERRORS),
        "objects": _reached([view for seen in by_object.values() for view in seen]),
        "by_object": {name: _reached(seen) for name, seen in most_missed_first},
    }


def _key(frame: SelectedFrame) -> FrameKey:
    return frame.recording, frame.frame_index


def _quality(recording: Recording, frames: Sequence[SelectedFrame]) -> dict[str, float]:
    """Precision and recall of the masks of frames, percent."""
    truth = {_key(frame): recording.truth[frame.frame_index] for frame in frames}
    found = mask_precision_recall(truth, {_key(frame): frame.rles for frame in frames})
    return {"precision": 100 * found.precision, "recall": 100 * found.recall}


def _ranking(recording: Recording, frames: Sequence[SelectedFrame]) -> dict[str, Any]:
    """How well confidences rank the masks of frames, and the share of right ones in each tenth."""
    right = [
        kind == "right"
        for frame in frames
        for kind in errors(frame.rles, recording.truth[frame.frame_index])
    ]
    confidences = [value for frame in frames for value in frame.confidences]
    area = roc_auc(np.array(confidences), np.array(right, bool))
    return {"area": None if np.isnan(area) else area, "tenths": tenths(confidences, right)}


def tenths(confidences: Sequence[float], right: Sequence[bool]) -> list[dict[str, float]]:
    """Number of masks and percentage of right ones for confidences from 0, 0.1, ... 0.9 on."""
    places = np.minimum((np.asarray(confidences) * 10).astype(int), 9)
    found = [np.asarray(right, bool)[places == tenth] for tenth in range(10)]
    return [
        {"masks": len(those), "right": 100 * float(those.mean()) if len(those) else 0.0}
        for those in found
    ]


def _reached(seen: Sequence[View]) -> dict[str, float]:
    """How many views there are and are missed, and percentages of them."""
    return {
        "views": len(seen),
        "missed": missed(seen),
        "proposed": 100 * sum(view.proposed for view in seen) / len(seen),
        **_shares([view.fate for view in seen], FATES),
    }


def _shares(values: Sequence[str], kinds: Mapping[str, str]) -> dict[str, float]:
    return {kind: 100 * values.count(kind) / max(1, len(values)) for kind in kinds}


def missed(seen: Sequence[View]) -> int:
    """Views that are proposed and not learnt."""
    return sum(view.proposed and view.fate != "learnt" for view in seen)


def markdown(environments: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables; objects are in the order of `examined`."""
    confidences = {name: found["confidences"] for name, found in environments.items()}
    lines = _table(
        ["environment", "all selected: precision / recall", "confidence: area",
         "precision / recall", "recalibrated: area", "precision / recall"],
        [
            [name, _pair(of["selected"]), _decimals(of["before"]["area"]), _pair(of["before"]),
             _decimals(of["recalibrated"]["area"]), _pair(of["recalibrated"])]
            for name, of in confidences.items()
        ],
    )  # fmt: skip
    lines += _table(
        ["environment: right masks (of how many), by confidence from",
         *(f"{tenth / 10}" for tenth in range(10))],
        [
            [name, *(f"{tenth['right']:.0f} % ({tenth['masks']})" if tenth["masks"] else ""
                     for tenth in of["recalibrated"]["tenths"])]
            for name, of in confidences.items()
        ],
    )  # fmt: skip
    lines += _table(
        ["environment", *(f"learnt masks: {label}" for label in ERRORS.values()),
         *(f"objects: {label}" for label in FATES.values()), "no proposal fits"],
        [
            [name, *(f"{found['errors'][kind]:.1f}" for kind in ERRORS),
             *(f"{found['objects'][fate]:.1f}" for fate in FATES),
             f"{100 - found['objects']['proposed']:.1f}"]
            for name, found in environments.items()
        ],
    )  # fmt: skip
    lines += _table(
        ["environment", "object", "views", "proposed", "selected", "learnt"],
        [
            [name, thing, str(of["views"]), f"{of['proposed']:.0f}",
             f"{of['learnt'] + of['unsure']:.0f}", f"{of['learnt']:.0f}"]
            for name, found in environments.items()
            for thing, of in found["by_object"].items()
        ],
    )  # fmt: skip
    return "\n".join(lines)


def _decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _pair(quality: Mapping[str, float]) -> str:
    return f"{quality['precision']:.1f} / {quality['recall']:.1f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [*("| " + " | ".join(cells) + " |" for cells in lines), ""]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "benchmark-output/learning")
    parser.add_argument("--environments", type=int, nargs="+", default=[101, 102, 103, 104])
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    config, cache = config_of(args), cache_of(args.out)
    environments = {
        str(seed): examined(environment(args.out, seed, choose=False), config, cache)
        for seed in args.environments
    }
    result = run_facts(config) | {"environments": environments}
    write_text(args.out / "error-analysis.json", json.dumps(result, indent=2) + "\n")
    write_text(args.out / "error-analysis.md", markdown(environments))
    print(markdown(environments))


def without_recalibration(config: Config) -> Config:
    return replace(config, learning=replace(config.learning, cross_clip_confidence=False))


if __name__ == "__main__":
    sys.exit(start(run, parse_arguments()))
