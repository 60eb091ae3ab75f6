"""A published version of the proposal network, and what its manifest says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gbopt_ros.io.json_file import Fields

WEIGHTS_NAME, MANIFEST_NAME = "model.safetensors", "manifest.json"
_LAST_DATE = 253_402_300_799  # the year 9999, seconds since the epoch


@dataclass(frozen=True)
class ModelVersion:
    """A published version.

    Attributes:
        version: name, such as `v0001`.
        path: weights file.
        manifest: `version`, `parent`, `ancestors` (versions of the store that it descends from,
            oldest first), `sha256` of the file, `tensors` (their digest), `created` (seconds since
            the epoch) and the publisher's facts. Facts are `origin` and `origin_tensors`, those of
            the network that learning began with, `teachers`, the versions that proposed the learnt
            masks, `teacher_gate`, the comparison with a teacher that is another network, `data`,
            what was learnt by recording and clip, and `origin_licence` and `teacher_licence`. An
            old version has less.
    """

    version: str
    path: Path
    manifest: dict[str, Any] = field(repr=False)


def read_version(folder: Path) -> ModelVersion:
    """The version in a folder. Raises GboptError if its manifest is damaged."""
    manifest = Fields.read(folder / MANIFEST_NAME)
    check_manifest(manifest)
    return ModelVersion(folder.name, folder / WEIGHTS_NAME, dict(manifest.content))


def check_manifest(manifest: Fields) -> None:
    """Raises GboptError if a field that somebody relies on is something else."""
    for key in ("sha256", "parent"):
        manifest.text(key)
    for key in ("tensors", "origin", "origin_tensors", "origin_licence", "teacher_licence"):
        if manifest.content.get(key) is not None:
            manifest.text(key)
    manifest.number("created", low=0, high=_LAST_DATE)
    manifest.texts("teachers", default=[])
    for recording in manifest.objects("data", default=[]):
        recording.text("recording")
        for clip in recording.objects("clips"):
            for key in ("clip", "frames", "masks", "verified"):
                clip.integer(key)
    if manifest.content.get("calibration") is not None:
        manifest.object("calibration")
    for key in ("gate", "teacher_gate"):
        if manifest.content.get(key) is not None:
            gate = manifest.object(key)
            gate.flag("passed", default=False)
            gate.text("reason", default="")


def may_serve(version: ModelVersion, compared: bool) -> bool:
    """Whether a version passed the comparison with its teacher, or had none."""
    comparison = version.manifest.get("teacher_gate")
    return bool(comparison.get("passed")) if comparison is not None else not compared


def ancestors(version: ModelVersion) -> list[str]:
    """The ancestors in a manifest, or the parent where it lists none; oldest first.

    A parent from another store can have the name of a later version of this store: it is left out.
    """
    listed = version.manifest.get("ancestors")
    names = listed if isinstance(listed, list) else [version.manifest["parent"]]
    own = number(version.version) or 0
    return [name for name in map(str, names) if 0 < (number(name) or 0) < own]


def number(name: str) -> int | None:
    """The number in a version's name, None for any other name."""
    return int(name[1:]) if re.fullmatch(r"v[0-9]{4,18}", name) else None
