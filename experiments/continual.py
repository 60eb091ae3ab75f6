"""Several rounds over a stream in which new objects arrive, and a poisoned round.

    python -m experiments.continual --out continual --environment 101
    python -m experiments.continual --out continual

In an environment, one more of its objects arrives in every round. Without --environment, round r
shows the kinds of the first r groups, each time other objects of these kinds in other scenes. Each
round replays its recording with the current model, adds the selected masks to a training set with a
byte budget that is smaller than the stream, learns, passes the gate and publishes. After it: unseen
AP on stills of everything and on stills of what was there so far, seen AP, and the number of frames
that the training set kept of each round.

Then the last round again, poisoned: every image gets the masks of another scene. The gate must
refuse that, for the round alone among good earlier ones ("round") and for the whole training set
("set"). Exit status 1 if it let one pass.

A run that is started again goes on after the last complete round. Writes OUT/NAME.json, .md and
.svg, NAME `continual` or `continual-environment-SEED`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from tqdm import tqdm

from experiments import tabletop
from experiments.cache import digest, digest_of_stills
from experiments.command_line import config_of, cores, make_parser, run_facts, start
from experiments.tabletop import (
    ENVIRONMENT_SPLITS,
    Recording,
    environment_config,
    first,
    generate_missing,
    recording_of,
    render,
)
from experiments.training_masks import MASK_FIELDS
from gbopt_ros.config import Config
from gbopt_ros.evaluation.evaluate import evaluate
from gbopt_ros.io.datasets.coco import CocoDataset, load_coco, load_coco_dir
from gbopt_ros.io.files import (
    make_folder,
    replacing,
    replacing_folder,
    temporary_folder,
    write_text,
)
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.selection_format import SelectedFrame, SelectionWriter, read_selection
from gbopt_ros.learning.round import Learnt
from gbopt_ros.learning.store.store import Store
from gbopt_ros.models.weights import sha256_of
from gbopt_ros.perception.load import background_weights, proposal_weights
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.simulation.environment import ENVIRONMENT_OBJECTS
from gbopt_ros.simulation.objects import UNSEEN

matplotlib.use("Agg")
from matplotlib import pyplot

_CLIPS, _STILLS = 8, 60  # of each round
_QUICK = ("learning.iterations=1", "learning.batch_size=4", "clip.length=3")
_QUICK_STILLS = 3
_QUICK_WINDOWS = ((0.65, 6.15), (12.45, 17.95))  # seconds: three frames each of two scenes
POISONED = ("round", "set")


@dataclass(frozen=True)
class Round:
    """One round of the stream.

    Attributes:
        shown: kinds of object, or objects of the environment, that are there so far.
        recording: recording that is learnt from.
        stills: labelled stills of these.
    """

    shown: tuple[str, ...]
    recording: Recording
    stills: CocoDataset


@dataclass(frozen=True)
class Stills(tabletop.Stills):
    """Labelled stills that all rounds share; `validation` is for the gate."""

    validation: CocoDataset

    @classmethod
    def load(cls, count: int | None = None, unseen: Path | None = None) -> Stills:
        """Those that come with the demo, `count` of each; `unseen` in place of its unseen ones."""
        names = ("unseen-test", "seen-test", "rehearsal", "validation")
        folders = [find_resource(f"demo/{name}") for name in names]
        sets = [load_coco_dir(folder) for folder in (unseen or folders[0], *folders[1:])]
        return cls(*(stills if count is None else first(stills, count) for stills in sets))


def groups(count: int) -> list[tuple[str, ...]]:
    """The unseen kinds in groups, toys and robots spread over all of them."""
    return [tuple(kind.name for kind in UNSEEN[g::count]) for g in range(count)]


def stream(out: Path, seed: int, rounds: int) -> list[Round]:
    """The rounds; what is missing of their recordings and stills is rendered."""
    found = []
    shown: tuple[str, ...] = ()
    for number, group in enumerate(groups(rounds), start=1):
        shown += group
        folder = out / f"stream-{seed}" / f"round-{number}-of-{rounds}"
        render(folder, ["unseen-train"], seed + number, shown, _CLIPS)
        render(folder, ["unseen-test"], seed + number, shown, _CLIPS, _STILLS)
        found.append(Round(shown, recording_of(folder), load_coco_dir(folder / "unseen-test")))
    return found


def stills_of_environment(out: Path, seed: int) -> Path:
    """Labelled stills of all objects of an environment, rendered where they are missing."""
    folder = out / f"environment-{seed}"
    generate_missing(folder, ["unseen-test"], environment_config(seed, cores()))
    return folder / "unseen-test"


def environment_stream(out: Path, seed: int, rounds: int) -> list[Round]:
    """The rounds of an environment, one more object in each; what is missing is rendered."""
    found = []
    for number in range(1, rounds + 1):
        things = ENVIRONMENT_OBJECTS - rounds + number
        folder = out / f"environment-{seed}" / f"round-{number}-of-{rounds}"
        config = replace(
            environment_config(seed, cores()),
            object_count=things,
            count=_STILLS,
            clips=_CLIPS,
            first=(number - 1) * _CLIPS,
        )
        generate_missing(folder, ENVIRONMENT_SPLITS, config)
        shown = tuple(f"thing {n}" for n in range(1, things + 1))
        found.append(Round(shown, recording_of(folder), load_coco_dir(folder / "unseen-test")))
    return found


def few_rounds(stills: Stills) -> list[Round]:
    """A few frames of the demo recording, for smoke tests; nothing is rendered."""
    recording, labels = find_resource("demo/recording"), find_resource("demo/recording.json")
    return [
        Round((), Recording(recording, labels, start, end), stills.unseen)
        for start, end in _QUICK_WINDOWS
    ]


class Continual:
    """The rounds of one run, each a folder that appears when the round is complete.

    Args:
        folder: folder of the run; its name holds the hash of its inputs.
    """

    def __init__(self, folder: Path, rounds: Sequence[Round], stills: Stills, config: Config):
        self._folder, self._rounds, self._stills, self._config = folder, rounds, stills, config

    def run(self) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
        """The results of the seed network, of every round, and of the poisoned ones."""
        make_folder(self._folder)
        before = self._once("before.json", self._judge_seed)
        results = []
        for number in tqdm(range(1, len(self._rounds) + 1), "rounds", unit="round"):
            folder = self._round_folder(number)
            if not folder.exists():
                self._learn_round(number)
            results.append(json.loads((folder / "result.json").read_text(encoding="utf-8")))
        poisoned = {
            kind: self._once(f"poisoned-{kind}.json", partial(self._poison, kind))
            for kind in POISONED
        }
        return before, results, poisoned

    def _judge_seed(self) -> dict[str, Any]:
        weights = proposal_weights(self._config)
        return {
            "unseen": self._ap(weights, self._stills.unseen),
            "seen": self._ap(weights, self._stills.seen),
            "so_far": [self._ap(weights, each.stills) for each in self._rounds],
        }

    def _learn_round(self, number: int) -> None:
        begin = time.perf_counter()
        this = self._rounds[number - 1]
        with replacing_folder(self._round_folder(number)) as aside:
            aside.mkdir()
            store = self._store_after(number - 1, aside)
            self._replay(aside / "replay", number, store)
            (added,) = store.add(aside / "replay", config=self._config.learning)
            learnt = self._learn(store, number)
            with store.training_set(self._config.learning) as training_set:
                training_set.export_coco(aside / "kept.json")
                kept, size = Counter(recordings(aside / "kept.json")), training_set.bytes
            weights = self._weights(store)
            result = {
                "round": number,
                "shown": this.shown,
                "gate": learnt.decision.to_dict(),
                "version": learnt.version.version if learnt.version else None,
                "frames_added": added,
                "frames_kept": dict(sorted(kept.items())),
                "bytes": size,
                "unseen": self._ap(weights, self._stills.unseen),
                "so_far": self._ap(weights, this.stills),
                "seen": self._ap(weights, self._stills.seen),
                "seconds": time.perf_counter() - begin,
            }
            (aside / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")

    def _poison(self, kind: str) -> dict[str, Any]:
        """The gate's decision on the last round, or on all rounds, with shuffled masks."""
        last = len(self._rounds)
        chosen = [last] if kind == "round" else range(1, last + 1)
        with temporary_folder(self._folder, "poisoned") as aside:
            store = self._store_after(last - 1, aside)
            if kind == "set":
                shutil.rmtree(aside / "store" / "training", ignore_errors=True)
            with store.training_set(self._config.learning) as training_set:
                for number in chosen:
                    replayed = read_selection(self._round_folder(number) / "replay")
                    training_set.add(shuffled(replayed))
            return self._learn(store, last).decision.to_dict()

    # Steps of a round.

    def _store_after(self, number: int, aside: Path) -> Store:
        """A copy of the store that the rounds up to this one left."""
        if number:
            shutil.copytree(self._round_folder(number) / "store", aside / "store")
        return Store(aside / "store")

    def _replay(self, out: Path, number: int, store: Store) -> None:
        proposal = replace(self._config.proposal, weights=str(self._weights(store)))
        pipeline = Pipeline(replace(self._config, proposal=proposal))
        source = self._rounds[number - 1].recording.open()
        title = f"round {number}: select"
        with (
            SelectionWriter(out, f"round-{number}") as writer,
            tqdm(total=source.count, desc=title, unit="frame", dynamic_ncols=True) as progress,
        ):
            for selection in pipeline.run(source):
                writer.add(selection)
                progress.update(len(selection))
            writer.finish(seconds=dict(pipeline.seconds))

    def _learn(self, store: Store, number: int) -> Learnt:
        learning = replace(self._config.learning, seed=self._config.learning.seed + number)
        return store.learn(
            replace(self._config, learning=learning),
            rehearsal=self._stills.rehearsal,
            validation=self._stills.validation,
        )

    def _weights(self, store: Store) -> Path:
        current = store.models.current()
        return current.path if current else proposal_weights(self._config)

    def _ap(self, weights: Path, stills: CocoDataset) -> float:
        return evaluate(weights, stills, self._config).AP

    # Files.

    def _round_folder(self, number: int) -> Path:
        return self._folder / f"round-{number}"

    def _once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self._folder / name
        if not path.exists():
            write_text(path, json.dumps(make(), indent=1))
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return result


