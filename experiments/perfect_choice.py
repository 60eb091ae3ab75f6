"""The proposals that fit ground truth best, as masks to learn ("Selected using GT", Table 1).

    python -m experiments.perfect_choice unseen-vis/train/annotations.json \\
        --images unseen-vis/train/images --weights W --out chosen.json
    gbopt learn --masks chosen.json --images unseen-vis/train/images --weights W --out store

Masks and instances are matched one to one, at an IoU of 0.5 or more (`baselines.agreeing_with`).
"Trained with GT" learns the ground truth itself: `gbopt learn --masks annotations.json`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from experiments import baselines
from experiments.command_line import config_of, make_parser, start
from gbopt_ros.io.datasets.coco import load_coco, write_coco
from gbopt_ros.perception.load import load_proposal_network


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "chosen.json", writes="file of masks, COCO JSON")
    parser.add_argument("labels", type=Path, help="ground truth, COCO JSON")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR")
    parser.add_argument("--weights", default="", help="proposal network (default: the bundled one)")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    weights = [f"proposal.weights={args.weights}"] if args.weights else []
    network = load_proposal_network(config_of(args, *weights))
    truth = load_coco(args.labels, args.images)
    chosen = {}
    for image in tqdm(truth.images, "choose", unit="image", dynamic_ncols=True):
        (proposals,) = network.propose([truth.load_image(image)])
        chosen[image.id] = baselines.agreeing_with(proposals, truth.rles_by_image[image.id]).rles
    write_coco(args.out, truth.images, chosen)
    found, labelled = (
        sum(map(len, by_image.values())) for by_image in (chosen, truth.rles_by_image)
    )
    print(f"{args.out}: {found} masks for {labelled} instances in {len(truth)} images")


if __name__ == "__main__":
    sys.exit(start(run, parse_arguments()))
