"""Measure the track ids of replays against labelled recordings: IDF1 and id switches."""

from __future__ import annotations

import argparse
from pathlib import Path

from gbopt_ros.cli.options import add_config_arguments, check_has_frames, config_from_args
from gbopt_ros.evaluation.davis_results import load_replay
from gbopt_ros.evaluation.identities import load_identities, score_identities
from gbopt_ros.evaluation.identity_metrics import IdentityCounts
from gbopt_ros.evaluation.tables import Rows, markdown_table, text_table
from gbopt_ros.io.datasets.coco import ANNOTATIONS_NAME
from gbopt_ros.io.files import make_folder, write_text
from gbopt_ros.io.json_file import to_json
from gbopt_ros.structures import GboptError

_LABELS = (
    f"`{ANNOTATIONS_NAME}` of `gbopt world --environment`, or a folder of frames with a PNG of "
    "labels beside each"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "replay", type=Path, nargs="+", metavar="DIR", help="outputs of `gbopt replay`"
    )
    parser.add_argument(
        "--gt",
        type=Path,
        nargs="+",
        required=True,
        metavar="LABELS",
        help=f"labels of each: {_LABELS}",
    )
    parser.add_argument(
        "--relink", action="store_true", help="give new ids, by the settings of --set tracks.*"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write metrics.json, metrics.md")
    add_config_arguments(parser, "tracks.max_gap_s=1")


def run(args: argparse.Namespace) -> None:
    if len(args.gt) != len(args.replay):
        raise GboptError(
            f"--gt: expected the labels of {len(args.replay)} replays, got {len(args.gt)}"
        )
    config = config_from_args(args)
    counts: dict[str, IdentityCounts] = {}
    for labels, folder in zip(args.gt, args.replay, strict=True):
        linker = config.tracks.linker() if args.relink else None
        if not labels.exists():
            raise GboptError(f"--gt {labels}: no such file or folder; expected {_LABELS}")
        try:
            truth = load_identities(labels, config)
        except GboptError as error:
            if labels.is_dir():  # it says what was expected
                raise
            raise GboptError(f"--gt {error}; expected {_LABELS}") from error
        check_has_frames(folder)
        counts[str(folder)] = score_identities(truth, load_replay(folder), linker)
    if len(counts) > 1:
        counts["all"] = sum(counts.values(), IdentityCounts())
    rows: Rows = {
        name: {column: [value] for column, value in _metrics(count).items()}
        for name, count in counts.items()
    }
    print(text_table(rows), end="")
    if args.out is not None:
        make_folder(args.out)
        write_text(args.out / "metrics.md", markdown_table(rows))
        metrics = {name: _metrics(count) for name, count in counts.items()}
        write_text(args.out / "metrics.json", to_json(metrics, indent=2) + "\n")


def _metrics(counts: IdentityCounts) -> dict[str, float]:
    return {
        "IDF1": counts.f1,
        "IDP": counts.precision,
        "IDR": counts.recall,
        "switches": counts.switches,
        "instances": counts.instances,
        "masks": counts.masks,
    }
