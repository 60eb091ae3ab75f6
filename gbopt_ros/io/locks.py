"""Locks whose owner can be told dead: the kernel gives them back when a process ends, however."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_held: set[int] = set()  # descriptors


def try_lock(path: Path, flags: int = os.O_RDONLY) -> int | None:
    """Lock a file or a folder (flock) for this process alone.

    Forked children do not inherit the lock, so it ends with its owner.

    Args:
        flags: of `os.open`; with `os.O_CREAT` a missing file is made.

    Returns:
        A descriptor for `unlock`; None if another owner has the lock, or nothing is there.

    Raises:
        OSError: it cannot be opened, or the file system knows no locks.
    """
    try:
        descriptor = os.open(path, flags, 0o666)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have removed it between the two calls.
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            _held.add(descriptor)
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def unlock(descriptor: int) -> None:
    """Give a lock of `try_lock` back."""
    _held.discard(descriptor)
    os.close(descriptor)


def _leave_to_the_parent() -> None:
    """Close the descriptors that a fork copied: as long as one is open, the lock is held."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)
