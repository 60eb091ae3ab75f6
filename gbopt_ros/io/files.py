"""Files and folders that are written whole or not at all, and JSON files read.

What is being written has a hidden temporary folder beside its target, `.NAME.xxxxxxxx.part`, which
its owner keeps locked. So the leftovers of a process that was killed can be told from the work of
one that is alive (`collect_leftovers`). Everything is on the disk before a name is given to it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from gbopt_ros.io.locks import try_lock, unlock
from gbopt_ros.structures import GboptError

_PART = ".part"
_ROOM = 1 << 18  # bytes


@contextmanager
def replacing(path: Path, *errors: type[Exception]) -> Iterator[Path]:
    """A temporary file of the same name. It takes the place of `path` when the block ends.

    Missing folders are made. After a failure `path` is as it was before, and the error of the block
    names `path` in place of the temporary file.

    Args:
        errors: further exceptions that mean a failure to write, such as those of a library.

    Raises:
        GboptError: it cannot be written.
    """
    failures: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        make_parents(path)
        with temporary_folder(path.parent, path.name) as temporary:
            aside = temporary / path.name
            with _named(aside, path):
                yield aside
            sync(aside)
            os.replace(aside, path)
            sync(path.parent)
    except failures as error:
        raise unwritable(path, error) from error


@contextmanager
def replacing_folder(
    folder: Path,
    *errors: type[Exception],
    unfinished: Path | None = None,
    keep: Callable[[], bool] = lambda: False,
) -> Iterator[Path]:
    """A temporary folder, still to be made, that becomes `folder` when the block ends.

    `folder` must not exist, or be empty. Its name is the last part of the temporary path too; the
    parent of the temporary path takes files that shall not be published. Missing parents are made,
    and leftovers of earlier writers of `folder` removed. After a failure nothing is left, and the
    error of the block names `folder` in place of the temporary path.

    Args:
        errors: further exceptions that mean a failure to write, such as those of a library.
        unfinished: one of `unfinished_folders`, to go on with; it may exist.
        keep: whether the temporary folder stays after a failure, to be gone on with.

    Raises:
        GboptError: `folder` holds something, or cannot be written.
    """
    failures: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            collect_leftovers(folder.parent, folder.name)  # of the one that wrote it
            raise GboptError(f"{folder}: exists already; remove it, or write elsewhere")
        earlier = None if unfinished is None else unfinished.parent
        with (
            parents_of(folder),
            temporary_folder(folder.parent, folder.name, earlier, keep) as temporary,
        ):
            collect_leftovers(folder.parent, folder.name)
            aside = temporary / folder.name
            with _named(aside, folder):
                yield aside
            sync_tree(aside)
            os.replace(aside, folder)  # POSIX replaces an empty folder
            sync(folder.parent)
    except failures as error:
        raise unwritable(folder, error) from error


@contextmanager
def _named(aside: Path, path: Path) -> Iterator[None]:
    """Let errors name the target, not the temporary path."""
    try:
        yield
    except GboptError as error:
        raise GboptError(str(error).replace(str(aside), str(path))) from error


@contextmanager
def temporary_folder(
    place: Path,
    name: str,
    earlier: Path | None = None,
    keep: Callable[[], bool] = lambda: False,
) -> Iterator[Path]:
    """A hidden folder in `place`, removed when the block ends.

    Args:
        name: shows in the name of the folder what it is for.
        earlier: a leftover to take over, in place of a new folder.
        keep: whether it stays if the block fails.

    Raises:
        GboptError: another process has taken the leftover.
        OSError: `place` cannot be written.
    """
    folder, lock = _new_folder(place, name) if earlier is None else _take_over(earlier)
    kept = False
    try:
        yield folder
    except BaseException:
        kept = keep()
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            unlock(lock)


def _new_folder(place: Path, name: str) -> tuple[Path, int | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=_PART, dir=place))
        try:
            lock = try_lock(folder)
        except OSError:  # no locks here: nobody will take it for a leftover either
            return folder, None
        if lock is not None:
            return folder, lock
        # Another process took it for a leftover before it was locked, and removes it.


def _take_over(folder: Path) -> tuple[Path, int]:
    lock = try_lock(folder)
    if lock is None:
        raise GboptError(f"{folder}: another process goes on with it; wait until it is done")
    return folder, lock


def collect_leftovers(place: Path, name: str | None = None) -> None:
    """Remove temporary folders in `place` whose owners were killed.

    Args:
        name: only those for this file or folder; None: all.
    """
    for folder in _leftovers(place, name):
        with suppress(OSError):
            lock = try_lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                unlock(lock)


def unfinished_folders(folder: Path) -> list[Path]:
    """What writers of `folder` left that are dead: paths to give to `replacing_folder`."""
    return [left / folder.name for left in _leftovers(folder.parent, folder.name) if _is_free(left)]


def is_unfinished_elsewhere(folder: Path) -> bool:
    """Whether a process that is alive is writing `folder`."""
    return not all(map(_is_free, _leftovers(folder.parent, folder.name)))


def _leftovers(place: Path, name: str | None) -> list[Path]:
    """The temporary folders in a place, those in use too."""
    wanted = ".+" if name is None else re.escape(name)
    pattern = re.compile(rf"\.{wanted}\.[a-z0-9_]{{8}}{re.escape(_PART)}")
    try:
        entries = [entry for entry in os.scandir(place) if entry.name.startswith(".")]
    except OSError:
        return []
    found = [entry for entry in entries if pattern.fullmatch(entry.name)]
    return [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]


def _is_free(folder: Path) -> bool:
    try:
        lock = try_lock(folder)
    except OSError:
        return False
    if lock is not None:
        unlock(lock)
    return lock is not None


def remove_folder(folder: Path) -> None:
    """Remove a folder so that nobody sees a part of it. Raises OSError if that cannot be done."""
    with temporary_folder(folder.parent, folder.name) as temporary:
        os.replace(folder, temporary / folder.name)
        sync(folder.parent)


def remove_file(path: Path) -> None:
    """Remove a file for good. Raises GboptError if that cannot be done."""
    try:
        path.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def abandon(files: ExitStack) -> None:
    """Leave the contexts of a writer so that nothing is published, and no error is added."""
    reason = RuntimeError("abandoned")
    with suppress(OSError, GboptError):
        files.__exit__(type(reason), reason, None)


def unwritable(path: Path, error: BaseException) -> GboptError:
    """The error for a file or folder that cannot be written."""
    return GboptError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}")


def is_full(place: Path) -> bool:
    """Whether the disk of a file or folder has no room left that is worth the name."""
    try:
        return shutil.disk_usage(place).free < _ROOM
    except OSError:
        return False


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until a folder would survive a loss of power, with all that is in it."""
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            if not path.is_symlink():
                sync(path)
        sync(Path(place))


