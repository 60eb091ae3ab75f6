"""Damaged files of every kind that the package reads, each with its reader.

A reader may give a value or raise GboptError. Any other exception, the death of the process, or
more than `MAX_BYTES` of memory is a fault.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import resource
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image as PilImage

from gbopt_ros.config import load_config
from gbopt_ros.io.datasets import yolo
from gbopt_ros.io.datasets.coco import CocoImage, load_coco, write_coco
from gbopt_ros.io.datasets.davis import read_label_image
from gbopt_ros.io.datasets.youtube_vis import load_youtube_vis
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.io.selection_format import read_selection
from gbopt_ros.io.sources import open_source
from gbopt_ros.io.sources.images import read_image
from gbopt_ros.masks import decode, encode, encode_all
from gbopt_ros.structures import GboptError
from support.recordings import (
    disc_frames,
    noise_frames,
    storage_file,
    write_selection,
    write_video,
)

MAX_BYTES = 8 << 30
_SECONDS = 180.0  # of one case; the first one loads torch, maybe on a busy machine
_SIZE = (12, 16)

WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 0.5, float("nan"), float("inf"), 2**63, 2**64, -(10**30), 10**9,
    "", "x", "7", "a\0b", "\ud800", "../x", "x" * 5000, [], [1], [[]], {}, {"size": 1},
)  # fmt: skip
"""Values that a field of a JSON file may hold and should not."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        make: writes a sound file below a folder and returns it.
        read: reads it as the package does.
        is_json: whether its values are changed too.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    is_json: bool = False


def _rles(count: int = 2) -> Any:
    masks = np.zeros((count, *_SIZE), bool)
    for i, mask in enumerate(masks):
        mask[2:10, 3 * i : 3 * i + 2] = True
    return encode_all(masks)


def _coco(folder: Path) -> Path:
    images = [CocoImage(i, f"{i}.png", *_SIZE, {"frame_index": i}) for i in (1, 2)]
    path = folder / "annotations.json"
    write_coco(path, images, {1: _rles(), 2: _rles(1)}, {2: _rles(1)}, {1: ("mug", "duck")})
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[1, 1, 9, 1, 9, 9.5, 1, 9]]
    content["annotations"][1]["segmentation"] = {"size": [*_SIZE], "counts": [10, 20, 162]}
    path.write_text(json.dumps(content))
    return path


def _read_coco(path: Path) -> None:
    dataset = load_coco(path)
    for rles in dataset.rles_by_image.values():
        for rle in rles:
            decode(rle)
    dataset.to_coco()


def _results(folder: Path) -> Path:
    _coco(folder)
    entries = [
        {"image_id": 1, "segmentation": rle, "score": 0.5, "category_id": 1} for rle in _rles()
    ]
    (folder / "results.json").write_text(json.dumps(entries))
    return folder / "results.json"


def _read_results(path: Path) -> None:
    from gbopt_ros.evaluation.results import load_results

    load_results(path, load_coco(path.with_name("annotations.json")))


def _youtube_vis(folder: Path) -> Path:
    (folder / "JPEGImages").mkdir()
    content = {
        "videos": [
            {"id": 5, "height": 12, "width": 16, "file_names": ["a/0.jpg", "a/1.jpg"]},
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "fish"}],
        "annotations": [
            {"id": 1, "video_id": 5, "category_id": 2, "iscrowd": 0, "segmentations": [*_rles()]}
        ],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


def _selection(folder: Path) -> Path:
    frames = {i: (np.zeros((*_SIZE, 3), np.uint8), _rles()) for i in range(2)}
    return write_selection(folder / "replay", "cups", frames) / "selected.json"


def _run(folder: Path) -> Path:
    path = _selection(folder).with_name("run.json")
    clip = {"clip_id": 0, "frames": 2, "masks": 4, "energy": 0.5, "optimal": True}
    path.write_text(json.dumps({"recording": "cups", "seconds": {"flow": 0.5}, "clips": [clip]}))
    return path


def _read_run(path: Path) -> None:
    from gbopt_ros.demo.before_after import Replay

    _ = Replay.read(path.parent).numbers


