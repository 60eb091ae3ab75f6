"""Learning from real video without a label, judged on frames that were not learnt from.

    python -m experiments.real_video ../shared/real/ycbv-* --out real --jobs 2

Every SEQUENCE is a folder of frames with a PNG of labels beside each. Masks are chosen in the
first 60 % of its frames. One network learns from those of all sequences, and is judged on the last
30 %, which no method learns from. The methods are those of `experiments.comparison`: `gt` and
`truth` alone use the labels, and thresholds are chosen on Tabletop. Labels of real recordings are
incomplete. What they leave out counts as a false positive in AP, and `gt` and `truth` learn what is
labelled, not all objects. "AP where labelled" takes all that has no label for a crowd, as COCO has
them: a mask that lies there is neither right nor wrong. With --photographs, a COCO folder that no
network was trained on (`experiments.real_stills split`), the table says what of it is forgotten.

Writes OUT/real-video.json, .md and .jpg, or OUT/real-video-2-rounds.json and so on; the picture has
the middle judged frame of each sequence before, after and as labelled. A run that is started again
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from experiments import tables
from experiments.cache import digest, digest_of_files
from experiments.command_line import (
    Distinct,
    add_training_arguments,
    config_of,
    make_parser,
    run_facts,
    start,
)
from experiments.comparison import compare
from experiments.recordings import frames_with_labels, truth_of
from experiments.tabletop import Stills, demo_validation
from experiments.training import Result
from experiments.training_masks import CHOOSING, COMPARED, OTHERS, TrainingMasks, label_of
from gbopt_ros.config import Config
from gbopt_ros.io.datasets.coco import CocoDataset, CocoImage, load_coco_dir
from gbopt_ros.io.files import replacing, write_text
from gbopt_ros.io.overlay import draw_masks
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources import open_source
from gbopt_ros.io.sources.images import encode_image
from gbopt_ros.masks import decode_all, encode
from gbopt_ros.structures import Frame, GboptError, Image, Rle

LEARNT, JUDGED = 0.6, 0.3  # shares of a sequence: its beginning, its end
PICTURED = ("before", "threshold", "ours")  # columns of the figure
_SHOWN_SCORE = 0.5
_TILE = (320, 180)  # width and height of a picture in the figure
_TITLE_HEIGHT = 24


@dataclass(frozen=True)
class Beginning:
    """The first frames of a labelled sequence, a `recordings.Recording`.

    Attributes:
        share: of the sequence's frames.
    """

    folder: Path
    share: float = LEARNT

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @cached_property
    def digest(self) -> str:
        return digest([digest_of_files(self.folder), self.share])

    @cached_property
    def truth(self) -> dict[int, tuple[Rle, ...]]:
        return truth_of(self.folder, self.open())

    def open(self) -> list[Frame]:
        frames = list(open_source(self.folder))
        return frames[: round(self.share * len(frames))]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "benchmark-output/real-video")
    parser.add_argument("sequences", type=Path, nargs="+", action=Distinct)
    parser.add_argument("--photographs", type=Path, metavar="COCO_DIR", help="judged too")
    parser.add_argument("--rehearse", type=Path, metavar="COCO_DIR", help="default: the demo's")
    add_training_arguments(parser, dict.fromkeys([*COMPARED, *OTHERS]), COMPARED)
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    config = config_of(args)
    judged = judged_frames(args.sequences)
    stills = Stills(
        judged,
        load_coco_dir(find_resource("demo/seen-test")),
        load_coco_dir(args.rehearse or find_resource("demo/rehearsal")),
        photographs=load_coco_dir(args.photographs) if args.photographs else None,
        labelled=with_unlabelled_as_crowd(judged),
    )
    validation = None
    if not set(CHOOSING).isdisjoint(args.methods):
        validation = demo_validation(args.out)
    beginnings = [Beginning(folder) for folder in args.sequences]
    if len({beginning.name for beginning in beginnings}) < len(beginnings):
        raise GboptError("two sequences have the same name: rename the folder of one")
    shown = middle_frames(stills.unseen)

    def report(masks: dict[str, TrainingMasks], done: dict[str, list[Result]]) -> None:
        write(args, config, stills, masks, done, shown)

    compare(args, config, (beginnings, validation, stills.rehearsal), stills, report, shown)
    print(result_path(args).with_suffix(".md").read_text(encoding="utf-8"))


def judged_frames(folders: Sequence[Path]) -> CocoDataset:
    """The last frames of every sequence with their labels."""
    root = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    images: list[CocoImage] = []
    rles: dict[int, tuple[Rle, ...]] = {}
    for folder in folders:
        frames = frames_with_labels(folder)
        judged = frames[len(frames) - round(JUDGED * len(frames)) :]
        learnt = len(Beginning(folder).open())
        if judged and judged[0].index < learnt:
            raise GboptError(
                f"{folder}: the last labels are of frames that are learnt from; "
                f"label the frames after the first {learnt}"
            )
        for number, frame in enumerate(judged, start=len(images) + 1):
            name = (folder.resolve() / frame.path.name).relative_to(root).as_posix()
            images.append(CocoImage(number, name, *frame.size))
            rles[number] = frame.rles
    return CocoDataset(tuple(images), rles, root)


def with_unlabelled_as_crowd(dataset: CocoDataset) -> CocoDataset:
    """The dataset with all that has no label as one crowd region an image."""
    crowds = {}
    for image in dataset.images:
        size = image.height, image.width
        labelled = decode_all(dataset.rles_by_image.get(image.id, ()), size).any(axis=0)
        crowds[image.id] = (encode(~labelled),)
    return replace(dataset, crowd_by_image=crowds)


def middle_frames(judged: CocoDataset) -> list[CocoImage]:
    """One judged frame of every sequence."""
    by_sequence: dict[str, list[CocoImage]] = {}
    for image in judged.images:
        by_sequence.setdefault(image.file_name.rpartition("/")[0], []).append(image)
    return [images[len(images) // 2] for images in by_sequence.values()]


def result_path(args: argparse.Namespace) -> Path:
    """Where the tables go, without suffix."""
    rounds = f"-{args.rounds}-rounds" if args.rounds > 1 else ""
    return Path(args.out / f"real-video{rounds}")


def write(
    args: argparse.Namespace,
    config: Config,
    stills: Stills,
    masks: dict[str, TrainingMasks],
    done: dict[str, list[Result]],
    shown: Sequence[CocoImage],
) -> None:
    """The table, the numbers behind it, and the figure."""
    path = result_path(args)
    result = run_facts(config) | {
        "sequences": [folder.resolve().name for folder in args.sequences],
        "rounds": args.rounds,
        "judged_frames": [image.file_name for image in stills.unseen.images],
        "statements": tables.statements(done),
        "methods": tables.to_dict(done, masks),
    }
    write_text(path.with_suffix(".json"), json.dumps(result, indent=2) + "\n")
    write_text(path.with_suffix(".md"), tables.markdown(done, masks))
    pictured = [method for method in PICTURED if method in done]
    results = [done[method][0] for method in pictured]
    rows = [picture(stills.unseen, image, results) for image in shown]
    with replacing(path.with_suffix(".jpg")) as aside:
        aside.write_bytes(encode_image(np.vstack([titles(pictured), *rows]), "jpeg", 85))


def titles(pictured: Sequence[str]) -> Image:
    """What the columns of the figure show."""
    strip = np.full((_TITLE_HEIGHT, (len(pictured) + 1) * _TILE[0], 3), 255, np.uint8)
    said = [f"{label_of(method)}, from score {_SHOWN_SCORE}" for method in pictured]
    for column, title in enumerate((*said, "labelled")):
        place = (column * _TILE[0] + 8, _TITLE_HEIGHT - 8)
        cv2.putText(strip, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def picture(judged: CocoDataset, image: CocoImage, results: Sequence[Result]) -> Image:
    """A judged frame as the networks of the results see it, and as labelled, side by side."""
    pixels = judged.load_image(image)
    drawn = [
        [found["segmentation"] for found in result["shown"]
         if found["image_id"] == image.id and found["score"] >= _SHOWN_SCORE]
        for result in results
    ]  # fmt: skip
    return np.hstack(
        [
            cv2.resize(draw_masks(pixels, rles), _TILE, interpolation=cv2.INTER_AREA)
            for rles in (*drawn, judged.rles_by_image[image.id])
        ]
    )


if __name__ == "__main__":
    sys.exit(start(run, parse_arguments()))
