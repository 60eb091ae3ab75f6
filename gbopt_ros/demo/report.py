"""The report of the demo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gbopt_ros.config import Config
from gbopt_ros.demo.data import DemoData, Evaluation
from gbopt_ros.demo.rounds import ROUNDS, Round
from gbopt_ros.evaluation.report_content import MetricsTable, ReportContent, StillTriplet
from gbopt_ros.io.overlay import draw_masks

_STILLS = 6
_SHOWN_SCORE = 0.5  # minimum score of detections on the stills


def demo_report(
    config: Config,
    data: DemoData,
    before: Evaluation,
    after: Evaluation,
    rounds: Sequence[Round],
    results: dict[str, Any],
) -> ReportContent:
    """The content of the report; `results` is that of `results.json`."""
    changes, counts, last = results["ap_change"], results["counts"], rounds[-1]
    return ReportContent(
        title="What was learnt from a recording without labels",
        summary=(
            f"Masks were selected and learnt from {counts['frames']} frames of video without "
            f"labels, in {len(rounds)} of {ROUNDS} rounds. On still images of the same objects of "
            "unseen classes in other places and other light, mask AP went from "
            f"{before.unseen.AP:.1f} to {after.unseen.AP:.1f} "
            f"({format_change(changes['unseen'])}); on seen classes it changed by "
            f"{format_change(changes['seen'])}. ± is the standard error over the stills.",
            *describe_rounds(results["rounds"]),
            "The selection below is that of the last round.",
        ),
        tables=(
            MetricsTable(
                "Unseen classes",
                {"before": before.unseen, "after": after.unseen},
                "held-out stills",
            ),
            MetricsTable(
                "Seen classes", {"before": before.seen, "after": after.seen}, "held-out stills"
            ),
        ),
        clips=tuple(last.replayed.strips),
        stills=_triplets(data, before, after),
        comparison=last.comparison,
        losses=join_losses(each.learnt.log.losses for each in rounds),
        energies=tuple(last.replayed.energies),
        facts={
            "Seconds": results["seconds"],
            "Counts": counts,
            "Model": {
                "versions": ", ".join(
                    each["model_version"] or "refused" for each in results["rounds"]
                ),
                "seed": config.learning.seed,
                "optimiser steps a round": config.learning.iterations,
                "peak memory, MB": round(results["peak_memory_bytes"] / 1e6),
            },
            "Versions": results["versions"],
        },
    )


def describe_rounds(rounds: Sequence[Mapping[str, Any]], planned: int = ROUNDS) -> list[str]:
    """A sentence on each round, from its entry in `results.json`.

    Args:
        planned: maximum number of rounds.
    """
    sentences = []
    for number, each in enumerate(rounds, start=1):
        quality, gate = each.get("selected_masks"), each["gate"]
        learnt = f", {each['masks_learnt']} learnt" if gate["passed"] else ""
        judged = ""
        if quality is not None:
            judged = (
                f"; precision {quality['precision']:.1f} % at a recall of "
                f"{quality['recall']:.1f} %, where thresholded proposals of the same network have "
                f"{quality['thresholded_precision_at_equal_recall']:.1f} %"
            )
        sentences.append(
            f"Round {number}: {each['masks']} masks selected{learnt}{judged}. Gate: "
            f"{'passed' if gate['passed'] else 'refused'}; {gate['reason']}."
        )
        teacher = each.get("teacher")
        if teacher is not None:
            may = "may" if teacher["passed"] else "may not"
            sentences.append(f"It {may} serve in place of its teacher: {teacher['reason']}.")
    if rounds and rounds[-1]["gate"]["passed"] and len(rounds) < planned:
        sentences.append(f"Round {len(rounds) + 1}: no mask was selected, nothing was learnt.")
    return sentences


def format_change(change: Mapping[str, float]) -> str:
    """A change of AP with its standard error."""
    return f"{change['difference']:+.1f} ± {change['standard_error']:.1f}"


def join_losses(losses: Iterable[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """The losses of all rounds, one after the other."""
    joined: dict[str, list[float]] = {}
    for of_round in losses:
        for name, values in of_round.items():
            joined.setdefault(name, []).extend(values)
    return joined


def _triplets(data: DemoData, before: Evaluation, after: Evaluation) -> tuple[StillTriplet, ...]:
    """The first stills of the unseen split in their own order, not chosen by their result."""
    triplets = []
    for image in data.unseen.images[:_STILLS]:
        detections = (
            [
                r["segmentation"]
                for r in evaluation.unseen_results
                if r["image_id"] == image.id and r["score"] >= _SHOWN_SCORE
            ]
            for evaluation in (before, after)
        )
        pixels = data.unseen.load_image(image)
        caption = f"{image.file_name}, detections from score {_SHOWN_SCORE}"
        truth = data.unseen.rles_by_image[image.id]
        triplets.append(
            StillTriplet(caption, *(draw_masks(pixels, rles) for rles in (*detections, truth)))
        )
    return tuple(triplets)
