"""Versions of the proposal network on disk: published atomically, verified, rolled back.

    STORE/models/v0001/model.safetensors
    STORE/models/v0001/manifest.json      sha256, parent, gate decision, training facts
    STORE/models/v0001/card.json, card.md     the same for people, see `model_card`
    STORE/models/current.json             {"version": "v0001"}

The current version is the one that the next round goes on from. In general it also serves; a
student of another network only serves if its manifest says that it passed the comparison with its
teacher. Until then an older version serves, or the teacher (`ModelStore.serving`).

A version's folder appears by one rename and is never changed afterwards. So a reader sees a whole
version or none. `current.json` is replaced by another rename. Whoever changes something holds
`ModelStore.lock`; readers need no lock. A damaged version is skipped, and rolled back from.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import EllipsisType
from typing import Any

from gbopt_ros.io.files import (
    collect_leftovers,
    remove_file,
    remove_folder,
    replacing_folder,
    write_text,
)
from gbopt_ros.io.json_file import Fields, to_json
from gbopt_ros.learning.store.lock import StoreLock
from gbopt_ros.learning.store.model_card import (
    CARD_JSON,
    CARD_MARKDOWN,
    card_in_markdown,
    model_card,
)
from gbopt_ros.learning.store.version import (
    MANIFEST_NAME,
    WEIGHTS_NAME,
    ModelVersion,
    ancestors,
    may_serve,
    number,
    read_version,
)
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

_CURRENT = "current.json"
_VERSIONS, _TRAINING = "models", "training"  # folders of a store


class ModelStore:
    """The versions in a folder, which is created with the first version.

    Attributes:
        root: folder of the store.
        folder: folder of the versions.
        lock: held by whoever changes the store.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = StoreLock(root)
        self.folder = root / _VERSIONS
        collect_leftovers(self.folder)

    def versions(self) -> list[ModelVersion]:
        """All versions with an intact manifest, oldest first."""
        found = (self._get_intact(name) for name in self._names())
        return [version for version in found if version is not None]

    def damaged(self) -> dict[str, str]:
        """What is wrong with each damaged version, by its name, and with `current.json`.

        It reads the weights of all versions.
        """
        checks: dict[str, Callable[[], object]]
        checks = {name: partial(self._verify_name, name) for name in self._names()}
        checks[_CURRENT] = self.current  # which may name a version that is missing
        found: dict[str, str] = {}
        for name, run in checks.items():
            try:
                run()
            except GboptError as error:
                found[name] = str(error)
        return found

    def _verify_name(self, name: str) -> None:
        self.verify(self.get(name))

    def first(self) -> ModelVersion:
        """The oldest version with an intact manifest.

        Raises:
            GboptError: there is none.
        """
        versions = self.versions()
        if not versions:
            raise GboptError(f"{self.folder}: no version whose manifest can be read")
        return versions[0]

    def prune(self, keep: int) -> None:
        """Remove all versions but the newest, the current one, the one in service and the first.

        The gate compares later versions with the first.

        Args:
            keep: number of newest versions that stay, 1 or more.
        """
        with self.lock.held("pruning versions"):
            names = self._names()
            needed = (self.current(), self.serving(), self.serving(compared=True))
            kept = {version.version for version in needed if version is not None}
            for name in names[1:-keep]:
                if name not in kept:
                    with suppress(OSError):
                        remove_folder(self.folder / name)

    def _names(self) -> list[str]:
        """Names of all published versions, oldest first."""
        if not self.folder.is_dir():
            return []
        found = [
            (place, path.name)
            for path in self.folder.iterdir()
            if (place := number(path.name)) is not None and path.is_dir()
        ]
        return [name for _, name in sorted(found)]

    def digests(self) -> set[str | None]:
        """SHA-256 of the weights, and digests of the tensors, of all intact versions."""
        found: set[str | None] = set()
        for version in self.versions():
            found |= {version.manifest["sha256"], version.manifest.get("tensors")}
        return found

    def get(self, version: str) -> ModelVersion:
        """Raises GboptError if there is no such version or its manifest is damaged."""
        if number(version) is None:
            raise GboptError(f"{self.folder}: expected a version such as v0001, got {version!r}")
        return read_version(self.folder / version)

    def _get_intact(self, version: str) -> ModelVersion | None:
        """As `get`; None in place of an error."""
        with suppress(GboptError):
            return self.get(version)
        return None

    def current_name(self) -> str | None:
        """The name of the current version, None before the first.

        Raises:
            GboptError: `current.json` is damaged.
        """
        pointer = self.folder / _CURRENT
        if not pointer.is_file():
            return None
        try:
            name = Fields.read(pointer).text("version")
            if number(name) is None:
                raise GboptError(f"{pointer}: expected a version such as v0001, got {name!r}")
        except GboptError as error:
            raise GboptError(f"{error}; the file was damaged, roll back") from error
        return name

    def current(self) -> ModelVersion | None:
        """The current version, None before the first.

        Raises:
            GboptError: `current.json` or the manifest of the version is damaged.
        """
        name = self.current_name()
        try:
            return self.get(name) if name is not None else None
        except GboptError as error:
            raise GboptError(f"{error}; version {name} was damaged, roll back") from error

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
        if may_serve(current, compared):
            return current
        for name in reversed(ancestors(current)):
            version = self._get_intact(name)  # None: pruned or damaged
            if version is not None and may_serve(version, compared):
                return version
        return None

    @staticmethod
    def verify(version: ModelVersion) -> None:
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
        try:
            current = self.current()
        except GboptError:  # until it is rolled back, another version tells
            current = next(reversed(self.versions()), None)
        if current is None or current.manifest.get("origin") is None:
            return
        origins = {current.manifest["origin"], current.manifest.get("origin_tensors")}
        if not is_one_of(path, origins | self.digests(), detectron2_config):
            raise GboptError(
                f"{path}: the versions of the store {self.root} were learnt from another network; "
                "give each network a store of its own"
            )

    def publish(
        self,
        network: HasState,
        parent: WeightsInfo,
        facts: dict[str, Any],
        *,
        after: ModelVersion | EllipsisType | None = ...,
    ) -> ModelVersion:
        """Write a new version and make it the current one.

        Args:
            network: proposal network, stored in single precision.
            parent: description of the weights that it was fine-tuned from. The new version takes
                over architecture, configuration and calibration.
            facts: added to the manifest.
            after: the version that was current when the training began, None if none was. By
                default any may be current, and the one with the name of the parent is the parent.

        Raises:
            GboptError: the store cannot be written, another process writes it, or `after` is not
                current any more; then nothing is published.
        """
        with self.lock.held("publishing a version"):
            if isinstance(after, EllipsisType):
                after = self._get_intact(parent.version)
            else:
                self._check_is_current(after)
            version = self._next_name()
            info = replace(parent, version=version)
            with replacing_folder(self.folder / version) as folder:
                folder.mkdir()
                digest = save_weights(folder / WEIGHTS_NAME, network, info)
                manifest = facts | {
                    "version": version,
                    "parent": parent.version,
                    # Not by the name of the parent, which a version of another store may have too.
                    "ancestors": [] if after is None else [*ancestors(after), after.version],
                    "backend": DETECTRON2 if info.architecture == DETECTRON2 else "torchvision",
                    "architecture": info.architecture,
                    "config": info.config,
                    "sha256": digest,
                    "tensors": tensors_digest(network),
                    "created": time.time(),
                    "calibration": None if info.calibration is None else asdict(info.calibration),
                }
                _describe(folder, manifest)
            self._make_current(version)
            return self.get(version)

    def has(self, version: str, sha256: str) -> bool:
        """Whether a version with these weights is here, intact.

        Raises:
            GboptError: the version of this name has other weights.
        """
        found = self._get_intact(version)
        if found is None:
            return False
        if found.manifest["sha256"] != sha256:
            raise GboptError(
                f"{found.path}: another version of the same name; give what is pulled a store of "
                "its own, and a new one if the learner's store was begun anew"
            )
        return self._is_intact(found)

    def adopt(self, manifest: dict[str, Any], weights: Path) -> ModelVersion:
        """Take over a version of another store; it does not become the current one.

        Args:
            manifest: of the version, checked.
            weights: its file, with the SHA-256 of the manifest; it is moved.

        Raises:
            GboptError: another process writes the store, or it cannot be written.
        """
        with self.lock.held("pulling a version"):
            place = self.folder / str(manifest["version"])
            if place.exists():  # a damaged one
                remove_folder(place)
            with replacing_folder(place) as folder:
                folder.mkdir()
                os.replace(weights, folder / WEIGHTS_NAME)
                _describe(folder, manifest)
            return self.get(place.name)

    def make_current(self, version: str | None) -> None:
        """Make a version that is here the current one, or none.

        Raises:
            GboptError: another process writes the store, or it cannot be written.
        """
        with self.lock.held("a change of the current version"):
            if version is None:
                if (self.folder / _CURRENT).exists():
                    remove_file(self.folder / _CURRENT)
            elif self.get(version).version != self._current_name_or_none():
                self._make_current(version)

    def _current_name_or_none(self) -> str | None:
        with suppress(GboptError):
            return self.current_name()
        return None

    def _check_is_current(self, version: ModelVersion | None) -> None:
        expected, found = version.version if version is not None else None, self.current_name()
        if found != expected:
            raise GboptError(
                f"{self.root}: {expected or 'no version'} was current when the training began, now "
                f"{found or 'none'} is: nothing is published; learn again, from the present one"
            )

    def rollback(self, *, compared: bool = False) -> ModelVersion | None:
        """Take the version in service back, and all that were learnt from it.

        Its newest ancestor that is intact becomes the current version, in general its parent. If
        the current version is damaged, or none of the store serves, only the current one is taken
        back. Where its manifest is damaged, all older versions count as its ancestors; where
        `current.json` is, the newest intact version becomes the current one.

        Args:
            compared: as of `serving`.

        Returns:
            The new current version. None where no ancestor is left: then the next round begins with
            the network that the first version was fine-tuned from, which is outside the store.

        Raises:
            GboptError: there is no current version, another process writes the store, or it cannot
                be written.
        """
        with self.lock.held("a rollback"):
            for name in reversed(self._candidates(compared)):
                restored = self._get_intact(name)
                if restored is not None and self._is_intact(restored):
                    self._make_current(name)
                    return restored
            remove_file(self.folder / _CURRENT)
            return None

    def _candidates(self, compared: bool) -> list[str]:
        """The versions that a rollback may lead to, oldest first."""
        try:
            name = self.current_name()
        except GboptError:
            return self._names()
        if name is None:
            raise GboptError(f"{self.folder}: no version is in service, nothing to roll back")
        current = self._get_intact(name)
        if current is None:
            return [older for older in self._names() if (number(older) or 0) < (number(name) or 0)]
        if self._is_intact(current):
            current = self.serving(compared=compared) or current
        return ancestors(current)

    def _next_name(self) -> str:
        names = (p.name for p in (self.folder.iterdir() if self.folder.is_dir() else ()))
        return f"v{max((number(name) or 0 for name in names), default=0) + 1:04d}"

    def _make_current(self, version: str) -> None:
        write_text(self.folder / _CURRENT, to_json({"version": version}))


