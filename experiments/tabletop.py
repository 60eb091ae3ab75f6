"""The data of the learning benchmarks: what comes with the demo, or another world of Tabletop."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from experiments.cache import digest, digest_of_files
from gbopt_ros.io.datasets.coco import CocoDataset, load_coco, load_coco_dir
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources import open_source
from gbopt_ros.io.sources.base import Source
from gbopt_ros.simulation.dataset import (
    ENVIRONMENT_SPLITS,
    RECORDING_NAME,
    WorldConfig,
    environment_config,
    generate,
)
from gbopt_ros.structures import Rle

BUNDLED_SEED = 0  # of the world that the demo data comes from
STILLS = {"unseen-test": 110, "unseen-val": 110, "seen-val": 100, "validation": 45, "rehearsal": 95}
CLIPS, FRAMES, QUALITY = 24, 10, 80
_VALIDATION_CLIPS = 12
_VALIDATION_SEED = 1000  # is added to the world's own for the recording to choose thresholds on

On = Literal["test", "val"]


@dataclass(frozen=True)
class Recording:
    """A recording of unseen objects with its ground truth, all of it or from `start` to `end` s."""

    path: Path
    labels: Path
    start: float | None = None
    end: float | None = None
    name: str = "recording"

    def open(self) -> Source:
        return open_source(self.path, start=self.start, end=self.end)

    @cached_property
    def truth(self) -> dict[int, tuple[Rle, ...]]:
        """The instances of every frame, by frame index."""
        labels = load_coco(self.labels)
        return {im.extra["frame_index"]: labels.rles_by_image[im.id] for im in labels.images}

    @cached_property
    def names(self) -> dict[int, tuple[str, ...]]:
        """The names of these instances; empty where they have none."""
        labels = load_coco(self.labels)
        return {
            image.extra["frame_index"]: labels.names_by_image[image.id]
            for image in labels.images
            if image.id in labels.names_by_image
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what it shows and of its labels."""
        return digest([digest_of_files(self.path, self.labels), self.start, self.end])


@dataclass(frozen=True)
class Stills:
    """Labelled stills.

    Attributes:
        unseen, seen: to report on.
        rehearsal: of seen objects, to learn from.
    """

    unseen: CocoDataset
    seen: CocoDataset
    rehearsal: CocoDataset


@dataclass(frozen=True)
class Tabletop(Stills):
    """All that an experiment learns from, chooses by and is judged on.

    Attributes:
        name: of the world.
        train: what masks are selected in.
        validation: of other scenes; thresholds are chosen on it. None where no row needs any.
    """

    name: str
    train: Recording
    validation: Recording | None


def bundled(out: Path, on: On, jobs: int, choose: bool) -> Tabletop:
    """The demo's data; what does not come with it is rendered below `out`."""
    folder = out / f"world-{BUNDLED_SEED}"
    if on == "val":
        render(folder, ["unseen-val"], BUNDLED_SEED, (), jobs)
    unseen = folder / "unseen-val" if on == "val" else find_resource("demo/unseen-test")
    return Tabletop(
        load_coco_dir(unseen),
        load_coco_dir(find_resource("demo/seen-test")),
        load_coco_dir(find_resource("demo/rehearsal")),
        "bundled",
        Recording(find_resource("demo/recording"), find_resource("demo/recording.json")),
        validation_recording(folder, BUNDLED_SEED, (), jobs) if choose else None,
    )


def rendered(
    out: Path,
    seed: int,
    kinds: tuple[str, ...],
    on: On,
    jobs: int,
    choose: bool,
    clips: int = CLIPS,
    rehearsal: int = STILLS["rehearsal"],
) -> Tabletop:
    """Another world, by default as large as the bundled one; what is missing is rendered.

    Args:
        clips: scenes of the recording that masks are selected in.
        rehearsal: labelled stills to rehearse.
    """
    name = f"world-{seed}" + (f"-{digest(kinds)[:8]}" if kinds else "")
    if (clips, rehearsal) != (CLIPS, STILLS["rehearsal"]):
        name += f"-{clips}-{rehearsal}"
    folder, unseen = out / name, f"unseen-{on}"
    render(folder, ["unseen-train", unseen, "seen-val"], seed, kinds, jobs, clips)
    render(folder, ["rehearsal"], seed, kinds, jobs, stills=rehearsal)
    return Tabletop(
        load_coco_dir(folder / unseen),
        load_coco_dir(folder / "seen-val"),
        load_coco_dir(folder / "rehearsal"),
        name,
        recording_of(folder),
        validation_recording(folder, seed, kinds, jobs) if choose else None,
    )


def environment(out: Path, seed: int, jobs: int, choose: bool) -> Tabletop:
    """An environment, learnt in by the network that comes with the demo; what is missing is rendered.

    Seen data is the demo's. Thresholds are chosen in other scenes, not in the environment.
    """
    folder = out / f"environment-{seed}"
    for name in ENVIRONMENT_SPLITS:
        if not (folder / name).exists():
            generate(folder, [name], environment_config(seed, jobs))
    chosen_on = out / f"world-{BUNDLED_SEED}"
    return Tabletop(
        load_coco_dir(folder / "unseen-test"),
        load_coco_dir(find_resource("demo/seen-test")),
        load_coco_dir(find_resource("demo/rehearsal")),
        folder.name,
        recording_of(folder),
        validation_recording(chosen_on, BUNDLED_SEED, (), jobs) if choose else None,
    )


def few() -> Tabletop:
    """A few frames and stills of the demo, for smoke tests; nothing is rendered."""
    recording, labels = find_resource("demo/recording"), find_resource("demo/recording.json")
    stills = {
        name: first(load_coco_dir(find_resource(f"demo/{name}")), count)
        for name, count in (("unseen-test", 4), ("seen-val", 4), ("rehearsal", 8))
    }
    return Tabletop(
        stills["unseen-test"],
        stills["seen-val"],
        stills["rehearsal"],
        "few",
        Recording(recording, labels, end=0.45),
        Recording(recording, labels, start=5.85, end=6.25),
    )


def first(dataset: CocoDataset, count: int) -> CocoDataset:
    """The first images of a dataset."""
    images = dataset.images[:count]
    return replace(
        dataset, images=images, rles_by_image={im.id: dataset.rles_by_image[im.id] for im in images}
    )


def recording_of(folder: Path) -> Recording:
    """The recording that `render` wrote into a folder."""
    split = folder / "unseen-train"
    return Recording(split / RECORDING_NAME, split / "annotations.json")


def validation_recording(folder: Path, seed: int, kinds: tuple[str, ...], jobs: int) -> Recording:
    """A recording of the same kinds in other scenes."""
    seed += _VALIDATION_SEED
    render(folder / "validation", ["unseen-train"], seed, kinds, jobs, _VALIDATION_CLIPS)
    return recording_of(folder / "validation")


def render(
    folder: Path,
    splits: Iterable[str],
    seed: int,
    kinds: tuple[str, ...],
    jobs: int,
    clips: int = CLIPS,
    stills: int | None = None,
) -> None:
    """Generate the splits that a folder lacks; each appears when it is complete."""
    for name in splits:
        if not (folder / name).exists():
            count = stills or STILLS.get(name)
            config = WorldConfig(seed, jobs, count, clips, FRAMES, QUALITY, kinds)
            generate(folder, [name], config)


def cores() -> int:
    """Processes that this machine runs at once."""
    return os.cpu_count() or 1
