"""The main job on one recording: evaluate, select and learn twice, evaluate again, report."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gbopt_ros.config import Config, load_config
from gbopt_ros.evaluation.coco_metrics import InstanceMetrics, paired_difference
from gbopt_ros.evaluation.evaluate import evaluate_network, evaluation_config
from gbopt_ros.evaluation.mask_quality import (
    mask_precision_recall,
    precision_at_recall,
    threshold_curve,
)
from gbopt_ros.evaluation.report import (
    ClipEnergies,
    ClipStrip,
    MetricsTable,
    ReportContent,
    StillTriplet,
    StripFrame,
    ThresholdComparison,
    write_report,
)
from gbopt_ros.evaluation.results import CocoResult
from gbopt_ros.io.datasets.coco import CocoDataset, load_coco, load_coco_dir
from gbopt_ros.io.files import write_text
from gbopt_ros.io.overlay import draw_masks
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.selection_format import ReplayWriter, peak_memory, read_replay, versions
from gbopt_ros.io.sources import open_source
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.learning.round import Learnt, config_of_round, learn
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.models.device import resolve_device
from gbopt_ros.perception.load import proposal_weights
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.simulation.dataset import (
    ENVIRONMENT_SPLITS,
    RECORDING_NAME,
    environment_config,
    generate,
)
from gbopt_ros.simulation.simulator import require_pybullet
from gbopt_ros.structures import Cues, GboptError, Proposals, Rle, Selection

log = logging.getLogger(__name__)

_SHOWN = {
    "environment": "of a simulated environment, in which the same few things come again",
    "bundled": "the recording that comes with the package, other things in every clip",
}
ENVIRONMENT_SEED = 101  # of the environment that the demo learns in
ROUNDS = 2  # each but the first selects with the network that the one before learnt
_STRIP_CLIPS = 4  # clips shown in the report,
_STRIP_FRAMES = 3  # frames of each,
_STILLS = 6  # and stills
_SHOWN_SCORE = 0.5  # of detections drawn on the stills
_MARK = ".gbopt-demo"  # an empty file in a folder that a demo made
_REPLAYS = tuple(f"replay-{number}" for number in range(1, ROUNDS + 1))
# By this demo or by one of an earlier version, which had one round.
_WRITTEN = {
    "environment",
    "replay",
    *_REPLAYS,
    "store",
    "overlay.mp4",
    "report.html",
    "results.json",
}
_QUICK = ("learning.iterations=15",)
_QUICK_STILLS = 30
_QUICK_SECONDS = 25.0  # of the recording


@dataclass(frozen=True)
class _Assets:
    """What the demo learns from and is judged on."""

    name: str
    recording: Path
    recording_truth: CocoDataset
    unseen: CocoDataset
    seen: CocoDataset
    rehearsal: CocoDataset
    validation: CocoDataset

    @classmethod
    def load(cls, quick: bool, environment: Path | None) -> _Assets:
        """Seen data, and a recording and stills of unseen objects: a rendered environment's or our own."""
        if environment is None:
            recording, unseen = (find_resource(f"demo/{n}") for n in ("recording", "unseen-test"))
            labels = recording.with_suffix(".json")
        else:
            recording, unseen = (
                environment / "unseen-train" / RECORDING_NAME,
                environment / "unseen-test",
            )
            labels = environment / "unseen-train" / "annotations.json"

        def few(dataset: CocoDataset) -> CocoDataset:
            return replace(dataset, images=dataset.images[:_QUICK_STILLS]) if quick else dataset

        seen, rehearsal, validation = (
            load_coco_dir(find_resource(f"demo/{name}"))
            for name in ("seen-test", "rehearsal", "validation")
        )
        return cls(
            name="bundled" if environment is None else "environment",
            recording=recording,
            recording_truth=load_coco(labels),
            unseen=few(load_coco_dir(unseen)),
            seen=few(seen),
            rehearsal=rehearsal,
            validation=few(validation),
        )


