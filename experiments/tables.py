"""Tables and the figure of the comparison, of one run or of several runs together.

    python -m experiments.tables RUN.json OTHER.json --figure together.svg

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

from experiments.command_line import Distinct, start
from experiments.training import Result
from experiments.training_masks import METHODS, OTHERS, TrainingMasks, label_of
from gbopt_ros.evaluation.coco_metrics import METRICS
from gbopt_ros.evaluation.tables import format_cell
from gbopt_ros.io.files import replacing
from gbopt_ros.structures import GboptError

matplotlib.use("Agg")
from matplotlib import pyplot

Results = Mapping[str, Sequence[Result]]
"""The results of every method."""
LABELLED = "labelled"  # the unseen test set without what has no label
_GONE = ("tracklets",)  # in results on disk: a simpler UnOVOST of version 0.1.0
_OTHERS = (*OTHERS, *_GONE)
_SAME = ("world", "unseen_split", "rounds", "config")  # in all runs of one experiment


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation over the seeds, None where there is but one."""
    return statistics.stdev(values) if len(values) > 1 else None


def differences(results: Results, first: str, second: str, split: str = "unseen") -> list[float]:
    """AP of the first method minus the second, seed by seed; `before` has one value for all."""
    by_seed = {cell["seed"]: cell[split]["AP"] for cell in results.get(second, ())}
    alone = next(iter(by_seed.values()), None) if second == "before" else None
    return [
        cell[split]["AP"] - by_seed.get(cell["seed"], alone)
        for cell in results.get(first, ())
        if by_seed.get(cell["seed"], alone) is not None
    ]


def share_of_bound(results: Results, split: str = "unseen") -> float | None:
    """The gain of ours over the control, as percentage of the gain of "selected using GT".

    Gains are means over the seeds; None where the bound gains nothing.
    """
    reached = differences(results, "ours", "control", split)
    bound = differences(results, "gt", "control", split)
    if not reached or not bound or mean(bound) <= 0:
        return None
    return 100 * mean(reached) / mean(bound)


def statements(results: Results) -> dict[str, Any]:
    """What follows from the results, as numbers: each a mean and a standard deviation."""
    found: dict[str, Any] = {
        f"ours_minus_{other}": _pair(gained)
        for other in ("before", "control", "threshold", "distillation", *_OTHERS, "gt")
        if (gained := differences(results, "ours", other))
    }
    for split in kept_splits(results):
        if lost := differences(results, "ours", "before", split):
            found[f"ours_{split}_change"] = _pair(lost)
    if (share := share_of_bound(results)) is not None:
        found["ours_share_of_bound"] = share
    if has_split(results, LABELLED) and (share := share_of_bound(results, LABELLED)) is not None:
        found["ours_share_of_bound_where_labelled"] = share
    return found


