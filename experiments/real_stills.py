"""Networks judged on labelled photographs and frames of real video, without any selection.

    python -m experiments.real_stills split COCO_DIR ... --out stills
    python -m experiments.real_stills judge stills/validation ../shared/real/ycbv-* ... \\
        [--weights FILE] [--background FILE] [--set KEY=VALUE ...]

`split` writes the COCO folders OUT/train and OUT/validation, with links to the photographs. Every
fifth photograph of the first folder is for validation, all others are for training.

`judge` prints a row for each folder, COCO or frames with a PNG of labels beside each:
class-agnostic AP, the recall AR15 of the 15 best masks (after non-maximum suppression at 0.5, as
in AP), the IoU of the foreground with the union of all labelled objects, and the share of that
union which is foreground, both as means over images. Labels are incomplete: what they leave out
counts against AP and IoU.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.command_line import config_of, make_parser, start
from experiments.recordings import frames_with_labels
from gbopt_ros.evaluation.evaluate import evaluate_network, evaluation_config
from gbopt_ros.evaluation.mask_quality import mask_precision_recall
from gbopt_ros.evaluation.results import CocoResult
from gbopt_ros.io.datasets.coco import (
    ANNOTATIONS_NAME,
    IMAGES_NAME,
    CocoDataset,
    CocoImage,
    load_coco,
    load_coco_dir,
    write_coco,
)
from gbopt_ros.masks import decode_all
from gbopt_ros.perception.load import load_background_network, load_proposal_network
from gbopt_ros.structures import BoolMask, GboptError, Rle

VALIDATION_EVERY = 5
BEST = 15  # masks of an image that count in AR15


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "stills")
    parser.add_argument("action", choices=("split", "judge"))
    parser.add_argument("folders", type=Path, nargs="+", help="COCO folders; judge: or sequences")
    parser.add_argument("--weights", default="", help="proposal network (default: the bundled one)")
    parser.add_argument("--background", default="", help="background network (default: bundled)")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    if args.action == "split":
        split(args.folders, args.out)
    else:
        judge(args)


def split(folders: Sequence[Path], out: Path) -> None:
    """Write a training and a validation part."""
    datasets = [load_stills(folder) for folder in folders]
    held_out = datasets[0].images[::VALIDATION_EVERY]
    held = {image.id for image in held_out}
    trained = [
        (dataset, [i for i in dataset.images if dataset is not datasets[0] or i.id not in held])
        for dataset in datasets
    ]
    write_part(out / "train", trained)
    write_part(out / "validation", [(datasets[0], held_out)])


def judge(args: argparse.Namespace) -> None:
    """Print a table of the networks on every folder."""
    named = {"proposal.weights": args.weights, "background.weights": args.background}
    config = config_of(args, *(f"{key}={value}" for key, value in named.items() if value))
    proposals = load_proposal_network(evaluation_config(config))
    background = load_background_network(config)
    print("| folder | images | AP | AR15 | foreground IoU | labelled part |")
    print("|---" + "|---:" * 5 + "|")
    for folder in args.folders:
        dataset = labelled_frames(folder)
        metrics, results = evaluate_network(proposals, dataset, progress=False)
        overlaps: list[tuple[float, float]] = []
        for image in dataset.images:
            pixels = dataset.load_image(image)
            objects = decode_all(dataset.rles_by_image[image.id], pixels.shape[:2]).any(axis=0)
            if objects.any():
                foreground = background.background([pixels])[0] < 0.5
                overlaps.append(fit(foreground, objects))
        recall = recall_of_best(dataset, results)
        iou, part = 100 * np.mean(overlaps, axis=0)
        print(
            f"| {folder.resolve().name} | {len(dataset)} | {metrics.AP:.1f} | {recall:.1f} | "
            f"{iou:.1f} | {part:.1f} |", flush=True,
        )  # fmt: skip


def fit(foreground: BoolMask, labelled: BoolMask) -> tuple[float, float]:
    """IoU of the foreground with what is labelled, and the share of that which is foreground."""
    both = (labelled & foreground).sum()
    return both / (labelled | foreground).sum(), both / labelled.sum()


def recall_of_best(dataset: CocoDataset, results: Sequence[CocoResult]) -> float:
    """Recall, percent, of the best masks of each image: mean over IoU 0.50, 0.55 ... 0.95.

    Args:
        results: those of one image in descending order of their scores.
    """
    found: dict[int, list[Rle]] = {image.id: [] for image in dataset.images}
    for result in results:
        if len(found[result["image_id"]]) < BEST:
            found[result["image_id"]].append(result["segmentation"])
    recalls = [
        mask_precision_recall(dataset.rles_by_image, found, iou).recall
        for iou in np.linspace(0.5, 0.95, 10)
    ]
    return 100 * float(np.mean(recalls))


def labelled_frames(folder: Path) -> CocoDataset:
    """A COCO folder, or a folder of frames with a PNG of labels beside each."""
    return load_coco_dir(folder) if (folder / ANNOTATIONS_NAME).exists() else sequence(folder)


def sequence(folder: Path) -> CocoDataset:
    """Every frame of a sequence with its labels."""
    numbered = dict(enumerate(frames_with_labels(folder), start=1))
    images = tuple(CocoImage(n, frame.path.name, *frame.size) for n, frame in numbered.items())
    return CocoDataset(images, {n: frame.rles for n, frame in numbered.items()}, folder)


def load_stills(folder: Path) -> CocoDataset:
    """A COCO folder whose annotation file has any name. Raises GboptError if it is none."""
    files = sorted(folder.glob("*.json"))
    if len(files) != 1:
        raise GboptError(f"{folder}: expected one annotation file *.json, found {len(files)}")
    return load_coco(files[0], folder / IMAGES_NAME)


def write_part(out: Path, parts: Sequence[tuple[CocoDataset, Sequence[CocoImage]]]) -> None:
    """A COCO folder of some images of several datasets, the images linked.

    Raises:
        GboptError: two images have the same name.
    """
    names = Counter(image.file_name for _, chosen in parts for image in chosen)
    if shared := [name for name, count in names.items() if count > 1]:
        raise GboptError(f"{shared[0]}: several photographs have this name; rename them")
    images, rles, crowds = [], {}, {}
    for dataset, chosen in parts:
        assert dataset.image_dir is not None
        for image in chosen:
            number = len(images) + 1
            images.append(CocoImage(number, image.file_name, image.height, image.width))
            rles[number] = dataset.rles_by_image[image.id]
            crowds[number] = dataset.crowd_by_image.get(image.id, ())
            link = out / IMAGES_NAME / image.file_name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to((dataset.image_dir / image.file_name).resolve())
    write_coco(out / ANNOTATIONS_NAME, images, rles, crowds)
    print(f"{out}: {len(images)} images")


if __name__ == "__main__":
    sys.exit(start(run, parse_arguments()))
