"""A store that two processes want to change at the same time."""

from __future__ import annotations

import time
from pathlib import Path

from gbopt_ros.learning.store.store import Store
from support.verbs import PATIENCE_S, Bench, Runner, assert_sound, make_store

_LONG = "--set=learning.iterations=100000"


def second_writers(folder: Path, bench: Bench) -> dict[str, str]:
    """While one learns, others roll back, learn and forget; then the first is killed.

    Checks that each is refused at once and changes nothing, that readers read, and that the lock
    ends with its process.

    Returns:
        What each was told, by its verb.
    """
    runner, root, replayed = Runner(folder, bench), folder / "store", folder / "replayed" / "out"
    recording = f"out/{bench.frames.name}"
    runner.check(bench.replay(replayed))
    make_store(root, replayed, bench)
    before = _state(Store(root))
    told = {}
    with runner.start(bench.learn(root, replayed, _LONG)) as (first, log):
        _wait_until_it_learns(root)
        for verb, arguments in (
            ("rollback", ["models", "rollback", str(root)]),
            ("learn", bench.learn(root, replayed)),
            ("forget", ["learn", f"--out={root}", f"--forget={recording}"]),
        ):
            outcome = runner.run(arguments)
            assert outcome.status == 1, outcome.told
            (told[verb],) = [line for line in outcome.told.splitlines() if "error" in line]
            assert first.is_alive(), log.read_text(encoding="utf-8")
        for verb in ("list", "verify"):
            runner.check(["models", verb, str(root)])
        assert f"process {first.pid} " in told["learn"]
    assert _state(assert_sound(root)) == before
    runner.check(["models", "rollback", str(root)])
    runner.check(bench.learn(root, replayed))
    versions = assert_sound(root).models.versions()
    assert [(v.version, v.manifest["parent"]) for v in versions[1:]] == [
        ("v0002", "v0001"),
        ("v0003", "v0001"),
    ]
    return told


def _wait_until_it_learns(root: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while Store(root).models.lock.is_free():
        assert time.monotonic() < deadline, "nobody began to learn"
        time.sleep(0.05)


def _state(store: Store) -> tuple[str | None, list[str], int]:
    with store.training_set() as training_set:
        names = [version.version for version in store.models.versions()]
        return store.models.current_name(), names, len(training_set)