def path_below(folder: Path, name: str) -> Path:
    """The path of a file that somebody else's file names, such as a dataset its images.

    Raises:
        GboptError: it is not below the folder.
    """
    path = folder / name
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
        raise GboptError(f"{path}: expected a file in {folder}, this one is outside of it")
    return path


@contextmanager
def parents_of(path: Path) -> Iterator[None]:
    """As `make_parents` for a block; those that are empty when it ends are removed again."""
    made = [parent for parent in path.parents if not parent.exists()]
    make_parents(path)
    try:
        yield
    finally:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def make_parents(path: Path) -> None:
    """Make the folder that `path` is in, durably. Raises OSError if that cannot be done."""
    for folder in reversed(path.parents):
        if not folder.is_dir():
            try:
                folder.mkdir(exist_ok=True)
            except FileExistsError as error:
                raise NotADirectoryError(errno.ENOTDIR, f"{folder} is no folder") from error
            sync(folder.parent)


def make_folder(folder: Path) -> None:
    """Create or open a folder for output, with its parents.

    Leftovers of writers that were killed are removed from it.

    Raises:
        GboptError: it cannot be made or written.
    """
    try:
        make_parents(folder / "any")
    except OSError as error:
        raise GboptError(f"{folder}: cannot be made a folder: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise GboptError(f"{folder}: cannot be written to; choose another output folder")
    collect_leftovers(folder)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, with missing folders. Raises GboptError if that fails."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