def _describe(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a version, and its card."""
    card = model_card(manifest)
    for name, text in (
        (MANIFEST_NAME, to_json(manifest, indent=2)),
        (CARD_JSON, to_json(card, indent=2)),
        (CARD_MARKDOWN, card_in_markdown(card)),
    ):
        (folder / name).write_text(text, encoding="utf-8")


def existing_store(root: Path) -> ModelStore:
    """The versions of a store that is there; it has none until a round passes the gate.

    Raises:
        GboptError: the folder is missing, or is no store. Nothing was changed then.
    """
    if not any((root / name).is_dir() for name in (_VERSIONS, _TRAINING)):
        raise GboptError(
            f"{root}: no store, for it has no folder `{_VERSIONS}` or `{_TRAINING}`; name the "
            "--out folder of `gbopt learn`, or the `store` of a learner node"
        )
    return ModelStore(root)


def verify_version(path: Path) -> None:
    """Check a weights file that is a version of a store; any other file passes.

    Raises:
        GboptError: the file is not the one that was published, or its manifest is damaged.
    """
    path = path.resolve()
    is_version = path.name == WEIGHTS_NAME and number(path.parent.name) is not None
    if is_version and (path.parent / MANIFEST_NAME).is_file():
        ModelStore.verify(read_version(path.parent))


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
