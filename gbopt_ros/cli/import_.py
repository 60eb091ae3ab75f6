"""Import the labels of a person into the training set of a store.

LABELS is a COCO file, a folder with one, or a YOLO folder, of images that `gbopt export` wrote. In
each image that it covers, its masks are verified: they are learnt whatever their confidence is,
leave a full training set last, and outlive a later replay. Masks that the person removed are not
selected there again. Of the rest of such an image nothing is known: it is not learnt as background.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, metavar="STORE", help="--out folder of gbopt learn")
    parser.add_argument(
        "labels", type=Path, metavar="LABELS", help="COCO file, folder with one, or YOLO folder"
    )


def run(args: argparse.Namespace) -> None:
    from gbopt_ros.learning.store.store import Store

    reviewed = Store(args.store).import_labels(args.labels)
    if reviewed.unknown:
        log.warning(
            "%d images are not in the training set and left out, such as %s",
            len(reviewed.unknown), reviewed.unknown[0],
        )  # fmt: skip
    print(
        f"{args.store}: {reviewed.verified} masks verified and {reviewed.rejected} rejected in "
        f"{reviewed.images} images"
    )
