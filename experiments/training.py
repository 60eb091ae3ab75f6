"""Trains and judges the cells of an experiment, one method and seed each, in processes."""

from __future__ import annotations

import multiprocessing
import os
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.cache import Cache, digest, digest_of_weights
from experiments.command_line import single_threaded
from experiments.recordings import networks_of
from experiments.tabletop import Stills
from experiments.training_masks import TrainingMasks, inputs_of, label_of
from gbopt_ros.config import Config
from gbopt_ros.evaluation.coco_metrics import evaluate_instances
from gbopt_ros.evaluation.evaluate import evaluate_network, evaluation_config
from gbopt_ros.learning.data.datasets import CocoInstances
from gbopt_ros.learning.round import config_of_round
from gbopt_ros.learning.training.fine_tuning import fine_tune
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.device import resolve_device
from gbopt_ros.models.weights import save_weights
from gbopt_ros.perception.load import proposal_weights
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import GboptError

_POLL_S = 0.3
# Settings of learning that no training depends on, or that the digest of the masks covers.
_ELSEWHERE = ("max_bytes", "policy", "cross_clip_confidence", "min_confidence", "keep_versions")

Result = dict[str, Any]
OnDone = Callable[["Cell", Result], None]
OnReport = Callable[[dict[str, list[Result]]], None]


@dataclass(frozen=True)
class Cell:
    """One fine-tuning and its evaluation.

    Attributes:
        masks: training masks of the first round.
        learns: False for the network as it was.
        shown: ids of unseen stills whose detections the result keeps.
        rounds: number of rounds of `learning.iterations` steps. Each but the first learns masks
            that the network of the round before selects. There is no gate between them.
        select: gives the masks of a method with the networks of a configuration; for rounds.
    """

    method: str
    seed: int
    masks: TrainingMasks
    config: Config
    learns: bool = True
    shown: tuple[int, ...] = ()
    rounds: int = 1
    select: Callable[[str, Config], TrainingMasks] | None = None

    @property
    def steps(self) -> int:
        return self.rounds * self.config.learning.iterations if self.learns else 0

    def inputs(self, stills: dict[str, str]) -> dict[str, Any]:
        """All that the result depends on; `stills` are the digests of `inputs_of`."""
        learning = asdict(self.config.learning)
        kept = {
            key: value
            for key, value in learning.items()
            if key not in _ELSEWHERE and not key.startswith("gate_")
        }
        return {
            "parent": digest_of_weights(proposal_weights(self.config)),
            "learning": kept if self.learns else None,
            "masks": self.masks.digest,
            "evaluation": asdict(evaluation_config(self.config).proposal) | {"weights": ""},
            **({"shown": self.shown} if self.shown else {}),
            **({"rounds": self._rounds()} if self.learns and self.rounds > 1 else {}),
            **stills,
        }

    def configs(self) -> list[Config]:
        """The configuration of every round."""
        return [config_of_round(self.config, number) for number in range(self.rounds)]

    def _rounds(self) -> list[Any]:
        """What later rounds depend on: all that selects, for a method that has masks."""
        learnt = [asdict(config.learning) for config in self.configs()]
        if self.masks.folder is None:
            return learnt
        return [*learnt, self.method, self.config.to_dict(), networks_of(self.config)]


def run_cell(cell: Cell, stills: Stills, on_step: Callable[[], None]) -> Result:
    """Metrics of a cell on every test set, percent, and the seconds that it took."""
    start = time.perf_counter()
    device = resolve_device(cell.config.device)
    network, info = load_mask_rcnn(proposal_weights(cell.config))
    masks = [cell.masks]
    with tempfile.TemporaryDirectory() as folder:
        for number, config in enumerate(cell.configs() if cell.learns else ()):
            if number:
                path = Path(folder) / f"{number}.safetensors"
                save_weights(path, network, info)
                selecting = replace(config, proposal=replace(config.proposal, weights=str(path)))
                assert cell.select is not None
                masks.append(cell.select(cell.method, selecting))
            network, _ = fine_tune(
                network,
                masks[-1].dataset(config),
                CocoInstances(stills.rehearsal),
                config.learning,
                device,
                on_step=lambda *_: on_step(),
            )
    proposer = MaskRcnnProposals(network, "", evaluation_config(cell.config).proposal, device)
    unseen, detections = evaluate_network(proposer, stills.unseen, progress=False)
    judged = {"unseen": unseen.to_dict()}
    if stills.labelled:
        judged["labelled"] = evaluate_instances(stills.labelled, detections).to_dict()
    for split in ("seen", "photographs"):
        if dataset := getattr(stills, split):
            judged[split] = evaluate_network(proposer, dataset, progress=False)[0].to_dict()
    return {
        "seed": cell.seed,
        **judged,
        "seconds": time.perf_counter() - start,
        "shown": [found for found in detections if found["image_id"] in cell.shown],
        **({"masks": [each.quality for each in masks]} if len(masks) > 1 else {}),
    }


