"""The recordings of a bulk run: named one by one, found in folders, or listed in a manifest."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from gbopt_ros.io.json_file import Fields, printable
from gbopt_ros.io.selection_format import SELECTION_NAME
from gbopt_ros.io.sources import Source, open_source
from gbopt_ros.io.sources.base import SourceOptions
from gbopt_ros.io.sources.folder import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_key
from gbopt_ros.io.sources.rosbag import STORAGE_SUFFIXES
from gbopt_ros.structures import GboptError

log = logging.getLogger(__name__)

_MANIFEST_SUFFIXES = (".yaml", ".yml")
_MANIFEST_KEYS = {"source", "topic", "start", "end", "name"}
_MAX_MANIFEST_BYTES = 1 << 24
_SPLIT = re.compile(r"_\d+$")  # rosbag2 numbers the files of one recording


@dataclass(frozen=True)
class Recording:
    """One recording and the frames of it to select in.

    Attributes:
        name: unique in a run, and the name of a folder.
        path: absolute.
        topic: image topic of a rosbag2, None for the only one.
    """

    name: str
    path: Path
    options: SourceOptions
    topic: str | None = None

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or "\0" in self.name or self.name.startswith("."):
            raise GboptError(f"{self.path}: {self.name!r} cannot be the name of a folder")

    def open(self) -> Source:
        """Open it. Raises GboptError as `open_source`."""
        return open_source(self.path, topic=self.topic, **vars(self.options))


def find_recordings(
    sources: Sequence[Path], options: SourceOptions, topic: str | None = None, *, out: Path
) -> list[Recording]:
    """The recordings of a command line.

    Args:
        sources: recordings, folders of recordings, and manifests.
        options, topic: of every recording, unless a manifest says otherwise.
        out: folder that is left out.

    Raises:
        GboptError: a path is not there, a manifest is wrong, two recordings have one name, or there
            is no recording.
    """
    found: list[Recording] = []
    for source in map(_absolute, sources):
        if source.is_file() and source.suffix.lower() in _MANIFEST_SUFFIXES:
            found += read_manifest(source, options, topic)
        elif not source.exists():
            raise GboptError(f"{source}: no such file or folder")
        else:
            for path in _recordings_in(source, _absolute(out)):
                inside = path.relative_to(source)
                parts = inside.parts if path != source else (path.name,)
                found.append(Recording(_name(path, parts), path, options, topic))
    if not found:
        raise GboptError(
            f"{', '.join(map(str, sources))}: no recording in it: expected rosbag2 folders, .mcap "
            "or .db3 files, videos, folders of images, or a manifest (.yaml)"
        )
    by_name: dict[str, Recording] = {}
    for recording in found:
        other = by_name.setdefault(recording.name, recording)
        if other is not recording:
            raise GboptError(
                f"two recordings have the name {recording.name!r}, {other.path} and "
                f"{recording.path}: give each a name in a manifest"
            )
    return found


def read_manifest(path: Path, options: SourceOptions, topic: str | None = None) -> list[Recording]:
    """The recordings that a YAML file lists.

    An entry is a path, or a mapping with `source` and, as needed, `topic`, `start` and `end`
    (seconds from the first frame) and `name`. Paths are relative to the file.

    Args:
        options, topic: what an entry does not say.

    Raises:
        GboptError: the file cannot be read, or an entry is something else.
    """
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise GboptError(f"{path}: expected at most {_MAX_MANIFEST_BYTES} bytes")
        entries = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, RecursionError) as error:
        raise GboptError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from error
    except OSError as error:
        raise GboptError(f"{path}: cannot be read ({error.strerror})") from error
    if not isinstance(entries, list) or not entries:
        raise GboptError(f"{path}: expected a list of sources, such as `- my_bag`")
    return [
        _entry(entry, f"{path}: entry {number}", path.parent, options, topic)
        for number, entry in enumerate(entries, 1)
    ]


def _entry(
    entry: Any, where: str, folder: Path, options: SourceOptions, topic: str | None
) -> Recording:
    fields = Fields({"source": entry} if isinstance(entry, str) else entry, where)
    unknown = sorted(str(key) for key in fields.content if key not in _MANIFEST_KEYS)
    if unknown:
        known = ", ".join(sorted(_MANIFEST_KEYS))
        raise GboptError(f"{where}: unknown key {unknown[0]!r}; expected {known}")
    path = _absolute(folder / fields.text("source"))
    name = fields.text("name", default=_name(path, (path.name,)))
    topic = fields.text("topic") if "topic" in fields else topic
    ends: dict[str, Any] = {key: fields.number(key) for key in ("start", "end") if key in fields}
    try:
        return Recording(name, path, replace(options, **ends), topic)
    except GboptError as error:
        raise GboptError(f"{where}: {error}") from error


def _recordings_in(path: Path, out: Path) -> Iterator[Path]:
    """The recording at a path, or all those below it, in natural order."""
    if os.path.isfile(path):
        yield path
        return
    if path.resolve() in map(Path.resolve, path.parents):  # a link to a folder that it is in
        return
    try:
        entries = list(path.iterdir())
    except OSError as error:
        log.warning("%s: left out, it cannot be read (%s)", path, error.strerror)
        return
    children = sorted((e for e in entries if not e.name.startswith(".")), key=natural_key)
    names = {child.name for child in children}
    # Unlike those of Path, the tests of os.path pass over what must not be looked at.
    suffixes = {child.suffix.lower() for child in children if os.path.isfile(child)}
    storages = [child for child in children if child.suffix in STORAGE_SUFFIXES]
    if path == out or SELECTION_NAME in names:  # masks are selected there
        return
    if "metadata.yaml" in names or _are_split(storages):
        yield path
        return
    below = _recordings_among(children, out)
    if not suffixes & {*IMAGE_SUFFIXES}:
        yield from below
        return
    yield path
    if (other := next(below, None)) is not None:
        log.warning(
            "%s: taken for a folder of images; other recordings in it, such as %s, are left out: "
            "name them, too, or move the images", path, other,
        )  # fmt: skip


def _recordings_among(children: list[Path], out: Path) -> Iterator[Path]:
    for child in children:
        if os.path.isdir(child):
            yield from _recordings_in(child, out)
        elif child.suffix.lower() in (*STORAGE_SUFFIXES, *VIDEO_SUFFIXES):
            yield child


def _are_split(storages: list[Path]) -> bool:
    """Whether the files are one recording that rosbag2 split; else each is a recording."""
    stems = {_SPLIT.sub("", file.stem) for file in storages}
    return len(stems) == 1 and all(_SPLIT.search(file.stem) for file in storages)


def _name(path: Path, parts: Sequence[str]) -> str:
    """A name out of the parts of a path, without the suffix of a file."""
    *folders, last = map(printable, parts)
    return "-".join([*folders, Path(last).stem if path.is_file() else last])


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
