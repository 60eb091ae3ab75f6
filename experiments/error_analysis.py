"""What ours learns wrong and what it misses, environment by environment and thing by thing.

    python benchmarks/misses.py --out learning --environments 101 102 103 104

Masks are selected, and revised by what comes again, as in a first round of `experiment.py
--environment`; nothing is trained. A mask fits an object from an IoU of 0.5 on, one to one (Hungarian
method). The tables: how well confidences rank right masks above wrong ones before and after what
comes again (area under the ROC curve), with precision and recall, percent, as in `experiment.py`;
how many of the masks of each confidence are right; what is wrong with those that are learnt, and
how far each view of an object came, percent; and the same thing by thing, first what is missed
most though it is proposed. Writes OUT/misses.json and .md anew; frames, masks and confidences are
kept as those of `experiment.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from scipy.stats import mannwhitneyu

from experiments.baselines import closest_pairs
from experiments.cache import Cache
from experiments.methods import FrameKey, MaskMaker, sure
from experiments.tabletop import Recording, Tabletop, cores, environment
from experiments.training import exit_status, folder_of, machine
from gbopt_ros.config import Config, load_config
from gbopt_ros.evaluation.mask_quality import mask_precision_recall
from gbopt_ros.io.files import write_text
from gbopt_ros.io.selection_format import SelectedFrame, versions
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


def area_under_roc(confidences: Sequence[float], right: Sequence[bool]) -> float | None:
    """How often a right mask is surer than a wrong one, a tie being half; None without both."""
    values, are_right = np.asarray(confidences), np.asarray(right, bool)
    if are_right.all() or not are_right.any():
        return None
    wins = mannwhitneyu(values[are_right], values[~are_right]).statistic
    return float(wins / (np.count_nonzero(are_right) * np.count_nonzero(~are_right)))


def examined(tabletop: Tabletop, config: Config, stored: Cache) -> dict[str, Any]:
    """All numbers of an environment, shares in percent."""
    recording = tabletop.train
    if not recording.names:
        raise GboptError(
            f"{recording.labels}: objects have no names, as an earlier version wrote it; remove "
            f"{recording.labels.parent.parent}, and it is rendered again"
        )
    makers = [
        MaskMaker([recording], None, tabletop.rehearsal, each, stored)
        for each in (config, without_recurrence(config))
    ]
    frames, unrevised = (maker.selected("ours") for maker in makers)
    proposals = makers[0].candidates()
    by_thing: dict[str, list[View]] = {}
    kinds: list[str] = []
    for frame, learnt in zip(frames, sure(frames, config), strict=True):
        truth = recording.truth[frame.frame_index]
        kinds += errors(learnt.rles, truth)
        seen = views(truth, learnt.rles, frame.rles, proposals[_key(frame)].rles)
        for name, view in zip(recording.names[frame.frame_index], seen, strict=True):
            by_thing.setdefault(name, []).append(view)
    most_missed_first = sorted(by_thing.items(), key=lambda item: -missed(item[1]))
    return {
        "confidences": {
            "selected": _quality(recording, unrevised),
            "before": _quality(recording, sure(unrevised, config)) | _ranking(recording, unrevised),
            "revised": _quality(recording, sure(frames, config)) | _ranking(recording, frames),
        },
        "errors": _shares(kinds, ERRORS),
        "objects": _reached([view for seen in by_thing.values() for view in seen]),
        "things": {name: _reached(seen) for name, seen in most_missed_first},
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
    return {"area": area_under_roc(confidences, right), "tenths": tenths(confidences, right)}


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
    """The tables, those of things from the one on that is missed most."""
    lines = _table(
        ["environment", "all selected: precision / recall", "confidence: area", "precision / recall",
         "with what comes again: area", "precision / recall"],
        [
            [name, _pair(of["selected"]), _decimals(of["before"]["area"]), _pair(of["before"]),
             _decimals(of["revised"]["area"]), _pair(of["revised"])]
            for name, of in ((name, found["confidences"]) for name, found in environments.items())
        ],
    )  # fmt: skip
    lines += _table(
        ["environment: right masks (of how many), by confidence from",
         *(f"{tenth / 10}" for tenth in range(10))],
        [
            [name,
             *(f"{of['right']:.0f} % ({of['masks']})" if of["masks"] else "" for of in told)]
            for name, told in (
                (name, found["confidences"]["revised"]["tenths"]) for name, found in environments.items()
            )
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
        ["environment", "thing", "views", "proposed", "selected", "learnt"],
        [
            [name, thing, str(of["views"]), f"{of['proposed']:.0f}",
             f"{of['learnt'] + of['unsure']:.0f}", f"{of['learnt']:.0f}"]
            for name, found in environments.items()
            for thing, of in found["things"].items()
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/learning"))
    parser.add_argument("--environments", type=int, nargs="+", default=[101, 102, 103, 104])
    parser.add_argument("--config", type=Path, help="YAML profile (default: none)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    config, stored = load_config(args.config, args.set), Cache(folder_of(args.out))
    environments: dict[str, dict[str, Any]] = {}
    for seed in args.environments:
        tabletop = environment(args.out, seed, cores(), choose=False)
        environments[str(seed)] = examined(tabletop, config, stored)
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(config),
        "environments": environments,
        "config": config.to_dict(),
        "versions": versions(),
    }
    write_text(args.out / "misses.json", json.dumps(result, indent=2) + "\n")
    write_text(args.out / "misses.md", markdown(environments))
    print(markdown(environments))


def without_recurrence(config: Config) -> Config:
    return replace(config, learning=replace(config.learning, recurrence=False))


if __name__ == "__main__":
    sys.exit(exit_status(run, parse_arguments()))