def _store(folder: Path) -> Path:
    from gbopt_ros.learning.store.model_store import ModelStore
    from gbopt_ros.models.weights import PROPOSALS, WeightsInfo
    from support.networks import Point

    facts = {"gate": {"passed": True, "reason": "better"}, "teachers": ["seed"], "instances": 3}
    info = WeightsInfo(PROPOSALS, "slim18-fpn", "seed")
    return ModelStore(folder).publish(Point(), info, facts).path


def _manifest(folder: Path) -> Path:
    return _store(folder).with_name("manifest.json")


def _pointer(folder: Path) -> Path:
    return _store(folder).parents[1] / "current.json"


def _read_store(path: Path) -> None:
    from gbopt_ros.cli import models
    from gbopt_ros.learning.store.model_store import ModelStore

    root = next(parent.parent for parent in path.parents if parent.name == "models")
    store = ModelStore(root)
    store.serving()
    store.digests()
    models._store("list", root)
    for version in store.versions():
        models._card(root, version.version)


def _read_weights(path: Path) -> None:
    from gbopt_ros.models import weights

    weights.architecture_of(path)
    weights.is_foreign(path)
    weights.read_weights(path, weights.PROPOSALS)


def _catalogue(folder: Path) -> Path:
    from gbopt_ros.learning.data.training_set import TrainingSet

    with TrainingSet(folder / "set", 10**9) as training_set:
        training_set.add(read_selection(_selection(folder).parent))
    return folder / "set" / "catalogue.sqlite"


def _read_catalogue(path: Path) -> None:
    from gbopt_ros.learning.data.training_set import TrainingSet

    with TrainingSet(path.parent, 10**9) as training_set:
        training_set.newest_clips(3)
        training_set.labelled_images()
        training_set.export_coco(path.with_name("export.json"))


