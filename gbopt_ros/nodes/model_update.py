"""Which network a `ModelUpdate` may bring into service.

Anybody on the network can send one. So a message only says that the store has changed: the store
says which version serves, and no path of a message is ever opened. A message may name the address
of a store on another machine. It is asked only if the operator allows its host, and then it says
itself which version serves there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from gbopt_ros.learning.store.model_store import ModelStore, ModelVersion
from gbopt_ros.learning.store.pull import MAX_WEIGHTS_BYTES, RemoteStore
from gbopt_ros.masks import iou_matrix
from gbopt_ros.structures import GboptError, Image, ProposalNetwork, Proposals

MIN_AGREEMENT = 0.2
"""Share of the best masks of the serving network that another one must propose too.

A network learnt from it proposes nearly all of them, one of other tensors next to none.
"""
_BEST, _SAME_IOU = 5, 0.5  # masks of a frame that count, and what counts as the same mask


@dataclass(frozen=True)
class FirstNetwork:
    """The network that the configuration names, which serves while no version of the store does."""

    path: Path
    version: str
    sha256: str


def pull_announced(
    update: Any,
    models: ModelStore,
    first: FirstNetwork,
    allowed: Sequence[str],
    *,
    compared: bool,
    keep: int,
    on_block: Callable[[], None],
) -> None:
    """Bring the store to what an update announces, if it names an address where that is.

    Nothing happens where the store, or its folder that both machines share, serves it already.

    Args:
        allowed: hosts that may be asked, as `host:port`.
        compared: as of `ModelStore.serving`.
        keep, on_block: as of `RemoteStore.follow`.

    Raises:
        Unreachable: the other machine does not answer now.
        GboptError: the host is not allowed, another version serves there than the announced one,
            or as `RemoteStore.follow`.
    """
    announced = update.version, update.sha256
    if not update.url or served_by(models, first, compared) == announced:
        return
    remote = RemoteStore(update.url, allowed)
    manifest = remote.serving(compared=compared)
    there = (first.version, first.sha256)
    if manifest is not None:
        there = manifest["version"], manifest["sha256"]
    if there != announced:
        raise GboptError(
            f"{remote.url} serves {there[0]}, not {shortened(update.version)} as announced, or "
            "another file"
        )
    remote.follow(models, manifest, keep=keep, on_block=on_block)


def served_by(models: ModelStore, first: FirstNetwork, compared: bool) -> tuple[str, str]:
    """Version and SHA-256 of the network that the store says serves; empty if it is damaged."""
    try:
        version = models.serving(compared=compared)
    except GboptError:
        return "", ""
    if version is None:
        return first.version, first.sha256
    return version.version, version.manifest["sha256"]


def announced_weights(
    update: Any, models: ModelStore, first: FirstNetwork, *, compared: bool
) -> Path:
    """The weights file of the network that an update announces.

    Args:
        compared: as of `ModelStore.serving`.

    Raises:
        GboptError: the store serves another one, its gate was not passed, or its file is none that
            was published.
    """
    version = models.serving(compared=compared)
    if version is None:
        name, digest = first.version, first.sha256
    else:
        name, digest = version.version, version.manifest["sha256"]
    if (update.version, update.sha256) != (name, digest):
        raise GboptError(
            f"the store {models.root} serves {name}, not {shortened(update.version)} as announced, "
            "or another file; have learner and proposal node the same parameters store, "
            "learning.student and learning.student_clips?"
        )
    return first.path if version is None else _checked(version, models)


def _checked(version: ModelVersion, models: ModelStore) -> Path:
    gate = version.manifest.get("gate")
    if not isinstance(gate, dict) or gate.get("passed") is not True:
        raise GboptError(f"{version.version} did not pass the gate, by its manifest")
    folder, path = models.root / "models", version.path
    try:
        about = os.lstat(path)
        is_below = path.resolve(strict=True).is_relative_to(folder.resolve(strict=True))
    except OSError as error:
        raise GboptError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(about.st_mode) or not is_below:
        raise GboptError(f"{path}: expected a regular file in {folder}")
    if about.st_size > MAX_WEIGHTS_BYTES:
        raise GboptError(f"{path}: {about.st_size} bytes, at most {MAX_WEIGHTS_BYTES} expected")
    models.verify(version)
    return path


def check_proposals(
    network: ProposalNetwork, recent: Sequence[tuple[Image, Proposals]], *, must_agree: bool
) -> None:
    """Run a network on the last frames and compare it with the one that serves.

    Args:
        recent: images, and what the serving network proposed for them.
        must_agree: false for an older network, to which one may return because the one that serves
            is bad.

    Raises:
        GboptError: it fails, or proposes other masks.
    """
    try:
        found = network.propose([image for image, _ in recent])
    except (ValueError, RuntimeError) as error:
        raise GboptError(f"it fails on the last frames ({error})") from error
    same, count = 0, 0
    for (_, served), proposed in zip(recent, found, strict=True):
        best = served.rles[:_BEST]
        count += len(best)
        same += int((iou_matrix(best, proposed.rles).max(axis=1, initial=0.0) >= _SAME_IOU).sum())
    if must_agree and same < MIN_AGREEMENT * count:
        raise GboptError(
            f"on the last frames it proposes {same} of the best {count} masks of the network that "
            f"serves, at least {100 * MIN_AGREEMENT:.0f} % expected"
        )