def run_cached(
    cells: Sequence[Cell], stills: Stills, cache: Cache, jobs: int, report: OnReport
) -> None:
    """Run the cells that are not cached yet; cells of equal inputs are run once.

    Args:
        report: gets the results by method, after each new one and at the end.
    """
    digests = inputs_of(stills)
    keys = {(cell.method, cell.seed): cell.inputs(digests) for cell in cells}

    def results() -> list[Result | None]:
        return [cache.get("cell", keys[cell.method, cell.seed]) for cell in cells]

    def tell() -> None:
        done: dict[str, list[Result]] = {}
        for cell, result in zip(cells, results(), strict=True):
            if result is not None:
                done.setdefault(cell.method, []).append(result)
        report(done)

    def on_done(cell: Cell, result: Result) -> None:
        cache.put("cell", keys[cell.method, cell.seed], result)
        tqdm.write(
            f"{label_of(cell.method)}, seed {cell.seed}: unseen AP {result['unseen']['AP']:.2f}, "
            f"seen AP {result['seen']['AP']:.2f}, {result['seconds']:.0f} s"
        )
        tell()

    missing: dict[str, Cell] = {}
    for cell, result in zip(cells, results(), strict=True):
        if result is None:
            missing.setdefault(digest(keys[cell.method, cell.seed]), cell)
    print(outlook(list(missing.values()), cells, results(), jobs))
    run_cells(list(missing.values()), stills, jobs, on_done)
    tell()


def outlook(
    missing: Sequence[Cell], cells: Sequence[Cell], results: Sequence[Result | None], jobs: int
) -> str:
    """What is left to do and how long it takes, where results of this run say so."""
    steps = sum(cell.steps for cell in missing)
    text = f"{len(missing)} of {len(cells)} cells left, {steps} steps"
    known = [r["seconds"] for c, r in zip(cells, results, strict=True) if r and c.learns]
    if missing and known:
        minutes = len(missing) * statistics.fmean(known) / min(jobs, len(missing)) / 60
        text += f", about {minutes:.0f} minutes in {jobs} process{'es' if jobs > 1 else ''}"
    return text


def run_cells(cells: list[Cell], stills: Stills, jobs: int, on_done: OnDone) -> None:
    """Run cells, each process with one thread; `on_done` gets every result as soon as it is there.

    Raises:
        GboptError: a training failed, or a process died.
    """
    total = sum(cell.steps for cell in cells)
    with tqdm(total=total, desc="learn", unit="step", dynamic_ncols=True, smoothing=0.05) as bar:
        if jobs == 1:
            for cell in cells:
                bar.set_postfix_str(f"{cell.method} seed {cell.seed}")
                on_done(cell, run_cell(cell, stills, bar.update))
        else:
            _run_in_processes(cells, stills, jobs, on_done, bar)


def seeds_of(config: Config, seeds: Iterable[int]) -> list[Config]:
    """The configuration with each of the seeds."""
    return [replace(config, learning=replace(config.learning, seed=seed)) for seed in seeds]


# In one process: what it shares with the others is handed over when it starts.

_stills: Stills
_steps: Any


def _start(stills: Stills, steps: Any) -> None:
    global _stills, _steps
    _stills, _steps = stills, steps
    threading.Thread(target=_end_with_parent, daemon=True).start()
    single_threaded()


def _end_with_parent() -> None:
    """Else a script that is killed would leave its processes training until their cell is done."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(cell: Cell) -> Result:
    return run_cell(cell, _stills, lambda: _steps.put(1))


def _run_in_processes(
    cells: list[Cell], stills: Stills, jobs: int, on_done: OnDone, bar: tqdm
) -> None:
    os.environ["TQDM_DISABLE"] = "1"  # for the processes; here tqdm has read it
    context = multiprocessing.get_context("spawn")
    steps = context.Queue()
    running: dict[Future[Result], Cell] = {}
    with ProcessPoolExecutor(jobs, context, _start, (stills, steps)) as pool:
        try:
            running = {pool.submit(_run, cell): cell for cell in cells}
            while running:
                done, _ = wait(running, _POLL_S, FIRST_COMPLETED)
                with suppress(queue.Empty):
                    while True:
                        bar.update(steps.get_nowait())
                for future in done:
                    on_done(running.pop(future), future.result())
        except BrokenProcessPool as error:
            raise GboptError(
                "a training process died; is there enough memory? try fewer --jobs"
            ) from error
        finally:
            del os.environ["TQDM_DISABLE"]
            pool.shutdown(wait=False, cancel_futures=True)