@dataclass
class _Replayed:
    """What the report needs of the replay; a few frames of it, not all.

    A frame that two clips share is the first one's, as in what is written.
    """

    proposals: dict[int, Proposals] = field(default_factory=dict)
    selected: dict[int, tuple[Rle, ...]] = field(default_factory=dict)
    strips: list[ClipStrip] = field(default_factory=list)
    energies: list[ClipEnergies] = field(default_factory=list)
    flow_runs: int = 0

    def add(self, selection: Selection, cues: Cues) -> None:
        for frame, proposals in zip(selection.frames, cues.proposals, strict=True):
            self.proposals.setdefault(frame.frame.index, proposals)
            self.selected.setdefault(frame.frame.index, frame.rles)
        self.flow_runs += selection.flow_runs
        if len(self.strips) == _STRIP_CLIPS:
            return
        title = f"clip {selection.clip_id}"
        chosen = np.linspace(0, len(selection) - 1, min(_STRIP_FRAMES, len(selection)))
        frames = []
        for t in sorted({int(i) for i in chosen}):
            frame = selection.frames[t]
            frames.append(
                StripFrame(
                    f"frame {frame.frame.index}",
                    draw_masks(frame.frame.image, cues.proposals[t].rles),
                    draw_masks(frame.frame.image, frame.rles),
                )
            )
        self.strips.append(ClipStrip(title, tuple(frames)))
        self.energies.append(ClipEnergies(title, tuple(f.energy for f in selection.frames)))


@dataclass(frozen=True)
class _Round:
    """One selection and what was learnt from it."""

    replayed: _Replayed
    comparison: ThresholdComparison
    learnt: Learnt

    def to_dict(self) -> dict[str, Any]:
        """What `results.json` tells of it, percent."""
        quality, version = self.comparison.selected, self.learnt.version
        return {
            "selected_masks": {
                "precision": 100 * quality.precision,
                "recall": 100 * quality.recall,
                "thresholded_precision_at_equal_recall": 100
                * precision_at_recall(self.comparison.curve, quality.recall),
            },
            "masks": sum(len(rles) for rles in self.replayed.selected.values()),
            "masks_learnt": version.manifest["instances"] if version else None,
            "flow_runs": self.replayed.flow_runs,
            "gate": self.learnt.decision.to_dict(),
            "model_version": version.version if version else None,
        }


@dataclass(frozen=True)
class _Evaluation:
    """Metrics and detections on both splits."""

    unseen: InstanceMetrics
    seen: InstanceMetrics
    unseen_results: list[CocoResult]
    seen_results: list[CocoResult]


