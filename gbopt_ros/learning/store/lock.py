"""The lock of a store: one process at a time learns, rolls back or forgets. Readers need none."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gbopt_ros.io.files import make_parents, unwritable
from gbopt_ros.io.json_file import Fields
from gbopt_ros.io.locks import try_lock, unlock
from gbopt_ros.structures import GboptError

LEARNER = "learner.lock"
"""Name of the lock that a learner node has for as long as it is configured."""
_TRIES, _PAUSE_S = 5, 0.05


class StoreLock:
    """The right to change the versions of a store, or to remove something from its training set.

    The kernel holds it for a process, so it ends with the process. The file says who has it.

    Args:
        root: folder of the store; made when the lock is first taken.
        name: of the file; locks of other names are other rights.
    """

    def __init__(self, root: Path, name: str = "lock") -> None:
        self._root, self._path = root, root / name
        self._owner: int | None = None  # thread

    @contextmanager
    def held(self, verb: str) -> Iterator[None]:
        """Hold the lock for a block; in a thread that has it already, go on with it.

        Args:
            verb: what the block does, for the message that others get.

        Raises:
            GboptError: another thread or process has it, or the store cannot be written.
        """
        if self._owner == threading.get_ident():
            yield
            return
        lock = self._take()
        if lock is None:
            raise GboptError(f"{self._root}: {self._holder()}; wait until it is done, or stop it")
        self._owner = threading.get_ident()
        try:
            with suppress(OSError):  # on a full disk the name is missing, not the lock
                self._write(verb)
            yield
        finally:
            self._owner = None
            unlock(lock)

    def is_free(self) -> bool:
        """Whether nobody has the lock."""
        if not self._path.exists():
            return True
        try:
            lock = try_lock(self._path)
        except OSError:
            return False
        if lock is not None:
            unlock(lock)
        return lock is not None

    def _take(self) -> int | None:
        try:
            make_parents(self._path)
            for _ in range(_TRIES):  # `is_free` holds it for a moment
                lock = try_lock(self._path, os.O_RDWR | os.O_CREAT)
                if lock is not None:
                    return lock
                time.sleep(_PAUSE_S)
        except OSError as error:
            raise unwritable(self._root, error) from error
        return None

    def _write(self, verb: str) -> None:
        holder = {"verb": verb, "pid": os.getpid(), "host": socket.gethostname()}
        self._path.write_text(json.dumps(holder), encoding="utf-8")

    def _holder(self) -> str:
        """Who has the lock, in words."""
        try:
            holder = Fields.read(self._path)
            process = f"process {holder.integer('pid')} on {holder.text('host')}"
            return f"{holder.text('verb')} is under way in {process}"
        except GboptError:
            return "another process is writing it"
