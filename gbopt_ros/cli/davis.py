"""Measure J and F on DAVIS, for the linked masks of replays or for label images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from gbopt_ros.cli.options import add_config_arguments, check_has_frames, config_from_args
from gbopt_ros.evaluation.davis_metrics import (
    DavisMetrics,
    ObjectScore,
    score_sequence,
    summarise,
)
from gbopt_ros.evaluation.davis_results import (
    Replay,
    link_replay,
    load_replay,
    read_proposals,
    write_proposals,
)
from gbopt_ros.evaluation.tables import Rows, markdown_table, text_table
from gbopt_ros.io.datasets.davis import DavisSequence, load_davis
from gbopt_ros.io.files import make_folder, write_text
from gbopt_ros.io.json_file import to_json
from gbopt_ros.structures import GboptError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "gt", type=Path, help="folder of DAVIS 2017, or of one sequence: frames and label PNGs"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--replay",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="outputs of `gbopt replay`, one for each sequence, assigned by the recording's name",
    )
    what.add_argument(
        "--results", type=Path, metavar="DIR", help="label images DIR/SEQUENCE/00000.png"
    )
    parser.add_argument(
        "--subset", default="val", help="list of sequences in ImageSets/2017 (default: %(default)s)"
    )
    parser.add_argument(
        "--sequences", nargs="+", metavar="NAME", help="measure these instead of the subset"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write metrics.json, metrics.md and tracks/"
    )
    add_config_arguments(parser, "tracks.max_gap_s=1")


def run(args: argparse.Namespace) -> None:
    config = config_from_args(args).tracks
    sequences = _chosen(load_davis(args.gt, args.subset), args.sequences, args.gt)
    if args.replay is not None:
        replays = _replays_by_sequence(args.replay, sequences)
    elif not args.results.is_dir():
        raise GboptError(f"{args.results}: no such folder; give the folder of the results")
    if args.out is not None:
        make_folder(args.out)
    scores: dict[str, tuple[ObjectScore, ...]] = {}
    for sequence in tqdm(sequences, desc="sequences", unit="seq", dynamic_ncols=True):
        labels = sequence.labels()
        if args.replay is not None:
            found = link_replay(replays[sequence.name], config, sequence, labels.shape[1:])
        else:
            found = read_proposals(args.results, sequence)
        scores[sequence.name] = score_sequence(labels, found, sequence.name)
        if args.out is not None:
            write_proposals(args.out / "tracks", sequence, found)
    everything = summarise(score for of_sequence in scores.values() for score in of_sequence)
    rows = {name: _row(summarise(of_sequence)) for name, of_sequence in scores.items()}
    rows["all objects"] = _row(everything)
    print(text_table(rows), end="")
    if args.out is not None:
        _write(args.out, everything, scores, rows)


def _chosen(
    sequences: tuple[DavisSequence, ...], names: Sequence[str] | None, gt: Path
) -> list[DavisSequence]:
    by_name = {sequence.name: sequence for sequence in sequences}
    unknown = [name for name in names or () if name not in by_name]
    if unknown:
        raise GboptError(f"{gt}: has no sequence {unknown[0]}; it has {', '.join(by_name)}")
    return [by_name[name] for name in names] if names else list(sequences)


def _replays_by_sequence(
    folders: Sequence[Path], sequences: list[DavisSequence]
) -> dict[str, Replay]:
    replays: dict[str, Replay] = {}
    for folder in folders:
        check_has_frames(folder)
        replay = load_replay(folder)
        if replay.recording in replays:
            raise GboptError(
                f"{folder}: a second replay of {replay.recording}, after "
                f"{replays[replay.recording].folder}"
            )
        replays[replay.recording] = replay
    if len(sequences) == len(replays) == 1:  # the name does not matter
        return {sequences[0].name: next(iter(replays.values()))}
    missing = [sequence.name for sequence in sequences if sequence.name not in replays]
    if missing:
        raise GboptError(
            f"no replay of {', '.join(missing)}; the replays are of {', '.join(replays)}. Replay "
            "these too, or name the --sequences to measure"
        )
    return replays


def _row(metrics: DavisMetrics) -> dict[str, list[float]]:
    names = {name: name.replace("_", " ") for name in asdict(metrics)} | {"JF": "J&F"}
    return {names[name]: [value] for name, value in asdict(metrics).items()}


def _write(
    out: Path,
    everything: DavisMetrics,
    scores: dict[str, tuple[ObjectScore, ...]],
    rows: Rows,
) -> None:
    objects = [
        {
            "sequence": score.sequence,
            "object": score.object_id,
            "proposal": score.proposal,
            "J": score.J._asdict(),
            "F": score.F._asdict(),
        }
        for of_sequence in scores.values()
        for score in of_sequence
    ]
    sequences = {name: asdict(summarise(of_sequence)) for name, of_sequence in scores.items()}
    summary = {"metrics": asdict(everything), "sequences": sequences, "objects": objects}
    write_text(out / "metrics.md", markdown_table(rows))
    write_text(out / "metrics.json", to_json(summary, indent=2) + "\n")
