"""Files and folders that are written whole or not at all, and JSON files read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from gbopt_ros.structures import GboptError


def aside_of(path: Path) -> Path:
    """A temporary name in the folder of `path` with its suffix, so that `os.replace` is atomic."""
    return path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")


@contextmanager
def replacing(path: Path, *errors: type[Exception]) -> Iterator[Path]:
    """A temporary file name. The file takes the name `path` when the block ends.

    Missing folders are made. After a failure `path` is as it was before, and the temporary file is
    removed (a loss of power may leave it).

    Args:
        errors: further exceptions that mean a failure to write, such as those of a library.

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
        raise unwritable(path, error) from error


@contextmanager
def replacing_folder(folder: Path, *errors: type[Exception]) -> Iterator[Path]:
    """A temporary folder, still to be made, that becomes `folder` when the block ends.

    `folder` must not exist, or be empty. Its name is the last part of the temporary path too.
    Missing parents are made. After a failure nothing is left, and the error of the block names
    `folder` in place of the temporary path.

    Args:
        errors: further exceptions that mean a failure to write, such as those of a library.

    Raises:
        GboptError: `folder` holds something, or cannot be written.
    """
    failures: tuple[type[Exception], ...] = (OSError, *errors)
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise GboptError(f"{folder}: exists already; choose another --out or remove it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}.", dir=folder.parent, ignore_cleanup_errors=True
        ) as temporary:
            aside = Path(temporary, folder.name)
            try:
                yield aside
            except GboptError as error:
                raise GboptError(str(error).replace(str(aside), str(folder))) from error
            os.replace(aside, folder)  # POSIX replaces an empty folder
    except failures as error:
        raise unwritable(folder, error) from error
    finally:
        if not folder.exists():
            for parent in made:
                with suppress(OSError):
                    parent.rmdir()


def abandon(files: ExitStack) -> None:
    """Leave the contexts of a writer so that nothing is published, and no error is added."""
    reason = RuntimeError("abandoned")
    with suppress(OSError, GboptError):
        files.__exit__(type(reason), reason, None)


def unwritable(path: Path, error: BaseException) -> GboptError:
    """The error for a file or folder that cannot be written."""
    return GboptError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}")


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
    """Write UTF-8 text atomically, with missing folders. Raises GboptError if that fails."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises GboptError if it cannot be read or is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GboptError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise GboptError(f"{path}: expected JSON: {error}") from error
