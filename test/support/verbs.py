"""Commands of the package in processes that can be killed, on a recording and little networks."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import torch

from gbopt_ros.cli.main import main
from gbopt_ros.io import files
from gbopt_ros.learning.store.store import Store
from gbopt_ros.models import catalogue, mask_rcnn
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.weights import PROPOSALS
from support.forks import FORKS
from support.networks import little_slim, save_random_weights
from support.recordings import disc_frames, write_images

FRAMES, CLIP = 6, 2
PATIENCE_S = 120.0
_FAST = (
    "device=cpu", f"clip.length={CLIP}", "motion.weight=0", "selection.lambda_flow=0",
    "selection.k=2", "outline.method=network", "proposal.max_proposals=4",
    "proposal.short_side=64", "background.short_side=64",
    "selection.detect_cuts=false",  # random masks would all be cuts
)  # fmt: skip
_BRIEF = (
    "device=cpu", "learning.iterations=1", "learning.batch_size=1", "learning.gate_agreement=0",
    "learning.cross_clip_confidence=false", "proposal.short_side=64",
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What the commands work on.

    Attributes:
        frames: a folder of images.
        weights: a random proposal network.
        background: a random background network.
        published: the file that `gbopt models pull` finds.
    """

    frames: Path
    weights: Path
    background: Path
    published: Path

    def replay(self, out: Path, *more: str) -> list[str]:
        networks = [f"--weights={self.weights}", f"--set=background.weights={self.background}"]
        return ["replay", str(self.frames), f"--out={out}", *networks, *_sets(_FAST), *more]

    def learn(self, store: Path, *more: str | Path) -> list[str]:
        weights = f"--weights={self.weights}"
        return ["learn", f"--out={store}", weights, *_sets(_BRIEF), *map(str, more)]

    def bag(self, out: Path) -> list[str]:
        return ["bag", str(self.frames), str(out)]

    def pull(self) -> list[str]:
        return ["models", "pull", "raft_small", f"--url={self.published.as_uri()}"]


def _sets(settings: Sequence[str]) -> list[str]:
    return [f"--set={setting}" for setting in settings]


def make_bench(folder: Path) -> Bench:
    networks = save_random_weights(folder)
    published = folder / "published.pth"
    published.write_bytes(os.urandom(1 << 21))
    frames = write_images(folder / "disc", disc_frames(FRAMES))
    return Bench(frames, networks[PROPOSALS], networks["background"], published)


def make_store(root: Path, replayed: Path, bench: Bench) -> None:
    """A store of two versions, with one recording."""
    store = Store(root)
    store.add(replayed)
    network, info = load_mask_rcnn(bench.weights)
    for parent in ("random", "v0001"):
        store.models.publish(network, replace(info, version=parent), {})


# ---------------------------------------------------------------------------------- in the process


def run_verb(
    arguments: Sequence[str], log: Path, cache: Path, published: Path, dies_at: int
) -> None:
    """Run a command; its output goes to `log`, and behind it the number of its durable steps.

    Args:
        dies_at: the process is killed at this durable step, counted from 1; 0: it is not.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    mask_rcnn.ARCHITECTURES["slim18-fpn"] = little_slim()
    os.environ["XDG_CACHE_HOME"] = str(cache)
    entry = catalogue.Published(
        "raft_small", published.as_uri(), files.sha256_of(published)[:8], "MIT (x/y)"
    )
    catalogue.published = lambda name: replace(entry, name=name)
    steps = [0]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **options: Any) -> Any:
            steps[0] += 1
            if steps[0] == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **options)

        return step

    for name in ("fsync", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    with log.open("w", encoding="utf-8") as output:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            status = main(list(arguments))
        output.write(f"{steps[0]}\n")
    os._exit(status)


# ------------------------------------------------------------------------------------ beside it


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status (-9: killed), what it wrote, its durable steps."""

    status: int
    told: str
    steps: int
    seconds: float


class Runner:
    """Starts commands. `cache` is where `pull` keeps weights.

    Args:
        folder: for logs.
    """

    def __init__(self, folder: Path, bench: Bench) -> None:
        self._folder, self._bench = folder, bench
        self.cache = folder / "cache"
        self._count = 0

    @contextlib.contextmanager
    def start(
        self, arguments: Sequence[str], dies_at: int = 0
    ) -> Iterator[tuple[BaseProcess, Path]]:
        """A command in a process of its own, and its log; killed when the block ends."""
        self._count += 1
        log = self._folder / f"{self._count}.log"
        given = (arguments, log, self.cache, self._bench.published, dies_at)
        process = FORKS.Process(target=run_verb, args=given)
        process.start()
        try:
            yield process, log
        finally:
            process.kill()
            process.join()
            process.close()

    def run(self, arguments: Sequence[str], *, after_s: float = 0.0, dies_at: int = 0) -> Outcome:
        """Run a command to its end.

        Args:
            after_s: kill it after so many seconds; 0: do not.
            dies_at: kill it at this durable step; 0: do not.
        """
        start = time.monotonic()
        with self.start(arguments, dies_at) as (process, log):
            process.join(after_s or PATIENCE_S)
            if process.exitcode is None:
                process.kill()
                process.join()
            status = process.exitcode
        told = log.read_text(encoding="utf-8") if log.exists() else ""
        last = told.splitlines()[-1] if told else ""
        assert status is not None
        return Outcome(status, told, int(last) if last.isdigit() else 0, time.monotonic() - start)

    def check(self, arguments: Sequence[str]) -> Outcome:
        """Run a command that must succeed."""
        outcome = self.run(arguments)
        assert outcome.status == 0, f"gbopt {' '.join(arguments)}\n{outcome.told}"
        return outcome


def hidden(folder: Path) -> list[str]:
    """Temporary files and folders anywhere below."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*"))


def assert_sound(root: Path) -> Store:
    """The store opens, nothing in it is damaged, and no leftover remains."""
    store = Store(root)
    assert store.models.damaged() == {}
    with store.training_set() as training_set:
        held = len(training_set)
        training_set.collect_garbage()
        assert len(training_set.labelled_images()) == held  # no image is missing or damaged
    assert hidden(root) == []
    return store