def recordings(coco: Path) -> list[str]:
    """The recording of every frame of an exported training set."""
    return [image.extra["recording"].rsplit("/", 1)[-1] for image in load_coco(coco).images]


def shuffled(frames: Iterable[SelectedFrame]) -> list[SelectedFrame]:
    """Every frame with the masks of the frame half a recording away: of another scene."""
    found = list(frames)
    donors = found[len(found) // 2 :] + found[: len(found) // 2]
    return [
        replace(frame, **{name: getattr(donor, name) for name in MASK_FIELDS})
        for frame, donor in zip(found, donors, strict=True)
    ]


def markdown(
    before: dict[str, Any], results: Sequence[dict[str, Any]], poisoned: dict[str, Any]
) -> str:
    """A row a round, percent, and what became of the poisoned ones."""
    header = [
        "round", "new version", "unseen AP, all", "shown so far", "seed network there",
        "seen AP", "frames kept, by round", "MB",
    ]  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|---|---" + "|---:" * (len(header) - 2) + "|"]
    lines.append(f"| 0 | seed network | {before['unseen']:.1f} | | | {before['seen']:.1f} | | |")
    for result, seed in zip(results, before["so_far"], strict=True):
        kept = " + ".join(str(count) for count in result["frames_kept"].values())
        lines.append(
            f"| {result['round']} | {result['version'] or 'refused'} | {result['unseen']:.1f} | "
            f"{result['so_far']:.1f} | {seed:.1f} | {result['seen']:.1f} | {kept} | "
            f"{result['bytes'] / 1e6:.2f} |"
        )
    lines.append("")
    for kind, decision in poisoned.items():
        verdict = "PASSED" if decision["passed"] else "refused"
        lines.append(f"- Poisoned {kind}: {verdict}; {decision['reason']}.")
    return "\n".join(lines) + "\n"


def figure(before: dict[str, Any], results: Sequence[dict[str, Any]], path: Path) -> None:
    """AP over the rounds, and what the training set holds of which round."""
    chart, (unseen, seen, kept) = pyplot.subplots(
        1, 3, figsize=(11, 3.4), layout="constrained", gridspec_kw={"width_ratios": [3, 2, 2]}
    )
    numbers = [0, *(r["round"] for r in results)]
    unseen.plot(numbers, [before["unseen"], *(r["unseen"] for r in results)], "o-", label="all")
    unseen.plot(numbers[1:], [r["so_far"] for r in results], "s-", label="shown so far")
    unseen.plot(
        numbers[1:], before["so_far"], "s--", color="0.6", label="shown so far, seed network"
    )
    unseen.set_title("unseen AP", fontsize=10)
    unseen.legend(fontsize=8)
    seen.plot(numbers, [before["seen"], *(r["seen"] for r in results)], "o-", color="tab:red")
    low, high = seen.get_ylim()
    seen.set_ylim(min(low, high - 4), max(high, low + 2))  # small changes look small
    seen.set_title("seen AP", fontsize=10)
    bottom = [0] * len(results)
    names = sorted({name for r in results for name in r["frames_kept"]})
    for name in names:
        counts = [r["frames_kept"].get(name, 0) for r in results]
        kept.bar(numbers[1:], counts, bottom=bottom, label=name)
        bottom = [b + c for b, c in zip(bottom, counts, strict=True)]
    kept.set_title("frames kept, by round", fontsize=10)
    kept.legend(fontsize=7)
    for axis in (unseen, seen, kept):
        axis.set_xlabel("round")
        axis.set_xticks(numbers)
        axis.grid(alpha=0.3)
    for result in results:
        if result["version"] is None:
            place = (result["round"], result["unseen"])
            unseen.annotate("refused", place, (0, -14), textcoords="offset points", fontsize=8)
    with replacing(path) as aside:
        chart.savefig(aside)
    pyplot.close(chart)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, "benchmark-output/continual")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--world-seed", type=int, default=50, help="seed of the stream's scenes")
    parser.add_argument(
        "--environment",
        type=int,
        metavar="SEED",
        help="an environment in place of a stream of other scenes",
    )
    parser.add_argument("--max-bytes", type=int, default=4_000_000, help="of the training set")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test: the gate's verdict is not judged"
    )
    args = parser.parse_args(arguments)
    most = len(UNSEEN) if args.environment is None else ENVIRONMENT_OBJECTS - 1
    if not 2 <= args.rounds <= most:
        parser.error(f"--rounds: expected 2 to {most}, got {args.rounds}")
    other_scenes = args.quick or args.world_seed != parser.get_default("world_seed")
    if args.environment is not None and other_scenes:
        parser.error("--environment: has scenes of its own, give neither --quick nor --world-seed")
    if args.quick:
        args.set, args.max_bytes = [*args.set, *_QUICK], 150_000
    return args


