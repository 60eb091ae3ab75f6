"""Results on disk under a hash of what they were made from: a run that was cut off goes on.

The hash is of inputs, not of code: after a change of code that changes results, start a new folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gbopt_ros.io.datasets.coco import CocoDataset
from gbopt_ros.io.files import sha256_of, write_text
from gbopt_ros.learning.data.datasets import InstanceDataset


def digest(value: Any) -> str:
    """SHA-256 of a value made of dataclasses, dictionaries, lists, text and numbers."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, np.generic):
        return value.item()
    return str(value)


def digest_of_weights(path: Path) -> str:
    """SHA-256 of a file, computed once until it changes: every row of a table asks for it."""
    about = path.stat()
    return _digest_of(path.resolve(), about.st_size, about.st_mtime_ns)


@cache
def _digest_of(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_of(path)


def digest_of_files(*paths: Path) -> str:
    """SHA-256 over the content of files, in their order; a folder stands for all files in it."""
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def digest_of_stills(dataset: CocoDataset) -> str:
    """SHA-256 of labels and images, whichever folder they lie in."""
    labels = dataset.images, dataset.rles_by_image, dataset.crowd_by_image
    total = hashlib.sha256(_canonical(labels).encode())
    for image in dataset.images:
        total.update(hashlib.sha256(dataset.load_image(image).tobytes()).digest())
    return total.hexdigest()


def digest_of_dataset(dataset: InstanceDataset) -> str:
    """SHA-256 of everything that a training can draw from a dataset."""
    total = hashlib.sha256()
    for index in range(len(dataset)):
        labelled = dataset[index]
        for field in fields(labelled):
            value = getattr(labelled, field.name)
            total.update(field.name.encode())
            if isinstance(value, np.ndarray):
                total.update(f"{value.shape}{value.dtype}".encode())
                total.update(value.tobytes())
            else:
                total.update(_canonical(value).encode())
    return total.hexdigest()


class Cache:
    """Values by kind and inputs, a JSON file each, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, kind: str, inputs: Any, suffix: str = "") -> Path:
        """Where a value of this kind, made from these inputs, lies or will lie."""
        return self.folder / f"{kind}-{digest(inputs)[:20]}{suffix}"

    def get(self, kind: str, inputs: Any) -> Any | None:
        """The value, None where there is none yet or its file was damaged."""
        try:
            content = json.loads(self.path(kind, inputs, ".json").read_text(encoding="utf-8"))
            return content["value"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, kind: str, inputs: Any, value: Any) -> None:
        """Write a value with what it was made from; its file appears whole."""
        content = _canonical({"inputs": inputs, "value": value})
        write_text(self.path(kind, inputs, ".json"), content)

    def get_or_make(self, kind: str, inputs: Any, make: Callable[[], Any]) -> Any:
        """The value, made and written where there is none yet."""
        value = self.get(kind, inputs)
        if value is None:
            value = make()
            self.put(kind, inputs, value)
        return value


def cache_of(out: Path) -> Cache:
    """The cache of the scripts that write into an output folder."""
    return Cache(out / "cache")
