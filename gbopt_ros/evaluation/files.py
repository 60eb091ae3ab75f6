"""Files written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from gbopt_ros.structures import GboptError


def aside_of(path: Path) -> Path:
    """A temporary name in the folder of `path` with its suffix, so that `os.replace` is atomic."""
    return path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")


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
    aside = aside_of(path)
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise GboptError(f"{path}: cannot be written: {error.strerror or error}") from error