class _Clock:
    """Seconds spent in each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        log.info("%s ...", name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)


def demo_config(quick: bool, seed: int, overrides: tuple[str, ...] = ()) -> Config:
    """The configuration of the demo: the defaults, the seed, and overrides."""
    return load_config(None, [f"learning.seed={seed}", *(_QUICK if quick else ()), *overrides])


def run_demo(
    out: Path, config: Config, *, quick: bool = False, environment: int | None = None
) -> dict[str, Any]:
    """Run everything and write `report.html`, `overlay.mp4`, `results.json` and the stores.

    Args:
        out: a folder that this function wrote before is replaced.
        config: from `demo_config`.
        quick: part of the recording and of the stills, few steps: shows that it works, its
            numbers mean little.
        environment: the seed of an environment, which is rendered; the bundled recording without one.

    Returns:
        What `results.json` holds.

    Raises:
        GboptError: `out` holds something else, or cannot be written, or there is no simulator to
            render an environment with.
    """
    if environment is not None:
        require_pybullet()  # before a demo that is there is replaced
    _prepare(out)
    clock, rendered = _Clock(), None
    if environment is not None:
        rendered = out / "environment"
        with clock.step("render an environment"):
            generate(
                rendered, ENVIRONMENT_SPLITS, environment_config(environment, os.cpu_count() or 1)
            )
    assets = _Assets.load(quick, rendered)
    with clock.step("evaluate the seed network"):
        before = _evaluate(proposal_weights(config), config, assets)
    rounds = _learn_in_rounds(out, config, assets, quick, clock)
    shutil.copyfile(out / _REPLAYS[len(rounds) - 1] / "overlay.mp4", out / "overlay.mp4")
    learnt = ModelStore(out / "store").current()
    with clock.step("evaluate the new network"):
        after = _evaluate(learnt.path, config, assets) if learnt is not None else before
    results = _results(config, assets, before, after, rounds, clock, environment)
    write_report(out / "report.html", _report(config, assets, before, after, rounds, results))
    write_text(out / "results.json", json.dumps(results, indent=2))
    return results


def _prepare(out: Path) -> None:
    """An empty folder; one that holds nothing but a demo, whole or broken off, is replaced."""
    try:
        names = {path.name for path in out.iterdir()} if out.exists() else set()
        visible = {name for name in names if not name.startswith(".")}
        if names and (_MARK not in names or not visible <= _WRITTEN):
            raise GboptError(f"{out}: holds something else than a demo; choose another --out")
        if names:
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / _MARK).touch()
    except OSError as error:
        raise GboptError(f"{out}: cannot be used ({error.strerror})") from error


def _evaluate(weights: Path, config: Config, assets: _Assets) -> _Evaluation:
    network = MaskRcnnProposals.from_file(
        weights, evaluation_config(config).proposal, resolve_device(config.device)
    )
    unseen, unseen_results = evaluate_network(network, assets.unseen)
    seen, seen_results = evaluate_network(network, assets.seen)
    return _Evaluation(unseen, seen, unseen_results, seen_results)


def _learn_in_rounds(
    out: Path, config: Config, assets: _Assets, quick: bool, clock: _Clock
) -> list[_Round]:
    """All rounds; one that the gate refused is the last, since the next would select the same.

    A round in which nothing is selected ends them, too; what those before it learnt stays.
    """
    store = ModelStore(out / "store")
    rounds: list[_Round] = []
    for number, folder in enumerate(_REPLAYS, start=1):
        current = store.current()
        weights = str(current.path) if current is not None else config.proposal.weights
        selecting = replace(config, proposal=replace(config.proposal, weights=weights))
        with clock.step(f"round {number}: select masks in the recording"):
            replayed = _replay(out / folder, selecting, assets, quick)
        if rounds and not any(replayed.selected.values()):
            log.warning("round %d: no mask was selected, nothing more is learnt", number)
            break
        with clock.step(f"round {number}: learn from the selected masks"):
            learnt = _learn(out / folder, store, config_of_round(config, number - 1), assets)
        rounds.append(_Round(replayed, _comparison(assets, replayed), learnt))
        if learnt.version is None:
            break
    return rounds


def _replay(out: Path, config: Config, assets: _Assets, quick: bool) -> _Replayed:
    source = open_source(assets.recording, end=_QUICK_SECONDS if quick else None)
    pipeline, replayed = Pipeline(config), _Replayed()
    with (
        ReplayWriter(out, source.name) as writer,
        tqdm(total=source.count, desc="select", unit="frame", dynamic_ncols=True) as progress,
    ):
        for clip in pipeline.clips(source):
            cues = pipeline.perceive(clip)
            selection = pipeline.select(clip, cues)
            writer.add(selection)
            replayed.add(selection, cues)
            progress.update(len(clip))
        writer.finish(
            source=str(assets.recording),
            config=config.to_dict(),
            seconds=dict(pipeline.seconds),
            skipped_frames=source.skipped,
        )
    return replayed


def _learn(replay: Path, store: ModelStore, config: Config, assets: _Assets) -> Learnt:
    learning = config.learning
    with TrainingSet(store.root / "training", learning.max_bytes, learning.policy) as training_set:
        training_set.add(read_replay(replay))  # in place of what an earlier round selected
        return learn(
            training_set, store, config, rehearsal=assets.rehearsal, validation=assets.validation
        )


def _comparison(assets: _Assets, replayed: _Replayed) -> ThresholdComparison:
    """Selected masks against thresholded proposals, on the frames that were replayed."""
    gt = assets.recording_truth
    truth = {
        image.extra["frame_index"]: gt.rles_by_image[image.id]
        for image in gt.images
        if image.extra["frame_index"] in replayed.selected
    }
    return ThresholdComparison(
        threshold_curve(truth, replayed.proposals), mask_precision_recall(truth, replayed.selected)
    )


def _results(
    config: Config,
    assets: _Assets,
    before: _Evaluation,
    after: _Evaluation,
    rounds: Sequence[_Round],
    clock: _Clock,
    environment: int | None,
) -> dict[str, Any]:
    changes = {
        "unseen": paired_difference(assets.unseen, before.unseen_results, after.unseen_results),
        "seen": paired_difference(assets.seen, before.seen_results, after.seen_results),
    }
    return {
        "unseen": {"before": before.unseen.to_dict(), "after": after.unseen.to_dict()},
        "seen": {"before": before.seen.to_dict(), "after": after.seen.to_dict()},
        "ap_change": {
            split: {"difference": difference, "standard_error": error}
            for split, (difference, error) in changes.items()
        },
        "seconds": clock.seconds | {"total": round(sum(clock.seconds.values()), 2)},
        "rounds": [each.to_dict() for each in rounds],
        "counts": {
            "frames": len(rounds[-1].replayed.selected),
            "unseen_stills": len(assets.unseen),
            "seen_stills": len(assets.seen),
        },
        "recording": assets.name,
        "environment": environment,
        "seed": config.learning.seed,
        "peak_memory_bytes": peak_memory(),
        "versions": versions(),
    }


def told_of_rounds(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence on each round, of what `results.json` has of it."""
    told = []
    for number, each in enumerate(rounds, start=1):
        quality, gate = each["selected_masks"], each["gate"]
        learnt = f", {each['masks_learnt']} learnt" if gate["passed"] else ""
        told.append(
            f"Round {number}: {each['masks']} masks selected{learnt}; precision "
            f"{quality['precision']:.1f} % at a recall of {quality['recall']:.1f} %, where "
            "proposals of the same network, thresholded, have "
            f"{quality['thresholded_precision_at_equal_recall']:.1f} %. Gate: "
            f"{'passed' if gate['passed'] else 'refused'}; {gate['reason']}."
        )
    if rounds[-1]["gate"]["passed"] and len(rounds) < ROUNDS:
        told.append(f"Round {len(rounds) + 1}: no mask was selected, nothing was learnt.")
    return told


