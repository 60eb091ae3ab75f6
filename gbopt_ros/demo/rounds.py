"""The rounds of the demo: select masks in the recording, then learn from them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gbopt_ros.config import Config
from gbopt_ros.demo.data import DemoData, OwnData
from gbopt_ros.evaluation.mask_quality import (
    mask_precision_recall,
    precision_at_recall,
    threshold_curve,
)
from gbopt_ros.evaluation.report_content import (
    ClipEnergies,
    ClipStrip,
    StripFrame,
    ThresholdComparison,
)
from gbopt_ros.io.overlay import draw_masks
from gbopt_ros.io.selection_format import SelectionWriter
from gbopt_ros.learning.round import Learnt, config_of_round
from gbopt_ros.learning.store.store import Store
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import Cues, Proposals, Rle, Selection

log = logging.getLogger(__name__)

ROUNDS = 2  # each but the first selects with the network of the round before
_STRIP_CLIPS = 4  # clips in the report,
_STRIP_FRAMES = 3  # and frames of each


class Clock:
    """Seconds spent in each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        log.info("%s ...", name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)


@dataclass
class Replayed:
    """The parts of a selection that the report shows.

    A frame that two clips share keeps the decision of the first one, as in `SelectionWriter`.
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
            shown, rles = selection.frames[t].frame, selection.frames[t].rles
            pictures = (draw_masks(shown.image, r) for r in (cues.proposals[t].rles, rles))
            frames.append(StripFrame(f"frame {shown.index}", *pictures))
        self.strips.append(ClipStrip(title, tuple(frames)))
        self.energies.append(ClipEnergies(title, tuple(f.energy for f in selection.frames)))


@dataclass(frozen=True)
class Round:
    """One selection and what was learnt from it.

    Attributes:
        comparison: None without labels.
    """

    replayed: Replayed
    comparison: ThresholdComparison | None
    learnt: Learnt

    def to_dict(self) -> dict[str, Any]:
        """The entry of the round in `results.json`, percent."""
        version, quality = self.learnt.version, dict[str, Any]()
        if self.learnt.comparison is not None:
            quality["teacher"] = self.learnt.comparison.to_dict()
        if self.comparison is not None:
            selected = self.comparison.selected
            thresholded = precision_at_recall(self.comparison.curve, selected.recall)
            quality["selected_masks"] = {
                "precision": 100 * selected.precision,
                "recall": 100 * selected.recall,
                "thresholded_precision_at_equal_recall": 100 * thresholded,
            }
        return quality | {
            "masks": sum(len(rles) for rles in self.replayed.selected.values()),
            "masks_learnt": version.manifest["instances"] if version else None,
            "flow_runs": self.replayed.flow_runs,
            "gate": self.learnt.decision.to_dict(),
            "model_version": version.version if version else None,
        }


def learn_in_rounds(
    out: Path, config: Config, data: DemoData | OwnData, clock: Clock, rounds: int = ROUNDS
) -> list[Round]:
    """Run some rounds, in the folders of `replay_of_round`.

    A round that the gate refuses is the last, because the next one would select the same masks. A
    round that selects nothing is not counted; earlier rounds keep what they learnt.
    """
    store, done = Store(out / "store"), list[Round]()
    for number in range(1, rounds + 1):
        folder = replay_of_round(out, number)
        replayed = select_with_current(folder, store, config, data, clock, f"round {number}")
        if not any(replayed.selected.values()):
            more = " more" if done else ""
            log.warning("round %d: no mask was selected, nothing%s is learnt", number, more)
            break
        with clock.step(f"round {number}: learn from the selected masks"):
            learnt = _learn(folder, store, config_of_round(config, number - 1), data)
        done.append(Round(replayed, _comparison(data, replayed), learnt))
        if learnt.version is None:
            break
    return done


def replay_of_round(out: Path, number: int) -> Path:
    """The folder of the masks that the network of `number` - 1 rounds selects."""
    return out / f"replay-{number}"


def select_with_current(
    folder: Path, store: Store, config: Config, data: DemoData | OwnData, clock: Clock, step: str
) -> Replayed:
    """Select masks in the recording with the newest network, and write them like a replay.

    Args:
        step: name of the step that needs them.
    """
    current = store.models.current()
    weights = str(current.path) if current is not None else config.proposal.weights
    selecting = replace(config, proposal=replace(config.proposal, weights=weights))
    with clock.step(f"{step}: select masks in the recording"):
        return _select(folder, selecting, data)


def _select(out: Path, config: Config, data: DemoData | OwnData) -> Replayed:
    source = data.open()
    pipeline, replayed = Pipeline(config), Replayed()
    with (
        SelectionWriter(out, source.name, linker=config.tracks.linker()) as writer,
        tqdm(total=source.count, desc="select", unit="frame", dynamic_ncols=True) as progress,
    ):
        for clip in pipeline.clips(source):
            cues = pipeline.perceive(clip)
            selection = pipeline.select(clip, cues)
            writer.add(selection)
            replayed.add(selection, cues)
            progress.update(len(clip))
        writer.finish(
            source=str(source.path),
            config=config.to_dict(),
            seconds=dict(pipeline.seconds),
            skipped_frames=source.skipped,
        )
    return replayed


def _learn(replay: Path, store: Store, config: Config, data: DemoData | OwnData) -> Learnt:
    store.add(replay, config=config.learning)  # replaces the masks of an earlier round
    return store.learn(config, rehearsal=data.rehearsal, validation=data.validation)


def _comparison(data: DemoData | OwnData, replayed: Replayed) -> ThresholdComparison | None:
    """Selected masks against thresholded proposals, on the selected frames that have labels."""
    gt = data.labels
    if gt is None:
        return None
    truth = {
        image.extra["frame_index"]: gt.rles_by_image[image.id]
        for image in gt.images
        if image.extra["frame_index"] in replayed.selected
    }
    return ThresholdComparison(
        threshold_curve(truth, replayed.proposals), mask_precision_recall(truth, replayed.selected)
    )