def _bag(storage: str, compressed: str | None = None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_rosbag(
            noise_frames(3, _SIZE), folder / "bag", storage=storage, topic="/camera",
            compressed=compressed,
        )  # fmt: skip
        return storage_file(folder / "bag")

    return make


def _metadata(folder: Path) -> Path:
    return _bag("mcap")(folder).with_name("metadata.yaml")


def _read_recording(path: Path) -> None:
    for frame in open_source(path):
        assert frame.image.ndim == 3


def _config(folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text("clip:\n  length: 12\nselection:\n  k: 5\n  epsilon: 0.01\ndevice: cpu\n")
    return path


def _image(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        cv2.imwrite(str(folder / f"image{suffix}"), noise_frames(1, _SIZE)[0].image)
        return folder / f"image{suffix}"

    return make


def _labels(folder: Path) -> Path:
    image = PilImage.fromarray(np.arange(192, dtype=np.uint8).reshape(_SIZE))
    image.putpalette([v % 256 for v in range(768)])
    image.save(folder / "labels.png")
    return folder / "labels.png"


def _yolo(folder: Path) -> Path:
    mask = np.zeros(_SIZE, bool)
    mask[2:5, 3:9] = True
    (folder / "labels.txt").write_text(yolo.format_labels([encode(mask)] * 3))
    return folder / "labels.txt"


def _video(folder: Path) -> Path:
    return write_video(folder / "video.mp4", disc_frames(4), "mp4v")


LIGHT: dict[str, Kind] = {
    "annotations.json": Kind(_coco, _read_coco, True),
    "results.json": Kind(_results, _read_results, True),
    "instances.json": Kind(_youtube_vis, lambda path: load_youtube_vis(path.parent), True),
    "selected.json": Kind(_selection, lambda path: list(read_selection(path.parent)), True),
    "mcap": Kind(_bag("mcap"), _read_recording),
    "mcap of PNGs": Kind(_bag("mcap", "png"), _read_recording),
    "db3": Kind(_bag("sqlite3"), _read_recording),
    "metadata.yaml": Kind(_metadata, lambda path: _read_recording(path.parent)),
    "config.yaml": Kind(_config, load_config),
    "png": Kind(_image(".png"), read_image),
    "jpeg": Kind(_image(".jpg"), read_image),
    "bmp": Kind(_image(".bmp"), read_image),
    "tiff": Kind(_image(".tiff"), read_image),
    "webp": Kind(_image(".webp"), read_image),
    "label png": Kind(_labels, read_label_image),
    "yolo.txt": Kind(_yolo, lambda path: yolo.read_labels(path, _SIZE)),
    "mp4": Kind(_video, _read_recording),
}
"""Kinds whose readers need no torch."""

KINDS = LIGHT | {
    "run.json": Kind(_run, _read_run, True),
    "manifest.json": Kind(_manifest, _read_store, True),
    "current.json": Kind(_pointer, _read_store, True),
    "safetensors": Kind(_store, _read_weights),
    "catalogue.sqlite": Kind(_catalogue, _read_catalogue),
}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A copy with flipped bits, a cut, a repeated block, or other numbers."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed) + 1)
        end = min(len(changed), at + rng.choice((1, 4, 64, 1000)))
        way = rng.randrange(5)
        if way == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            del changed[at : end if rng.random() < 0.7 else len(changed)]
        elif way == 2:
            changed[at:at] = changed[at:end]
        elif way == 3:
            changed[at:end] = rng.choice((b"\0", b"\xff", b"9")) * (end - at)
        else:
            numbers = [*re.finditer(rb"\d+", bytes(changed))]
            if numbers:
                number = rng.choice(numbers)
                other = rng.choice((b"-1", b"0", b"1e999", b"99999999999999999999", b"NaN", b"1e9"))
                changed[number.start() : number.end()] = other
    return bytes(changed)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in JSON content."""
    if isinstance(content, dict | list):
        keys = content if isinstance(content, dict) else range(len(content))
        for key in keys:
            yield (*path, key)
            yield from places(content[key], (*path, key))


def with_value(content: Any, path: tuple[Any, ...], value: Any) -> str:
    """JSON text of the content with another value in a place, or with 100,000 brackets there."""
    mark = "@place@"
    changed = json.loads(json.dumps(content))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = mark
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return json.dumps(changed).replace(f'"{mark}"', text.decode())


DEEP = b"[" * 100_000 + b"]" * 100_000


def verdict(kind: Kind, path: Path) -> str:
    """ "value" or "error"; anything else is the traceback of a fault."""
    try:
        kind.read(path)
    except GboptError:
        return "error"
    except BaseException:
        return traceback.format_exc(limit=-4)
    return "value"


def case(name: str, number: int, folder: Path) -> str:
    """Make, damage and read one file; the same damage for the same name and number."""
    kind, rng = KINDS[name], random.Random(f"{name}/{number}")
    whole, note = folder / "whole" / name, folder / f"{name}.path"
    if not note.exists():
        shutil.rmtree(whole, ignore_errors=True)  # half made by a process that was killed
        whole.mkdir(parents=True)
        note.write_text(str(kind.make(whole).relative_to(whole)))
    shutil.rmtree(folder / "case", ignore_errors=True)
    shutil.copytree(whole, folder / "case")
    path = folder / "case" / note.read_text()
    if kind.is_json and rng.random() < 0.6:
        content = json.loads(path.read_text())
        value = rng.choice((*WRONG, DEEP))
        path.write_text(with_value(content, rng.choice([*places(content)]), value))
    else:
        path.write_bytes(damaged(path.read_bytes(), rng))
    return verdict(kind, path)


def serve(connection: Connection, folder: Path) -> None:
    """Answer (name, number) with the verdict, with no more memory than allowed."""
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
    while True:
        name, number = connection.recv()
        connection.send(case(name, number, folder))


class Isolated:
    """Cases in a process of their own; it is started again when one has killed it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._context = folder, multiprocessing.get_context("spawn")
        self._process: Any = None

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def verdict(self, name: str, number: int) -> str:
        """As `case`, or what became of the process."""
        if self._process is None:
            self._connection, theirs = self._context.Pipe()
            self._process = self._context.Process(
                target=serve, args=(theirs, self._folder), daemon=True
            )
            self._process.start()
            theirs.close()
        self._connection.send((name, number))
        try:
            if self._connection.poll(_SECONDS):
                return str(self._connection.recv())
            found = f"no answer in {_SECONDS:.0f} s"
        except EOFError:
            self._process.join()
            found = f"the process died with status {self._process.exitcode}"
        self._stop()
        return found

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
