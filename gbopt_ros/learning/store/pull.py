"""Versions of a store on another machine, taken into the own store.

The other machine serves its store with `gbopt serve-models`. It says which version serves there,
and that one is fetched and made the current one here. So the own store follows it, in a rollback
too. Only hosts that are allowed are asked, they are not followed elsewhere, and everything is
checked here before it is published.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from gbopt_ros.io.files import make_parents
from gbopt_ros.io.json_file import Fields, parse_json
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.learning.store.version import WEIGHTS_NAME, check_manifest, number
from gbopt_ros.models.download import (
    FAILURES,
    TIMEOUT_S,
    check_digest,
    fetch,
    lock_unfinished,
    open_directly,
    reason_of,
)
from gbopt_ros.structures import GboptError

MAX_WEIGHTS_BYTES = 4 << 30
MAX_MANIFEST_BYTES = 16 << 20  # the data of a version are listed by clip
SERVING_NAME = "serving.json"
_UNFINISHED = "unfinished"  # folder of weights that were not fetched whole
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Unreachable(GboptError):
    """The other machine does not answer, or the connection broke: it is worth trying again."""


class RemoteStore:
    """A store that another machine serves.

    Args:
        url: its address, such as `http://learner:8611/`; what follows the host does not count.
        allowed: hosts that may be asked, as `host:port`.

    Raises:
        GboptError: the address is none, or its host is not allowed.
    """

    def __init__(self, url: str, allowed: Sequence[str]) -> None:
        try:
            parts = urlsplit(url)
            port = {"http": 80, "https": 443}[parts.scheme]
            port = parts.port or port
            host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        except (KeyError, ValueError) as error:
            raise GboptError("the address of the models is no http or https address") from error
        name = f"{host}:{port}".lower()
        if name not in {each.strip().lower() for each in allowed} or parts.username is not None:
            raise GboptError(
                "models are not pulled from the host that was announced; name it in allowed_hosts, "
                "as host:port, if it is yours"
            )
        self.url = f"{parts.scheme}://{name}"  # nothing else that a stranger may have written

    def serving(self, *, compared: bool) -> dict[str, Any] | None:
        """The manifest of the version that serves there, None if none does.

        Args:
            compared: as of `ModelStore.serving`.

        Raises:
            Unreachable: the machine does not answer.
            GboptError: it answers something else, or the version did not pass its gate.
        """
        url = f"{self.url}/{SERVING_NAME}?compared={int(compared)}"
        try:
            with open_directly(url, timeout=TIMEOUT_S) as response:
                text = response.read(MAX_MANIFEST_BYTES + 1)
        except FAILURES as error:
            raise _failure(url, error) from error
        if len(text) > MAX_MANIFEST_BYTES:
            raise GboptError(f"{url}: more than {MAX_MANIFEST_BYTES} bytes")
        told = Fields(parse_json(text, url), url)
        if told.content.get("manifest") is None:
            return None
        manifest = told.object("manifest")
        check_manifest(manifest)
        name = manifest.text("version")
        if number(name) is None:
            raise GboptError(f"{url}: expected a version such as v0001, got {name!r}")
        if not _DIGEST.fullmatch(manifest.text("sha256")):
            raise GboptError(f"{url}: expected a SHA-256")
        if not manifest.object("gate").flag("passed", default=False):
            raise GboptError(f"{url}: {name} did not pass the gate, by its manifest")
        return dict(manifest.content)

    def follow(
        self,
        models: ModelStore,
        manifest: dict[str, Any] | None,
        *,
        keep: int,
        on_block: Callable[[], None] = lambda: None,
    ) -> None:
        """Make the version that serves there the current one of the own store.

        Args:
            manifest: of `serving`.
            keep: number of newest versions that stay.
            on_block: called before each block of a download; an exception in it ends it. The next
                call goes on.

        Raises:
            Unreachable: the connection broke; the next call goes on.
            GboptError: the own store has another version of the same name, the weights are not
                those of the manifest or too large, or the store cannot be written.
        """
        if manifest is not None and not models.has(manifest["version"], manifest["sha256"]):
            weights = self._fetch(models, manifest, on_block)
            models.adopt(manifest, weights)
        models.make_current(manifest["version"] if manifest is not None else None)
        models.prune(keep)

    def _fetch(
        self, models: ModelStore, manifest: dict[str, Any], on_block: Callable[[], None]
    ) -> Path:
        """Fetch the weights, or what is missing of them, and check them; returns their path."""
        name, digest = manifest["version"], manifest["sha256"]
        url = f"{self.url}/models/{name}/{WEIGHTS_NAME}"
        part = models.folder / _UNFINISHED / f"{digest}.part"
        try:
            make_parents(part)
            for left in part.parent.glob("*.part"):
                if left != part:
                    left.unlink()
            with part.open("a+b") as file:
                lock_unfinished(part, file)
                fetch(url, file, name, open_url=open_directly,
                      max_bytes=MAX_WEIGHTS_BYTES, on_block=on_block)  # fmt: skip
                file.flush()
                try:
                    check_digest(part, digest)
                except GboptError:
                    part.unlink()
                    raise
        except FAILURES as error:
            raise _failure(url, error) from error
        return part


def _failure(url: str, error: Exception) -> GboptError:
    """What to do about a download that failed: an answer that refuses stays the same."""
    if isinstance(error, HTTPError) and error.code < 500:
        return GboptError(f"{url}: answered with {error.code} {error.reason}")
    return Unreachable(f"{url}: {reason_of(error)}")
