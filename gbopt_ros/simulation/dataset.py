"""The splits of the Tabletop benchmark, rendered and written.

A split of stills is a COCO folder, `annotations.json` and `images/`. A split of video is a rosbag2
`recording/` and `annotations.json`, whose images have `stamp_ns` and `frame_index`. The `name` of
an annotation is the kind of the object, followed by its number in an environment.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gbopt_ros.io.datasets.coco import ANNOTATIONS_NAME, IMAGES_NAME, CocoImage, write_coco
from gbopt_ros.io.files import replacing_folder
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.simulation.camera import HEIGHT, WIDTH
from gbopt_ros.simulation.environment import ENVIRONMENT_OBJECTS
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
        seen: shows seen kinds of objects, or unseen ones.
        count: default number of labelled stills; 0 for a video.
        sample_of: name of a larger split that the images are a sample of, "" if of none.
        drawn_as: name that seeds the random numbers, "" for the split's own.
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
    """Options of the generated world.

    Attributes:
        seed: seed of all random numbers.
        jobs: number of worker processes.
        count: number of stills in each split of stills, None for the split's own.
        clips: number of scenes in a video split.
        frames_per_clip: number of frames of each scene, 10 a second.
        jpeg_quality: quality of stills and video, 1 to 100.
        kinds: names of the unseen kinds that the unseen splits show, () for all.
        environment: unseen splits show a fixed environment with recurring objects, tables and
            walls, in place of new ones in every scene.
        object_count: number of recurring objects in the environment.
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
    object_count: int = ENVIRONMENT_OBJECTS
    first: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise GboptError(f"seed: expected 0 or more, got {self.seed}")
        for name in ("jobs", "count", "clips", "frames_per_clip"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise GboptError(f"{name}: expected 1 or more, got {value}")
        if not 2 <= self.object_count <= ENVIRONMENT_OBJECTS:
            raise GboptError(
                f"object_count: expected 2 to {ENVIRONMENT_OBJECTS}, got {self.object_count}"
            )
        if self.first < 0:
            raise GboptError(f"first: expected 0 or more, got {self.first}")
        if not 1 <= self.jpeg_quality <= 100:
            raise GboptError(f"jpeg_quality: expected 1 to 100, got {self.jpeg_quality}")
        unseen_kinds(self.kinds)


def generate(out: Path, splits: Sequence[str], config: WorldConfig) -> None:
    """Write `out/<split>` for each split; the folder of a split appears when it is complete.

    Raises:
        GboptError: a split is unknown or exists, `out` cannot be written, or pybullet is not
            installed.
    """
    require_pybullet()
    for name in splits:
        if name not in SPLITS:
            raise GboptError(f"unknown split {name!r}: expected some of {', '.join(SPLITS)}")
        if (out / name).exists():
            raise GboptError(f"{out / name} exists already: remove it, or choose another --out")
    for name in splits:
        with replacing_folder(out / name) as folder:
            folder.mkdir()
            write = _write_stills if SPLITS[name].count else _write_video
            write(folder, name, config)


def _job(config: WorldConfig, split: str, seen: bool, index: int, frames: int = 0) -> Job:
    return Job(
        config.seed,
        split,
        seen,
        index,
        frames,
        config.jpeg_quality,
        config.kinds,
        config.environment,
        config.object_count,
    )


def _write_stills(folder: Path, name: str, config: WorldConfig) -> None:
    split = SPLITS[name]
    count = config.count or split.count
    origin, indices = split.sample_of or split.drawn_as or name, np.arange(count)
    if split.sample_of:
        rng = np.random.default_rng([config.seed, zlib.crc32(name.encode())])
        available = SPLITS[origin].count
        indices = np.sort(rng.choice(available, size=min(count, available), replace=False))
    jobs = [_job(config, origin, split.seen, int(index)) for index in indices]
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
    """The frames of a video split with their visible objects, scene after scene."""
    numbers = range(config.first, config.first + config.clips)
    jobs = [_job(config, name, SPLITS[name].seen, n, config.frames_per_clip) for n in numbers]
    stamp, index = _START_NS, 0
    clips = run_parallel(render_clip, jobs, config.jobs)
    for clip in tqdm(clips, name, len(jobs), unit="clip"):
        for image, visible in zip(clip.images, clip.objects, strict=True):
            yield Frame(image, stamp, index, FRAME_ID), visible
            stamp, index = stamp + _FRAME_NS, index + 1
        stamp += _GAP_NS - _FRAME_NS
