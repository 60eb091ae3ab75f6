"""Fine-tune a network on selected masks and publish it through the gate.

The network that learns is the one that proposed the masks (--weights). If that one is in an ONNX
file it is the teacher: the bundled network learns, or the one that --set learning.student=FILE
names. The new version is compared with the teacher, and the result is printed and kept in the
store. A version that does not propose as well as its teacher is published, too, but no live graph
puts it into service.

Masks of another method, of a person, or of ground truth are learnt by the same recipe through the
same gate: --masks names a COCO file of them, --images the folder of its images.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gbopt_ros.cli.options import add_config_arguments, check_has_frames, config_from_args
from gbopt_ros.config import Config
from gbopt_ros.structures import GboptError

if TYPE_CHECKING:
    from gbopt_ros.io.datasets.coco import CocoDataset

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("replays", type=Path, nargs="*", help="output folders of gbopt replay")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("gbopt-store"),
        help="store: the training set and the versions learnt from it (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        type=Path,
        metavar="COCO.json",
        help="of the replays, learn only from the frames that this file of `gbopt dataset` labels",
    )
    parser.add_argument(
        "--masks", type=Path, metavar="COCO.json", help="masks to learn in place of replays"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="images of --masks")
    parser.add_argument(
        "--rehearse",
        type=Path,
        help="COCO folder of labelled images of seen classes for every batch",
    )
    parser.add_argument(
        "--validation",
        type=Path,
        help="COCO folder of labelled images of seen classes for the gate",
    )
    parser.add_argument(
        "--forget", action="append", default=[], metavar="RECORDING",
        help="remove a recording from the training set first, such as one whose masks the gate "
        "refused; without a replay, nothing else is done",
    )  # fmt: skip
    add_config_arguments(parser, "learning.iterations=500", weights=True)


def run(args: argparse.Namespace) -> None:
    from gbopt_ros.io.datasets.coco import load_coco, load_coco_dir
    from gbopt_ros.io.selection_format import read_selection
    from gbopt_ros.learning.store.store import Store

    if not (args.replays or args.masks or args.forget):
        raise GboptError(
            "nothing to do: name output folders of `gbopt replay`, or use --masks or --forget"
        )
    if (args.masks is None) != (args.images is None):
        raise GboptError("--masks and --images: expected both or neither")
    if args.only and not args.replays:
        raise GboptError("--only: there is no replay whose frames it could choose")
    config = config_from_args(args)
    for folder in args.replays:  # before a store is made
        check_has_frames(folder)
        list(read_selection(folder))
    masks = load_coco(args.masks, args.images) if args.masks else None
    if masks is not None:
        _check_images(masks, args.images, args.masks)
    if args.replays or masks:
        _check_weights(config)
    only = load_coco(args.only) if args.only else None
    rehearsal = load_coco_dir(args.rehearse) if args.rehearse else None
    validation = load_coco_dir(args.validation) if args.validation else None
    if rehearsal is None and (args.replays or masks):
        log.warning("no --rehearse data: the network may forget the classes that it knows")
    store, section = Store(args.out), config.learning
    if not (args.replays or masks):
        _tell(args.forget, store.forget(*args.forget, config=section), "frames forgotten")
        return
    with store.writing("gbopt learn"):
        with store.together(section):
            if args.forget:
                _tell(args.forget, store.forget(*args.forget), "frames forgotten")
            _tell(args.replays, store.add(*args.replays, only=only), "frames with masks")
            if masks is not None:
                folder = args.masks.resolve().parent.name  # many files are annotations.json
                added = store.add_masks(masks, f"{folder}/{args.masks.stem}")
                _tell([args.masks], [added], "frames with masks")
        learnt = store.learn(config, rehearsal=rehearsal, validation=validation)
    if learnt.version is None:
        raise GboptError(f"the new version was refused by the gate: {learnt.decision.reason}")
    print(learnt.version.path)


def _check_weights(config: Config) -> None:
    """Raises GboptError if a network that the round needs is missing."""
    from gbopt_ros.models.catalogue import find_weights

    for name in (config.proposal.weights, config.learning.student):
        if name and not find_weights(name).is_file():
            raise GboptError(f"{name}: no such weights file")


def _check_images(masks: CocoDataset, folder: Path, path: Path) -> None:
    """Raises GboptError if an image with masks is missing."""
    for image in masks.images:
        if masks.rles_by_image[image.id] and not (folder / image.file_name).is_file():
            raise GboptError(
                f"--images {folder}: has no {image.file_name}, which {path} has masks of"
            )


def _tell(names: Sequence[object], counts: Sequence[int], what: str) -> None:
    for name, count in zip(names, counts, strict=True):
        log.info("%s: %d %s", name, count, what)
