"""Commands on a small file system that fills up: a tmpfs in a namespace of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gbopt_ros.cli.main import main
from gbopt_ros.learning.store.store import Store
from gbopt_ros.models import mask_rcnn
from support.networks import little_slim
from support.verbs import Bench, hidden, make_store

SIZE, ROOM = 96 << 20, (10, 25)  # bytes of the disk; powers of two that are left on it

LARGE = "--resize=384x288"


def on_small_disk(folder: Path, bench: Bench, tries: int, seed: int) -> int:
    """Run each command on a disk with too little room; returns how many failed.

    Checks that each failure is one clear line, that it leaves nothing and loses nothing, and that
    `--forget` works on a disk without any room.
    """
    disk = folder / "disk"
    disk.mkdir()
    paths = (bench.frames, bench.weights, bench.background, bench.published)
    script = f'mount -t tmpfs -o size={SIZE} none "$0" && exec "$@"'
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(disk)]
    may = subprocess.run([*inside, "true"], capture_output=True, text=True)
    if may.returncode:
        pytest.skip(f"no file system of its own may be mounted here: {may.stderr.strip()}")
    command = [sys.executable, "-m", "support.full_disk", str(disk), str(tries), str(seed)]
    done = subprocess.run(
        [*inside, *command, *map(str, paths)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for line in found["lines"]:
        assert line.startswith("gbopt: error: ") and " | " not in line, line
        assert any(words in line for words in ("No space left", "disk is full")), line
        assert "free some space" in line, line
    assert (found["hidden"], found["damaged"]) == ([], {})
    assert (found["forget"], found["left"]) == ([0, []], 0)
    return int(found["failed"])


def told(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Exit status and lines of the errors of a command."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = main(list(arguments))
    return status, [line for line in errors.getvalue().splitlines() if "gbopt: error" in line]


def fill(path: Path, room: int) -> None:
    """Fill the disk but for so many bytes."""
    path.unlink(missing_ok=True)
    free = os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while (left := free - room - file.tell()) > 0:
            file.write(b"\0" * min(left, 1 << 16))


def report(root: Path, bench: Bench, tries: int, seed: int) -> dict[str, Any]:
    """Each command on a disk with too little room, then with enough."""
    rng = random.Random(seed)
    store, filler, replayed = root / "store", root / "filler", root / "replayed" / "out"
    status, lines = told(bench.replay(replayed, LARGE))
    assert status == 0, lines
    make_store(store, replayed, bench)
    held = _frames(store)
    found: dict[str, Any] = {"failed": 0, "lines": set(), "hidden": [], "damaged": {}}
    writers: dict[str, Callable[[Path], list[str]]] = {
        "replay": lambda out: bench.replay(out, LARGE),
        "bag": bench.bag,
        "learn": lambda out: bench.learn(store, replayed),
    }
    for number in range(tries):
        for name, arguments_of in writers.items():
            out = root / f"{name}-{number}"
            fill(filler, int(2 ** rng.uniform(*ROOM)))
            status, lines = told(arguments_of(out))
            filler.unlink()
            if status:
                found["failed"] += 1
                found["lines"] |= {" | ".join(lines)}
            found["hidden"] += hidden(root)
            found["damaged"] |= Store(store).models.damaged()
            assert _frames(store) == held, name
            shutil.rmtree(out, ignore_errors=True)
            for version in Store(store).models.versions()[2:]:  # there was enough room
                Store(store).models.rollback()
                shutil.rmtree(version.path.parent)
    fill(filler, 0)
    found["forget"] = told(["learn", f"--out={store}", f"--forget=out/{bench.frames.name}"])
    filler.unlink()
    found["left"] = _frames(store)
    found["lines"] = sorted(found["lines"])
    return found


def _frames(store: Path) -> int:
    with Store(store).training_set() as training_set:
        assert len(training_set.labelled_images()) == len(training_set)
        return len(training_set)


if __name__ == "__main__":
    mask_rcnn.ARCHITECTURES["slim18-fpn"] = little_slim()
    folder, tries, seed, *paths = sys.argv[1:]
    print(json.dumps(report(Path(folder), Bench(*map(Path, paths)), int(tries), int(seed))))
