"""Versions of the proposal network on disk: published atomically, verified, rolled back.

    STORE/models/v0001/model.safetensors
    STORE/models/v0001/manifest.json      sha256, parent, gate decision, training facts
    STORE/models/current.json             {"version": "v0001"}

The current version is the one that the next round goes on from. In general it also serves; a
student of another network only serves if its manifest says that it passed the comparison with its
teacher. Until then an older version serves, or the teacher (`ModelStore.serving`).

A version's folder appears by one rename and is never changed afterwards. So a reader sees a whole
version or none. `current.json` is replaced by another rename.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gbopt_ros.io.files import sync, write_text
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.weights import (
    DETECTRON2,
    HasState,
    WeightsInfo,
    save_weights,
    sha256_of,
    tensors_digest,
)
from gbopt_ros.structures import GboptError

_WEIGHTS, _MANIFEST, _CURRENT = "model.safetensors", "manifest.json", "current.json"


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
            masks, and `teacher_gate`, the comparison with a teacher that is another network. An old
            version has no digest of tensors and no teachers.
    """

    version: str
    path: Path
    manifest: dict[str, Any] = field(repr=False)


class ModelStore:
    """The versions in a folder, which is created with the first version."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folder = root / "models"

    def versions(self) -> list[ModelVersion]:
        """All versions, oldest first."""
        return [self.get(name) for name in self._names()]

    def first(self) -> ModelVersion:
        """The oldest version with an intact manifest.

        Raises:
            GboptError: there is none.
        """
        for name in self._names():
            with suppress(GboptError):
                return self.get(name)
        raise GboptError(f"{self._folder}: no version whose manifest can be read")

    def prune(self, keep: int) -> None:
        """Remove all versions but the newest, the current one, the one in service and the first.

        The gate compares later versions with the first.

        Args:
            keep: number of newest versions that stay, 1 or more.
        """
        names = self._names()
        needed = (self.current(), self.serving(), self.serving(compared=True))
        kept = {version.version for version in needed if version is not None}
        for name in names[1:-keep]:
            if name not in kept:
                gone = self._folder / f".old-{name}"
                with suppress(OSError):
                    os.replace(self._folder / name, gone)
                shutil.rmtree(gone, ignore_errors=True)

    def _names(self) -> list[str]:
        """Names of all published versions, oldest first."""
        if not self._folder.is_dir():
            return []
        found = [
            (number, path.name)
            for path in self._folder.iterdir()
            if (number := _number(path.name)) is not None and (path / _MANIFEST).is_file()
        ]
        return [name for _, name in sorted(found)]

    def digests(self) -> set[str | None]:
        """SHA-256 of the weights, and digests of the tensors, of all intact versions."""
        found: set[str | None] = set()
        for name in self._names():
            with suppress(GboptError):
                manifest = self.get(name).manifest
                found |= {manifest["sha256"], manifest.get("tensors")}
        return found

    def get(self, version: str) -> ModelVersion:
        """Raises GboptError if there is no such version or its manifest is damaged."""
        if _number(version) is None:
            raise GboptError(f"{self._folder}: expected a version such as v0001, got {version!r}")
        folder = self._folder / version
        manifest = _read_json(folder / _MANIFEST)
        for key, kind in (("sha256", str), ("parent", str), ("created", (int, float))):
            if not isinstance(manifest.get(key), kind):
                raise GboptError(f"{folder / _MANIFEST}: no {key!r} in it; the file was damaged")
        return ModelVersion(version, folder / _WEIGHTS, manifest)

    def current(self) -> ModelVersion | None:
        """The current version, None before the first."""
        pointer = self._folder / _CURRENT
        return self.get(str(_read_json(pointer).get("version"))) if pointer.is_file() else None

    def serving(self, *, compared: bool = False) -> ModelVersion | None:
        """The version that should serve: the current one, or its newest ancestor that may.

        Args:
            compared: only a version that was compared with its teacher may. Otherwise one that was
                not compared may, too.

        Returns:
            None if none may: then the network that proposed before the first version serves.

        Raises:
            GboptError: the manifest of the current version is damaged.
        """
        current = self.current()
        if current is None:
            return None
        if _may_serve(current, compared):
            return current
        for name in reversed(_ancestors(current)):
            with suppress(GboptError):  # pruned or damaged
                version = self.get(name)
                if _may_serve(version, compared):
                    return version
        return None

    def verify(self, version: ModelVersion) -> None:
        """Raises GboptError if the weights file is not the one that was published."""
        if not version.path.is_file():
            raise GboptError(f"{version.path}: weights of version {version.version} are missing")
        digest = sha256_of(version.path)
        if digest != version.manifest["sha256"]:
            raise GboptError(
                f"{version.path}: SHA-256 is {digest[:12]}..., its manifest says "
                f"{version.manifest['sha256'][:12]}...; the file was damaged, roll back"
            )

    def _is_intact(self, version: ModelVersion) -> bool:
        try:
            self.verify(version)
        except GboptError:
            return False
        return True

    def verified_current(self) -> ModelVersion | None:
        """The current version, None before the first; raises GboptError as `verify`."""
        current = self.current()
        if current is not None:
            self.verify(current)
        return current

    def check_origin(self, path: Path, detectron2_config: str = "") -> None:
        """Check that a network is the origin of the versions, or one of them.

        Args:
            path, detectron2_config: as of `load_mask_rcnn`. The calibration does not count.

        Raises:
            GboptError: the store was begun with another network, or the file cannot be read.
        """
        current = self.current()
        if current is None or current.manifest.get("origin") is None:
            return
        origins = {current.manifest["origin"], current.manifest.get("origin_tensors")}
        if not is_one_of(path, origins | self.digests(), detectron2_config):
            raise GboptError(
                f"{path}: the versions of the store {self.root} were learnt from another network; "
                "give each network a store of its own"
            )

    def publish(
        self, network: HasState, parent: WeightsInfo, facts: dict[str, Any]
    ) -> ModelVersion:
        """Write a new version and make it the current one.

        Args:
            network: proposal network, stored in single precision.
            parent: description of the weights that it was fine-tuned from. The new version takes
                over architecture, configuration and calibration.
            facts: added to the manifest.

        Raises:
            GboptError: the store cannot be written.
        """
        version = self._next_name()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
        except OSError as error:
            raise GboptError(f"{self._folder}: cannot be written ({error.strerror})") from error
        try:
            folder = aside / version  # others may read it; `aside` itself is private
            folder.mkdir()
            info = replace(parent, version=version)
            digest = save_weights(folder / _WEIGHTS, network, info)
            manifest = facts | {
                "version": version,
                "parent": parent.version,
                "ancestors": self._lineage(parent.version),
                "backend": DETECTRON2 if info.architecture == DETECTRON2 else "torchvision",
                "architecture": info.architecture,
                "config": info.config,
                "sha256": digest,
                "tensors": tensors_digest(network),
                "created": time.time(),
            }
            (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
            for path in (folder / _MANIFEST, folder):
                sync(path)
            os.replace(folder, self._folder / version)
            sync(self._folder)
        except OSError as error:
            if (self._folder / version).exists():  # another process took the name
                return self.publish(network, parent, facts)
            raise GboptError(
                f"{self._folder}: version {version} cannot be written ({error.strerror})"
            ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self._make_current(version)
        return self.get(version)

    def rollback(self, *, compared: bool = False) -> ModelVersion | None:
        """Take the version in service back, and all that were learnt from it.

        Its newest ancestor that is left becomes the current version, in general its parent. If the
        current version is damaged, or none of the store serves, only the current one is taken back.

        Args:
            compared: as of `serving`.

        Returns:
            The new current version. None where no ancestor is left: then the next round begins with
            the network that the first version was fine-tuned from, which is outside the store.

        Raises:
            GboptError: there is no current version, or the ancestor is damaged.
        """
        current = self.current()
        if current is None:
            raise GboptError(f"{self._folder}: no version is in service, nothing to roll back")
        gone = current
        if self._is_intact(current):
            gone = self.serving(compared=compared) or current
        left = set(self._names())
        for name in reversed(_ancestors(gone)):
            if name in left:
                restored = self.get(name)
                self.verify(restored)
                self._make_current(name)
                return restored
        (self._folder / _CURRENT).unlink()
        return None

    def _lineage(self, name: str) -> list[str]:
        """A version of the store and its ancestors, oldest first; empty for any other network."""
        if name not in self._names():
            return []
        with suppress(GboptError):
            return [*_ancestors(self.get(name)), name]
        return [name]  # damaged

    def _next_name(self) -> str:
        names = (p.name for p in (self._folder.iterdir() if self._folder.is_dir() else ()))
        return f"v{max((_number(name) or 0 for name in names), default=0) + 1:04d}"

    def _make_current(self, version: str) -> None:
        write_text(self._folder / _CURRENT, json.dumps({"version": version}))


def is_one_of(path: Path, digests: Set[str | None], detectron2_config: str = "") -> bool:
    """Whether a weights file, or another one with the same tensors, has one of the digests.

    Args:
        path, detectron2_config: as of `load_mask_rcnn`.
        digests: SHA-256 of files, and digests of tensors. The network is loaded for the latter,
            since calibrated copies of other libraries' files have other names in them.

    Raises:
        GboptError: the file cannot be read, or holds no network.
    """
    try:
        if sha256_of(path) in digests:
            return True
    except OSError as error:
        raise GboptError(f"{path}: cannot be read ({error.strerror})") from error
    return tensors_digest(load_mask_rcnn(path, detectron2_config)[0]) in digests


def _may_serve(version: ModelVersion, compared: bool) -> bool:
    """Whether a version passed the comparison with its teacher, or had none."""
    comparison = version.manifest.get("teacher_gate")
    return bool(comparison["passed"]) if isinstance(comparison, dict) else not compared


def _ancestors(version: ModelVersion) -> list[str]:
    """The ancestors in a manifest, or the parent where it lists none; oldest first.

    A parent from another store can have the name of a later version of this store: it is left out.
    """
    listed = version.manifest.get("ancestors")
    names = listed if isinstance(listed, list) else [version.manifest["parent"]]
    own = _number(version.version) or 0
    return [name for name in map(str, names) if 0 < (_number(name) or 0) < own]


def _number(name: str) -> int | None:
    """The number in a version's name, None for any other name."""
    return int(name[1:]) if re.fullmatch(r"v[0-9]{4,}", name) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise GboptError(f"{path}: no such file; is this a model store?") from error
    except (OSError, ValueError) as error:
        raise GboptError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise GboptError(f"{path}: expected a JSON object")
    return content
