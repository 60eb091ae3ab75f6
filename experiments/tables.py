"""Tables and the figure of the experiment, and of several runs of it together.

    python benchmarks/tables.py RUN.json OTHER.json --figure together.svg

The same seeds give other networks on other processors, so runs on several machines say more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from experiments.methods import LABELS, TrainingMasks
from experiments.training import Result
from gbopt_ros.evaluation.coco_metrics import METRICS
from gbopt_ros.io.files import aside_of
from gbopt_ros.structures import GboptError

matplotlib.use("Agg")
from matplotlib import pyplot

Rows = Mapping[str, Sequence[Result]]
_OURS = ("ours", "adapted")
_SAME = ("world", "unseen_split", "rounds", "config")  # in all runs of one experiment


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def subsample(values: Sequence[float]) -> float | None:
    """Standard deviation over the seeds, None where there is but one."""
    return statistics.stdev(values) if len(values) > 1 else None


def differences(rows: Rows, first: str, second: str, split: str = "unseen") -> list[float]:
    """AP of the first row minus that of the second, seed by seed; `before` has one for all."""
    by_seed = {cell["seed"]: cell[split]["AP"] for cell in rows.get(second, ())}
    alone = next(iter(by_seed.values()), None) if second == "before" else None
    return [
        cell[split]["AP"] - by_seed.get(cell["seed"], alone)
        for cell in rows.get(first, ())
        if by_seed.get(cell["seed"], alone) is not None
    ]


def share_of_bound(rows: Rows, row: str = "ours") -> float | None:
    """Which share of the gain of "selected using GT" over the control a row reaches, percent.

    Gains are means over the seeds; None where the bound gains nothing.
    """
    reached, bound = differences(rows, row, "control"), differences(rows, "gt", "control")
    if not reached or not bound or mean(bound) <= 0:
        return None
    return 100 * mean(reached) / mean(bound)


def statements(rows: Rows) -> dict[str, Any]:
    """What the experiment is about, as numbers: each a mean and a standard deviation."""
    found: dict[str, Any] = {
        f"{row}_minus_{other}": _pair(differences(rows, row, other))
        for row in _OURS
        for other in ("before", "control", "threshold", "distillation", "tracklets", "gt")
        if differences(rows, row, other)
    }
    for row in _OURS:
        if lost := differences(rows, row, "before", "seen"):
            found[f"{row}_seen_change"] = _pair(lost)
        if (share := share_of_bound(rows, row)) is not None:
            found[f"{row}_share_of_bound"] = share
    return found


def _pair(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": mean(values), "spread": subsample(values)}


def quality_of(cells: Sequence[Result], first: TrainingMasks) -> dict[str, float] | None:
    """Quality of what was learnt last: of the masks that all seeds share, or its mean over them.

    Args:
        first: what all seeds learnt in their first round.
    """
    last = [cell["masks"][-1] for cell in cells if len(cell.get("masks", ())) > 1]
    if not last or last[0] is None:
        return None if first.quality is None else dict(first.quality)
    return {key: mean([quality[key] for quality in last]) for key in last[0]}


def to_dict(rows: Rows, masks: Mapping[str, TrainingMasks]) -> dict[str, Any]:
    """What is known of the rows, for JSON, without what was kept for pictures."""
    return {
        name: {
            "label": LABELS[name],
            "masks": quality_of(cells, masks[name]),
            "chosen": masks[name].facts,
            "cells": [{k: v for k, v in cell.items() if k != "shown"} for cell in cells],
        }
        for name, cells in rows.items()
    }


def markdown(rows: Rows, masks: Mapping[str, TrainingMasks]) -> str:
    """The table, percent, and what follows from it."""
    header = [
        "", *(f"unseen {m}" for m in METRICS), "seen AP",
        "mask precision", "recall", "mean IoU", "runs",
    ]  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    for name, cells in rows.items():
        columns = [[cell["unseen"][m] for cell in cells] for m in METRICS]
        columns.append([cell["seen"]["AP"] for cell in cells])
        quality = quality_of(cells, masks[name])
        shown = [
            f"{quality[k]:.1f}" if quality else "" for k in ("precision", "recall", "mean_iou")
        ]
        numbers = [_cell(values) for values in columns]
        lines.append("| " + " | ".join([LABELS[name], *numbers, *shown, str(len(cells))]) + " |")
    lines += ["", *(f"- {line}" for line in sentences(rows))]
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float]) -> str:
    deviation = subsample(values)
    return f"{mean(values):.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")


def sentences(rows: Rows) -> list[str]:
    """What follows from the rows that are there."""
    said = []
    for row in _OURS:
        name = LABELS[row][0].upper() + LABELS[row][1:]
        share = share_of_bound(rows, row)
        if share is not None:
            said.append(
                f"{name} reaches {share:.0f} % of what selecting with ground truth gains over the "
                f"control ({_signed(differences(rows, row, 'control'))} of "
                f"{_signed(differences(rows, 'gt', 'control'))} AP on unseen classes)."
            )
        for other in ("before", "threshold", "distillation", "tracklets"):
            if gained := differences(rows, row, other):
                said.append(
                    f"{name} minus {LABELS[other]}: {_signed(gained)} AP on unseen classes "
                    f"(pairs of runs: {len(gained)})."
                )
        if changed := differences(rows, row, "before", "seen"):
            said.append(f"{name}, seen AP after learning: {_signed(changed)}.")
    bound = differences(rows, "gt", "control")
    if bound and mean(bound) <= 0:
        said.append("Selecting with ground truth gains nothing over the control: no share of it.")
    return said


def _signed(values: Sequence[float]) -> str:
    deviation = subsample(values)
    return f"{mean(values):+.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def figure(rows: Rows, path: Path) -> None:
    """Unseen AP against the control and seen AP against before: seeds, mean, standard deviation."""
    reference = "control" if "control" in rows else "before"
    names = [name for name in rows if name != "before"]
    panels = (
        (f"unseen AP, gain over {LABELS[reference]}", reference, "unseen", "tab:blue"),
        ("seen AP, change from before", "before", "seen", "tab:red"),
    )
    chart, axes = pyplot.subplots(
        1, 2, figsize=(9, 1.3 + 0.42 * len(names)), sharey=True, layout="constrained"
    )
    for axis, (title, other, split, colour) in zip(axes, panels, strict=True):
        for place, name in enumerate(reversed(names)):
            values = differences(rows, name, other, split)
            if not values:
                continue
            axis.barh(place, mean(values), height=0.6, color=colour, alpha=0.3)
            axis.errorbar(mean(values), place, xerr=subsample(values), color=colour, capsize=3)
            axis.plot(values, [place] * len(values), "o", markersize=4, color=colour, alpha=0.8)
            axis.annotate(
                f"{mean(values):+.1f}", (mean(values), place), xytext=(0, 9), ha="center",
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
        axis.axvline(0, color="0.4", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_yticks(range(len(names)), [LABELS[name] for name in reversed(names)])
        axis.set_ylim(-0.6, len(names) - 0.3)
        axis.margins(x=0.15)
        axis.grid(axis="x", alpha=0.3)
    aside = aside_of(path)
    chart.savefig(aside)
    pyplot.close(chart)
    aside.replace(path)


def together(files: Sequence[Path]) -> tuple[dict[str, list[Result]], dict[str, TrainingMasks]]:
    """The rows of several runs as those of one, `before` once, and the quality of their masks.

    Raises:
        GboptError: a file is no result of the experiment, or that of another one.
    """
    runs = [_read(path) for path in files]
    for path, run in zip(files, runs, strict=True):
        if other := [key for key in _SAME if run[key] != runs[0][key]]:
            raise GboptError(f"{path}: another {', '.join(other)} than in {files[0]}")
    rows: dict[str, list[Result]] = {}
    masks: dict[str, TrainingMasks] = {}
    for name in LABELS:
        found = [
            (number, run["rows"][name]) for number, run in enumerate(runs) if name in run["rows"]
        ]
        if not found:
            continue
        # Rows are compared run by run, seed by seed.
        cells = [
            cell | {"seed": f"{n}: {cell['seed']}"} for n, row in found for cell in row["cells"]
        ]
        rows[name] = cells[:1] if name == "before" else cells
        known = [row["masks"] for _, row in found for _ in row["cells"] if row["masks"]]
        quality = {key: mean([each[key] for each in known]) for key in known[0]} if known else None
        # That of the last round, which a cell of its own would give as that of its seed.
        for cell in cells:
            cell.pop("masks", None)
        masks[name] = TrainingMasks(quality=quality)
    return rows, masks


def _read(path: Path) -> dict[str, Any]:
    try:
        run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in ("rows", *_SAME) if key not in run]
    except (OSError, ValueError, TypeError) as error:
        raise GboptError(f"{path}: expected a result of experiment.py: {error}") from error
    if missing:
        raise GboptError(f"{path}: expected a result of experiment.py, it has no {missing[0]!r}")
    return run


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The table of several runs of one experiment.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN.json")
    parser.add_argument("--figure", type=Path, metavar="SVG")
    return parser.parse_args(arguments)


def main() -> int:
    args = parse_arguments()
    try:
        rows, masks = together(args.runs)
    except GboptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(markdown(rows, masks), end="")
    if args.figure:
        figure(rows, args.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