def _pair(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": mean(values), "spread": deviation(values)}


def quality_of(cells: Sequence[Result], first: TrainingMasks) -> dict[str, float] | None:
    """Quality of the masks of the last round, as a mean over the seeds.

    Args:
        first: masks of the first round, which all seeds share.
    """
    last = [cell["masks"][-1] for cell in cells if len(cell.get("masks", ())) > 1]
    if not last or last[0] is None:
        return None if first.quality is None else dict(first.quality)
    return {key: mean([quality[key] for quality in last]) for key in last[0]}


def to_dict(results: Results, masks: Mapping[str, TrainingMasks]) -> dict[str, Any]:
    """The results for JSON, without the detections that were kept for pictures."""
    return {
        name: {
            "label": label_of(name),
            "masks": quality_of(cells, masks[name]),
            "chosen": masks[name].facts,
            "cells": [{k: v for k, v in cell.items() if k != "shown"} for cell in cells],
        }
        for name, cells in results.items()
    }


def markdown(results: Results, masks: Mapping[str, TrainingMasks]) -> str:
    """The table, percent, and what follows from it."""
    kept = kept_splits(results)
    known = [LABELLED] if has_split(results, LABELLED) else []
    header = [
        "", *(f"unseen {m}" for m in METRICS), *("AP where labelled" for _ in known),
        *(f"{split} AP" for split in kept),
        "mask precision", "recall", "mean IoU", "runs",
    ]  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    for name, cells in results.items():
        columns = [[cell["unseen"][m] for cell in cells] for m in METRICS]
        columns += [[cell[split]["AP"] for cell in cells] for split in (*known, *kept)]
        quality = quality_of(cells, masks[name])
        shown = [
            f"{quality[k]:.1f}" if quality else "" for k in ("precision", "recall", "mean_iou")
        ]
        numbers = [format_cell(values) for values in columns]
        lines.append("| " + " | ".join([label_of(name), *numbers, *shown, str(len(cells))]) + " |")
    lines += ["", *(f"- {line}" for line in sentences(results))]
    return "\n".join(lines) + "\n"


def kept_splits(results: Results) -> list[str]:
    """The test sets of what was known before learning."""
    return [split for split in ("seen", "photographs") if has_split(results, split)]


def has_split(results: Results, split: str) -> bool:
    """Whether all were judged on a test set."""
    return all(split in cell for cells in results.values() for cell in cells)


def sentences(results: Results) -> list[str]:
    """What follows from the methods that are there."""
    said = []
    bound = differences(results, "gt", "control")
    if (share := share_of_bound(results)) is not None:
        said.append(
            f"Ours reaches {share:.0f} % of what selecting with ground truth gains over the "
            f"control ({_signed(differences(results, 'ours', 'control'))} of "
            f"{_signed(bound)} AP on unseen classes)."
        )
    if has_split(results, LABELLED) and (share := share_of_bound(results, LABELLED)) is not None:
        said.append(
            f"Where labelled, {share:.0f} % "
            f"({_signed(differences(results, 'ours', 'control', LABELLED))} of "
            f"{_signed(differences(results, 'gt', 'control', LABELLED))} AP)."
        )
    for other in ("before", "threshold", "distillation", *_OTHERS):
        if gained := differences(results, "ours", other):
            said.append(
                f"Ours minus {label_of(other)}: {_signed(gained)} AP on unseen classes "
                f"(pairs of runs: {len(gained)})."
            )
    for split in kept_splits(results):
        if changed := differences(results, "ours", "before", split):
            said.append(f"Ours, {split} AP after learning: {_signed(changed)}.")
    if bound and mean(bound) <= 0:
        said.append("Selecting with ground truth gains nothing over the control: no share of it.")
    return said


def _signed(values: Sequence[float]) -> str:
    spread = deviation(values)
    return f"{mean(values):+.2f}" + ("" if spread is None else f" ± {spread:.2f}")


def figure(results: Results, path: Path) -> None:
    """Unseen AP against the control and seen AP against before: seeds, mean, standard deviation."""
    reference = "control" if "control" in results else "before"
    names = [name for name in results if name != "before"]
    panels = (
        (f"unseen AP, gain over {label_of(reference)}", reference, "unseen", "tab:blue"),
        ("seen AP, change from before", "before", "seen", "tab:red"),
    )
    chart, axes = pyplot.subplots(
        1, 2, figsize=(9, 1.3 + 0.42 * len(names)), sharey=True, layout="constrained"
    )
    for axis, (title, other, split, colour) in zip(axes, panels, strict=True):
        for place, name in enumerate(reversed(names)):
            values = differences(results, name, other, split)
            if not values:
                continue
            axis.barh(place, mean(values), height=0.6, color=colour, alpha=0.3)
            axis.errorbar(mean(values), place, xerr=deviation(values), color=colour, capsize=3)
            axis.plot(values, [place] * len(values), "o", markersize=4, color=colour, alpha=0.8)
            axis.annotate(
                f"{mean(values):+.1f}", (mean(values), place), xytext=(0, 9), ha="center",
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
        axis.axvline(0, color="0.4", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_yticks(range(len(names)), [label_of(name) for name in reversed(names)])
        axis.set_ylim(-0.6, len(names) - 0.3)
        axis.margins(x=0.15)
        axis.grid(axis="x", alpha=0.3)
    with replacing(path) as aside:
        chart.savefig(aside)
    pyplot.close(chart)


def together(files: Sequence[Path]) -> tuple[dict[str, list[Result]], dict[str, TrainingMasks]]:
    """The methods of several runs as those of one, `before` once, and the quality of their masks.

    Raises:
        GboptError: a file is no result of the comparison, or that of another experiment.
    """
    runs = [_read(path) for path in files]
    for path, run in zip(files, runs, strict=True):
        if other := [key for key in _SAME if run[key] != runs[0][key]]:
            raise GboptError(f"{path}: another {', '.join(other)} than in {files[0]}")
    results: dict[str, list[Result]] = {}
    masks: dict[str, TrainingMasks] = {}
    for name in (*METHODS, *_GONE):
        found = [(n, run["methods"][name]) for n, run in enumerate(runs) if name in run["methods"]]
        if not found:
            continue
        # Methods are compared run by run, seed by seed. A cell's own masks are left out: their mean
        # over the seeds, which the run tells, would else be taken a second time.
        cells = [
            {k: v for k, v in cell.items() if k != "masks"} | {"seed": f"{n}: {cell['seed']}"}
            for n, method in found
            for cell in method["cells"]
        ]
        results[name] = cells[:1] if name == "before" else cells
        known = [method["masks"] for _, method in found for _ in method["cells"] if method["masks"]]
        quality = {key: mean([each[key] for each in known]) for key in known[0]} if known else None
        masks[name] = TrainingMasks(quality=quality)
    return results, masks


def _read(path: Path) -> dict[str, Any]:
    try:
        run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "rows" in run:  # written by version 0.1.0
            run["methods"] = run.pop("rows")
        missing = [key for key in ("methods", *_SAME) if key not in run]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise GboptError(f"{path}: expected a result of the comparison: {error}") from error
    if missing:
        raise GboptError(f"{path}: expected a result of the comparison, it has no {missing[0]!r}")
    return run


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The table of several runs of one experiment.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN.json", action=Distinct)
    parser.add_argument("--figure", type=Path, metavar="SVG")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    results, masks = together(args.runs)
    print(markdown(results, masks), end="")
    if args.figure:
        figure(results, args.figure)


if __name__ == "__main__":
    sys.exit(start(run, parse_arguments()))
