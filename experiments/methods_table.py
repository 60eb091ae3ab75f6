"""The masks of every method on labelled video, without learning from them.

    python -m experiments.methods_table ../shared/real/ycbv-* --out methods
    python -m experiments.methods_table --environment 101 --methods threshold unovost ours gt

A SEQUENCE is a folder of frames with a PNG of labels beside each; --environment adds a recording of
Tabletop. Columns, percent:

- AP, AP50: class-agnostic COCO mask AP over the frames, of all masks with their scores.
- union J: IoU of the union of a frame's masks with the union of its objects, mean over the frames.
  Masks count from the score that has the best F1 on other scenes of Tabletop, as in training sets.
- J, F: those of DAVIS unsupervised, of the same masks, linked to tracks as `gbopt davis` does. Each
  object of the first frame has its track (Hungarian method). Sequences alone tell which objects of
  two frames are one, so an environment counts nothing here.
- seconds: per frame, without those of proposals; blank for what only chooses among them.

Labels of real recordings are incomplete, and what they leave out counts as wrong. Results are
cached in OUT/cache by their inputs: a run that is started again goes on where it stopped. Writes
OUT/methods.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.cache import cache_of
from experiments.command_line import (
    Distinct,
    add_methods_argument,
    config_of,
    make_parser,
    run_facts,
    start,
)
from experiments.real_video import Beginning
from experiments.recordings import FrameKey, Masks, Recording
from experiments.tabletop import demo_validation, environment
from experiments.training_masks import CHOOSING, OTHERS, MaskMaker, label_of
from gbopt_ros import masks as mask_ops
from gbopt_ros.config import Config, TrackConfig
from gbopt_ros.evaluation.coco_metrics import evaluate_instances
from gbopt_ros.evaluation.davis_metrics import ObjectScore, score_sequence, summarise
from gbopt_ros.evaluation.results import results_of
from gbopt_ros.evaluation.tracks import ScoredMasks, label_array, link_tracks
from gbopt_ros.io.datasets.coco import CocoDataset, CocoImage, load_coco_dir
from gbopt_ros.io.datasets.davis import VOID, load_sequence
from gbopt_ros.io.files import write_text
from gbopt_ros.io.resources import find_resource
from gbopt_ros.pipeline import FRAME_PERIOD_NS
from gbopt_ros.structures import GboptError, Proposals, Rle

ROWS = ("threshold", "distillation", *OTHERS, "ours", "gt")
COLUMNS = ("AP", "AP50", "union J", "J", "F", "seconds")


@dataclass(frozen=True)
class Row:
    """What a table says of a method; percent, None where it does not apply."""

    AP: float
    AP50: float
    union_J: float
    J: float | None
    F: float | None
    seconds: float | None


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "benchmark-output/methods")
    parser.add_argument("sequences", type=Path, nargs="*", metavar="SEQUENCE", action=Distinct)
    parser.add_argument("--environment", type=int, metavar="SEED", help="a recording of Tabletop")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of each sequence, from its beginning"
    )
    add_methods_argument(parser, ROWS, ROWS)
    args = parser.parse_args(arguments)
    if not args.sequences and args.environment is None:
        parser.error("give a SEQUENCE or --environment")
    if not 0 < args.share <= 1:
        parser.error(f"--share: expected a number above 0 and up to 1, got {args.share}")
    return args


def run(args: argparse.Namespace) -> None:
    """Judge method after method, and write the table after each."""
    config = config_of(args)
    recordings: list[Recording] = [Beginning(path, args.share) for path in args.sequences]
    if args.environment is not None:
        recordings.append(environment(args.out, args.environment, choose=False).train)
    if len({recording.name for recording in recordings}) < len(recordings):
        raise GboptError("two recordings have the same name: rename the folder of one")
    choose = not set(CHOOSING).isdisjoint(args.methods)
    validation = demo_validation(args.out) if choose else None
    rehearsal = load_coco_dir(find_resource("demo/rehearsal"))
    maker = MaskMaker(recordings, validation, rehearsal, config, cache_of(args.out))
    rows: dict[str, Row] = {}
    for method in tqdm(args.methods, "methods"):
        rows[method] = judged(maker, method, recordings, config)
        write(args, config, recordings, rows)
    print((args.out / "methods.md").read_text(encoding="utf-8"))


def judged(maker: MaskMaker, method: str, recordings: Sequence[Recording], config: Config) -> Row:
    """Make the masks of a method and measure them."""
    scored, kept, seconds = masks_of(maker, method, recordings)
    truth = {
        (recording.name, frame.index): recording.truth[frame.index]
        for recording in recordings
        for frame in recording.open()
    }
    ids = {key: number for number, key in enumerate(scored, start=1)}
    images = tuple(CocoImage(ids[key], f"{key[0]}/{key[1]}", *scored[key].size) for key in scored)
    labelled = CocoDataset(images, {ids[key]: truth[key] for key in scored})
    metrics = evaluate_instances(labelled, results_of({ids[key]: scored[key] for key in scored}))
    objects = [
        score
        for recording in recordings
        if isinstance(recording, Beginning)
        for score in object_scores(recording, kept, config.tracks)
    ]
    davis = summarise(objects) if objects else None
    return Row(
        metrics.AP,
        metrics.AP50,
        union_similarity(truth, kept),
        davis.J if davis else None,
        davis.F if davis else None,
        seconds / len(scored) if seconds is not None else None,
    )


def masks_of(
    maker: MaskMaker, method: str, recordings: Sequence[Recording]
) -> tuple[Masks, Masks, float | None]:
    """All masks of a method with their scores, those that count as chosen, and its seconds."""
    if method == "ours":
        selected, seconds = maker.selections(recordings)
        return selected, selected, seconds
    chosen, _ = maker.chosen(method)
    if method in ("threshold", "distillation"):
        return maker.candidates(ensemble=method == "distillation"), chosen, None
    if method == "gt":
        return chosen, chosen, None
    scored, seconds = maker.scored(method, recordings)
    return scored, chosen, seconds


def union_similarity(truth: Mapping[FrameKey, Sequence[Rle]], masks: Masks) -> float:
    """Mean IoU of the union of each frame's masks with that of its objects, percent."""
    values = []
    for key, found in masks.items():
        unions = [mask_ops.union(rles, found.size) for rles in (found.rles, truth[key])]
        empty = not mask_ops.areas(unions).any()
        values.append(1.0 if empty else mask_ops.iou_matrix(unions[:1], unions[1:])[0, 0])
    return 100 * float(np.mean(values))


