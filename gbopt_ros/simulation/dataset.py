"""The splits of the Tabletop benchmark and how they are written.

A split of stills is a COCO folder, `annotations.json` and `images/`. A split of video is one
rosbag2 `recording/` and `annotations.json`, whose images carry `stamp_ns` and `frame_index`. Every
annotation carries the `name` of its object: its kind, in an environment with its number there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gbopt_ros.io.datasets.coco import ANNOTATIONS_NAME, IMAGES_NAME, CocoImage, write_coco
from gbopt_ros.io.sources.rosbag_writer import write_rosbag
from gbopt_ros.simulation.camera import HEIGHT, WIDTH
from gbopt_ros.simulation.environment import ENVIRONMENT_THINGS
from gbopt_ros.simulation.objects import unseen_kinds
from gbopt_ros.simulation.rendering import (
    FRAMES_PER_SECOND,
    JPEG_QUALITY,
    Job,
    render_clip,
    render_still,
    run_parallel,
)
from gbopt_ros.simulation.scene import Visible
from gbopt_ros.simulation.simulator import require_pybullet
from gbopt_ros.structures import Frame, GboptError

RECORDING_NAME = "recording"
TOPIC = "/camera/color/image_raw/compressed"
FRAME_ID = "camera_color_optical_frame"
_FRAME_NS = 1_000_000_000 // FRAMES_PER_SECOND
_GAP_NS = 5_000_000_000  # between scenes; longer than any gap within one
_START_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Split:
    """One part of the benchmark.

    Attributes:
        seen: shows seen kinds of object, or unseen ones.
        count: default number of labelled stills; 0 for a video.
        sample_of: the split whose images these are some of, "" if they are its own.
        drawn_as: name that its random numbers are drawn under, "" for its own.
    """

    seen: bool
    count: int = 0
    sample_of: str = ""
    drawn_as: str = ""


SPLITS: dict[str, Split] = {
    "seen-train": Split(True, 5000),
    "seen-val": Split(True, 150),
    "validation": Split(True, 60, drawn_as="seen-probe"),
    "rehearsal": Split(True, 260, sample_of="seen-train"),
    "unseen-val": Split(False, 150),
    "unseen-test": Split(False, 150),
    "unseen-train": Split(False),
}


@dataclass(frozen=True)
class WorldConfig:
    """What to generate.

    Attributes:
        seed: of everything.
        jobs: worker processes.
        count: stills in each split of stills, None for the split's own number.
        clips: scenes of a video split.
        frames_per_clip: frames of each scene, 10 a second.
        jpeg_quality: of stills and video, 1 to 100.
        kinds: names of the unseen kinds that the splits of unseen objects show, () for all.
        environment: the splits of unseen objects show one environment, always the same few things, tables and
            walls, in place of new ones in every scene.
        things: how many of the environment's things are there, the first ones.
        first: number of the first clip; clips of other numbers show other scenes.
    """

    seed: int = 0
    jobs: int = 1
    count: int | None = None
    clips: int = 24
    frames_per_clip: int = 15
    jpeg_quality: int = JPEG_QUALITY
    kinds: tuple[str, ...] = ()
    environment: bool = False
    things: int = ENVIRONMENT_THINGS
    first: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise GboptError(f"seed: expected 0 or more, got {self.seed}")
        for name in ("jobs", "count", "clips", "frames_per_clip"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise GboptError(f"{name}: expected 1 or more, got {value}")
        if not 2 <= self.things <= ENVIRONMENT_THINGS:
            raise GboptError(f"things: expected 2 to {ENVIRONMENT_THINGS}, got {self.things}")
        if self.first < 0:
            raise GboptError(f"first: expected 0 or more, got {self.first}")
        if not 1 <= self.jpeg_quality <= 100:
            raise GboptError(f"jpeg_quality: expected 1 to 100, got {self.jpeg_quality}")
        unseen_kinds(self.kinds)


ENVIRONMENT_SPLITS = ("unseen-train", "unseen-test")


def environment_config(seed: int, jobs: int) -> WorldConfig:
    """An environment as the demo and the benchmarks render it, for `ENVIRONMENT_SPLITS`: as much video as comes
    with the demo, and 100 stills."""
    return WorldConfig(
        seed, jobs, 100, clips=24, frames_per_clip=10, jpeg_quality=80, environment=True
    )


def generate(out: Path, splits: Sequence[str], config: WorldConfig) -> None:
    """Write `out/<split>` for each split; a split's folder appears when it is complete.

    Raises GboptError if a split is unknown or exists, if `out` cannot be written, or if pybullet
    is not installed.
    """
    require_pybullet()
    for name in splits:
        if name not in SPLITS:
            raise GboptError(f"unknown split {name!r}: expected some of {', '.join(SPLITS)}")
        if (out / name).exists():
            raise GboptError(f"{out / name} exists already: remove it, or choose another --out")
    for name in splits:
        try:
            _write_split(out, name, config)
        except OSError as error:
            raise GboptError(f"{out / name}: cannot be written: {error}") from error


def _write_split(out: Path, name: str, config: WorldConfig) -> None:
    out.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=out))
    try:
        folder = aside / name
        folder.mkdir()
        if SPLITS[name].count:
            _write_stills(folder, name, config)
        else:
            _write_video(folder, name, config)
        os.replace(folder, out / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_stills(folder: Path, name: str, config: WorldConfig) -> None:
    split = SPLITS[name]
    count = config.count or split.count
    origin, indices = split.sample_of or split.drawn_as or name, np.arange(count)
    if split.sample_of:
        rng = np.random.default_rng([config.seed, zlib.crc32(name.encode())])
        available = SPLITS[origin].count
        indices = np.sort(rng.choice(available, size=min(count, available), replace=False))
    jobs = [
        Job(
            config.seed,
            origin,
            split.seen,
            int(index),
            jpeg_quality=config.jpeg_quality,
            kinds=config.kinds,
            environment=config.environment,
            things=config.things,
        )
        for index in indices
    ]
    images: list[CocoImage] = []
    objects: dict[int, tuple[Visible, ...]] = {}
    (folder / IMAGES_NAME).mkdir()
    stills = run_parallel(render_still, jobs, config.jobs)
    for job, still in zip(jobs, tqdm(stills, name, len(jobs), unit="image"), strict=True):
        image = CocoImage(job.index + 1, f"{job.index:06d}.jpg", HEIGHT, WIDTH)
        (folder / IMAGES_NAME / image.file_name).write_bytes(still.jpeg)
        images.append(image)
        objects[image.id] = still.objects
    _write_labels(folder, images, objects)


def _write_video(folder: Path, name: str, config: WorldConfig) -> None:
    images: list[CocoImage] = []
    objects: dict[int, tuple[Visible, ...]] = {}

    def frames() -> Iterator[Frame]:
        for frame, visible in _video_frames(name, config):
            extra = {"stamp_ns": frame.stamp_ns, "frame_index": frame.index}
            file_name = f"{frame.index:06d}.jpg"
            images.append(CocoImage(frame.index + 1, file_name, HEIGHT, WIDTH, extra))
            objects[frame.index + 1] = visible
            yield frame

    write_rosbag(
        frames(),
        folder / RECORDING_NAME,
        storage="mcap",
        topic=TOPIC,
        compressed="jpeg",
        jpeg_quality=config.jpeg_quality,
        frame_id=FRAME_ID,
    )
    _write_labels(folder, images, objects)


def _write_labels(
    folder: Path, images: Sequence[CocoImage], objects: Mapping[int, Sequence[Visible]]
) -> None:
    write_coco(
        folder / ANNOTATIONS_NAME,
        images,
        {key: [o.rle for o in visible] for key, visible in objects.items()},
        names_by_image={key: [o.name for o in visible] for key, visible in objects.items()},
    )


def _video_frames(name: str, config: WorldConfig) -> Iterator[tuple[Frame, tuple[Visible, ...]]]:
    """The frames of a video split with the objects that each shows, scene after scene."""
    seen = SPLITS[name].seen
    jobs = [
        Job(
            config.seed,
            name,
            seen,
            index,
            config.frames_per_clip,
            kinds=config.kinds,
            environment=config.environment,
            things=config.things,
        )
        for index in range(config.first, config.first + config.clips)
    ]
    stamp, index = _START_NS, 0
    clips = run_parallel(render_clip, jobs, config.jobs)
    for clip in tqdm(clips, name, len(jobs), unit="clip"):
        for image, visible in zip(clip.images, clip.objects, strict=True):
            yield Frame(image, stamp, index, FRAME_ID), visible
            stamp, index = stamp + _FRAME_NS, index + 1
        stamp += _GAP_NS - _FRAME_NS