def change_in_words(change: dict[str, float]) -> str:
    """A change of AP with its standard error."""
    return f"{change['difference']:+.1f} ± {change['standard_error']:.1f}"


def _report(
    config: Config,
    assets: _Assets,
    before: _Evaluation,
    after: _Evaluation,
    rounds: Sequence[_Round],
    results: dict[str, Any],
) -> ReportContent:
    changes, counts, last = results["ap_change"], results["counts"], rounds[-1]
    return ReportContent(
        title="What was learnt from a recording without labels",
        summary=(
            f"From {counts['frames']} frames of video with no label ({_SHOWN[assets.name]}), "
            f"masks were selected and learnt ({len(rounds)} of {ROUNDS} rounds). On still images "
            "of objects of unseen classes, mask AP went from "
            f"{before.unseen.AP:.1f} to {after.unseen.AP:.1f} "
            f"({change_in_words(changes['unseen'])}); on seen classes it changed by "
            f"{change_in_words(changes['seen'])}. ± is the standard error over the stills.",
            *told_of_rounds(results["rounds"]),
            "What is shown of a selection below is of the last round.",
        ),
        tables=tuple(
            MetricsTable(title, {"before": old, "after": new}, note)
            for title, old, new, note in (
                ("Unseen classes", before.unseen, after.unseen, "held-out stills"),
                ("Seen classes", before.seen, after.seen, "held-out stills"),
            )
        ),
        clips=tuple(last.replayed.strips),
        stills=_triplets(assets, before, after),
        comparison=last.comparison,
        losses=_joined(each.learnt.log.losses for each in rounds),
        energies=tuple(last.replayed.energies),
        facts={
            "Seconds": results["seconds"],
            "Counts": results["counts"],
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


def _joined(losses: Iterable[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """The losses of all rounds, one after the other."""
    joined: dict[str, list[float]] = {}
    for of_round in losses:
        for name, values in of_round.items():
            joined.setdefault(name, []).extend(values)
    return joined


def _triplets(assets: _Assets, before: _Evaluation, after: _Evaluation) -> tuple[StillTriplet, ...]:
    """The first stills of the unseen split, in its own order: not chosen by their result."""

    def shown(evaluation: _Evaluation, image_id: int) -> list[CocoResult]:
        return [
            r
            for r in evaluation.unseen_results
            if r["image_id"] == image_id and r["score"] >= _SHOWN_SCORE
        ]

    triplets = []
    for image in assets.unseen.images[:_STILLS]:
        pixels = assets.unseen.load_image(image)
        old, new = shown(before, image.id), shown(after, image.id)
        triplets.append(
            StillTriplet(
                f"{image.file_name}, detections from score {_SHOWN_SCORE}",
                draw_masks(pixels, [r["segmentation"] for r in old]),
                draw_masks(pixels, [r["segmentation"] for r in new]),
                draw_masks(pixels, assets.unseen.rles_by_image[image.id]),
            )
        )
    return tuple(triplets)
