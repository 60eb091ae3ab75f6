"""A journal of finished work, so that a run that was killed can go on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gbopt_ros.io.files import is_unfinished_elsewhere, sync, unfinished_folders
from gbopt_ros.io.json_file import Fields, parse_json
from gbopt_ros.structures import GboptError

JOURNAL_NAME = "journal"
"""Its file, beside the temporary folder of an output."""


class Journal:
    """A file with one JSON object a line. The first says what the run is, the others what is done.

    A line counts once it is whole: the last one may be cut.

    Args:
        path: file; it is begun by `begin`, or read by `read`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Start the file anew."""
        self._path.unlink(missing_ok=True)
        self.append(identity)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry, durably."""
        with self._path.open("ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
        sync(self._path)
        sync(self._path.parent)

    def read(self) -> list[dict[str, Any]]:
        """All whole entries, the identity first; a cut line is removed. [] where there is none."""
        try:
            lines = self._path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        where = str(self._path)
        entries: list[dict[str, Any]] = []
        for line in lines:
            try:
                entries.append(dict(Fields(parse_json(line, where), where).content))
            except GboptError:
                break
        os.truncate(self._path, sum(len(line) + 1 for line in lines[: len(entries)]))
        return entries


def unfinished_run(out: Path, identity: Mapping[str, Any]) -> Path | None:
    """The temporary folder of the run with this identity that was cut; None if there is none.

    Raises:
        GboptError: another process is writing `out`, or only runs of other identities were cut.
    """
    found: list[tuple[int, Path]] = []
    changes: list[str] = []
    for folder in unfinished_folders(out):
        begun, *done = Journal(folder.parent / JOURNAL_NAME).read() or [{}]
        if done and (others := differences(begun, identity)):
            changes = others
        elif done:
            found.append((len(done), folder))
    if found:
        return max(found)[1]
    if is_unfinished_elsewhere(out):
        raise GboptError(f"{out}: another process is writing it; wait until it is done")
    if changes:
        raise GboptError(
            f"{out}: the run that was cut had other settings, weights or data "
            f"({'; '.join(changes[:3])}); use the same again, or start anew without --resume"
        )
    return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How two identities differ, such as `config.selection.k was 10, now 5`."""
    old, new = _flat(before), _flat(now)
    return [
        f"{name} was {_short(old.get(name))}, now {_short(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = json.loads(json.dumps(value))  # tuples become lists
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 24 else f"{text[:20]}..."
