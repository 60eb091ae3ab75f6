"""Commands that are killed at random moments, and what must hold afterwards."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from gbopt_ros.io.datasets.coco import load_coco_dir
from gbopt_ros.io.sources import open_source
from gbopt_ros.learning.data.verdicts import Verdict
from gbopt_ros.learning.store.store import Store
from support.verbs import FRAMES, Bench, Outcome, Runner, assert_sound, hidden, make_store

VERBS = ("replay", "learn", "rollback", "forget", "export", "import", "bag", "pull")


class Kills:
    """Kills commands, half of them after a random time and half at a random durable step.

    Args:
        folder: scratch.
        seed: of the moments.

    Attributes:
        counts: how many were killed, by verb; the others had ended before.
    """

    def __init__(self, folder: Path, bench: Bench, seed: int) -> None:
        self._folder, self._bench = folder, bench
        self._runner = Runner(folder, bench)
        self._rng = random.Random(seed)
        self._uncut: dict[str, Outcome] = {}
        self.counts: Counter[str] = Counter()
        self._runner.check(bench.bag(folder / "warm-up"))  # imports everything
        self._replayed = folder / "replayed" / "out"
        self._uncut["replay"] = self._runner.check(bench.replay(self._replayed))
        self._store = folder / "store"  # two versions, one recording
        make_store(self._store, self._replayed, bench)

    def kill(self, verb: str, number: int) -> None:
        """Kill a command once, and check what it left."""
        place = self._folder / f"{verb}-{number}"
        place.mkdir()
        check: Callable[[Path], None] = getattr(self, f"_{verb}")
        check(place)
        shutil.rmtree(place)

    def _cut(self, verb: str, arguments: list[str], again: Callable[[], None]) -> bool:
        """Run it, killed at a random moment; whether it was.

        Args:
            again: undoes what an uncut run did, which is measured once.
        """
        if verb not in self._uncut:
            self._uncut[verb] = self._runner.check(arguments)
            again()
        uncut = self._uncut[verb]
        if self._rng.random() < 0.5 or not uncut.steps:  # SQLite's are not counted
            outcome = self._runner.run(
                arguments, after_s=self._rng.uniform(0.02, 1.0) * uncut.seconds
            )
        else:
            outcome = self._runner.run(arguments, dies_at=self._rng.randint(1, uncut.steps))
        assert outcome.status in (0, -9), outcome.told
        self.counts[verb] += outcome.status == -9
        return outcome.status == -9

    def _replay(self, place: Path) -> None:
        out = place / "out"
        arguments = self._bench.replay(out, "--resume")
        self._cut("replay", arguments, lambda: None)
        self._repeat(arguments, out)
        selected = (self._replayed / "selected.json").read_bytes()
        assert (out / "selected.json").read_bytes() == selected
        assert len(list(open_source(out / "overlay.mp4"))) == FRAMES
        assert hidden(place) == []

    def _repeat(self, arguments: list[str], out: Path) -> None:
        """Run it again; if the one that was killed had finished the output, that is refused."""
        done = out.exists()
        outcome = self._runner.run(arguments)
        assert outcome.status == int(done), outcome.told
        assert ("exists already" in outcome.told) == done

    def _copy(self, place: Path) -> Path:
        return Path(shutil.copytree(self._store, place / "store"))

    def _learn(self, place: Path) -> None:
        root = self._copy(place)
        arguments = self._bench.learn(root, self._replayed)
        self._cut("learn", arguments, lambda: _replace(self._store, root))
        store = assert_sound(root)
        names = [version.version for version in store.models.versions()]
        current = store.models.current()
        assert names[:2] == ["v0001", "v0002"] and current is not None
        assert current.version in ("v0002", names[-1])
        self._runner.check(arguments)
        learnt = assert_sound(root).models.current()
        assert learnt is not None and learnt.manifest["parent"] == current.version

    def _rollback(self, place: Path) -> None:
        root = self._copy(place)
        arguments = ["models", "rollback", str(root)]
        self._cut("rollback", arguments, lambda: _replace(self._store, root))
        store = assert_sound(root)
        current = store.models.current()
        assert current is not None and current.version in ("v0001", "v0002")
        assert len(store.models.versions()) == 2
        store.models.rollback()

    def _forget(self, place: Path) -> None:
        root = self._copy(place)
        arguments = ["learn", f"--out={root}", f"--forget=out/{self._bench.frames.name}"]
        self._cut("forget", arguments, lambda: _replace(self._store, root))
        store = assert_sound(root)
        with store.training_set() as training_set:
            held = len(training_set)
        assert held in (0, self._held())
        if held:
            self._runner.check(arguments)
            assert_sound(root)
        assert len(store.models.versions()) == 2

    def _export(self, place: Path) -> None:
        out = place / "labels"
        arguments = ["export", str(self._store), f"--out={out}"]
        self._cut("export", arguments, lambda: shutil.rmtree(out))
        self._repeat(arguments, out)
        assert len(load_coco_dir(out)) == self._held()
        assert hidden(place) == []

    def _import(self, place: Path) -> None:
        root, labels = self._copy(place), place / "labels"
        Store(root).export(labels)
        arguments = ["import", str(root), str(labels)]
        self._cut("import", arguments, lambda: _replace(self._store, root))
        unverified = _unverified(root)
        assert unverified in (0, _unverified(self._store)) and _unverified(self._store)
        self._runner.check(arguments)
        assert _unverified(root) == 0

    def _held(self) -> int:
        with assert_sound(self._store).training_set() as training_set:
            return len(training_set)

    def _bag(self, place: Path) -> None:
        out = place / "bag"
        arguments = self._bench.bag(out)
        self._cut("bag", arguments, lambda: shutil.rmtree(out))
        self._repeat(arguments, out)
        assert len(list(open_source(out))) == FRAMES
        assert hidden(place) == []

    def _pull(self, place: Path) -> None:
        self._runner.cache = place
        pulled = place / "gbopt_ros" / "models" / "published.pth"
        self._cut("pull", self._bench.pull(), lambda: shutil.rmtree(place / "gbopt_ros"))
        if pulled.exists():
            assert pulled.read_bytes() == self._bench.published.read_bytes()
        self._runner.check(self._bench.pull())
        assert pulled.read_bytes() == self._bench.published.read_bytes()
        names = sorted(path.name for path in pulled.parent.iterdir())
        assert names == ["published.pth", "published.pth.sha256"]


def _unverified(root: Path) -> int:
    with assert_sound(root).training_set() as training_set:
        return training_set.verdicts()[Verdict.NONE]


def _replace(source: Path, target: Path) -> None:
    shutil.rmtree(target)
    shutil.copytree(source, target)
