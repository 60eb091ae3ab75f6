"""Files written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gbopt_ros.structures import GboptError


def aside_of(path: Path) -> Path:
    """A temporary name in the folder of `path` with its suffix, so that `os.replace` is atomic."""
    return path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")


@contextmanager
def replacing(path: Path, *errors: type[Exception]) -> Iterator[Path]:
    """A temporary name for what is to be `path`, which it becomes when the block ends.

    Folders are made. After a failure, one of power included, `path` is as it was; nothing else is
    left but after that one.

    Args:
        errors: what a library raises, beside OSError, where a file cannot be written.

    Raises:
        GboptError: it cannot be written.
    """
    aside = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        sync(aside)
        os.replace(aside, path)
        sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink()
        if not isinstance(error, (OSError, *errors)):
            raise
        reason = getattr(error, "strerror", None) or error
        raise GboptError(f"{path}: cannot be written: {reason}") from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder for output with its parents. Raises GboptError if that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GboptError(f"{folder}: cannot be made a folder: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise GboptError(f"{folder}: cannot be written to; choose another output folder")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, its folder included. Raises GboptError if it cannot be."""
    make_folder(path.parent)
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