def run(args: argparse.Namespace) -> int:
    """All rounds and the report; returns 1 if the gate let a poisoned round pass."""
    config = config_of(args, f"learning.max_bytes={args.max_bytes}")
    if args.quick:
        stills = Stills.load(_QUICK_STILLS)
        rounds = few_rounds(stills)
    elif args.environment is not None:
        stills = Stills.load(unseen=stills_of_environment(args.out, args.environment))
        rounds = environment_stream(args.out, args.environment, args.rounds)
    else:
        stills, rounds = Stills.load(), stream(args.out, args.world_seed, args.rounds)
    inputs = [
        config,
        [sha256_of(path) for path in (proposal_weights(config), *background_weights(config))],
        [(r.recording.digest, digest_of_stills(r.stills)) for r in rounds],
        [digest_of_stills(s) for s in vars(stills).values() if s is not None],
    ]
    folder = args.out / f"run-{digest(inputs)[:12]}"
    before, results, poisoned = Continual(folder, rounds, stills, config).run()
    table = markdown(before, results, poisoned)
    report = run_facts(config) | {"before": before, "rounds": results, "poisoned": poisoned}
    name = "continual" if args.environment is None else f"continual-environment-{args.environment}"
    write_text(args.out / f"{name}.json", json.dumps(report, indent=1) + "\n")
    write_text(args.out / f"{name}.md", table)
    figure(before, results, args.out / f"{name}.svg")
    print(table)
    passed = [kind for kind, decision in poisoned.items() if decision["passed"]]
    if passed and not args.quick:
        print(f"the gate let pass: poisoned {', poisoned '.join(passed)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(start(run, parse_arguments()))