def object_scores(
    sequence: Beginning, masks: Masks, config: TrackConfig
) -> tuple[ObjectScore, ...]:
    """J and F of every object of the first frame; the masks are linked to tracks."""
    found = [masks[sequence.name, frame.index] for frame in sequence.open()]
    return linked_scores(object_labels(sequence), found, sequence.name, config)


def linked_scores(
    labels: NDArray[np.uint8], masks: Sequence[Proposals], sequence: str, config: TrackConfig
) -> tuple[ObjectScore, ...]:
    """J and F of every object of (T, H, W) labels, for T times the masks of a frame, linked."""
    frames = (
        ScoredMasks(i * FRAME_PERIOD_NS, found.rles, found.scores.tolist())
        for i, found in enumerate(masks)
    )
    size = (labels.shape[1], labels.shape[2])
    tracks = label_array(link_tracks(frames, config), len(labels), size)
    return score_sequence(labels, tracks, sequence)


def object_labels(sequence: Beginning) -> NDArray[np.uint8]:
    """(T, H, W) uint8: the objects of the first frame, counted from 1, and `VOID`."""
    labels = load_sequence(sequence.folder).labels()[: len(sequence.open())]
    numbers = np.zeros(VOID + 1, np.uint8)
    objects = np.setdiff1d(labels[0], [0, VOID])
    numbers[objects] = np.arange(1, len(objects) + 1)
    numbers[VOID] = VOID
    return numbers[labels]


def write(
    args: argparse.Namespace,
    config: Config,
    recordings: Sequence[Recording],
    rows: Mapping[str, Row],
) -> None:
    """The table as Markdown, and the numbers behind it."""
    result: dict[str, Any] = run_facts(config) | {
        "recordings": [recording.name for recording in recordings],
        "share": args.share,
        "methods": {
            method: {"label": label_of(method)} | asdict(row) for method, row in rows.items()
        },
    }
    write_text(args.out / "methods.json", json.dumps(result, indent=2) + "\n")
    write_text(args.out / "methods.md", markdown(rows))


def markdown(rows: Mapping[str, Row]) -> str:
    """The table."""
    lines = ["| " + " | ".join(("", *COLUMNS)) + " |", "|---" + "|---:" * len(COLUMNS) + "|"]
    for method, row in rows.items():
        *percent, seconds = asdict(row).values()
        numbers = ["" if value is None else f"{value:.1f}" for value in percent]
        time = "" if seconds is None else f"{seconds:.2f}"
        lines.append("| " + " | ".join([label_of(method), *numbers, time]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(start(run, parse_arguments()))
