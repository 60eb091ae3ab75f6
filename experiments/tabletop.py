"""The data of the experiments: what comes with the demo, or another world of Tabletop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from experiments.cache import digest, digest_of_files
from experiments.command_line import cores
from gbopt_ros.io.datasets.coco import CocoDataset, load_coco, load_coco_dir
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources import open_source
from gbopt_ros.io.sources.base import Source
from gbopt_ros.simulation.dataset import RECORDING_NAME, WorldConfig, generate
from gbopt_ros.structures import Rle

ENVIRONMENT_SEED = 101  # of the environment that comes with the demo
ENVIRONMENT_SPLITS = ("unseen-train", "unseen-test")
STILLS = {"unseen-test": 110, "unseen-val": 110, "seen-val": 100, "rehearsal": 95}
CLIPS, FRAMES, QUALITY = 24, 10, 80
_SEEN_SEED = 0  # of the world that the demo's images of seen classes come from
_VALIDATION_CLIPS = 12
_VALIDATION_SEED = 1000  # added to the world's seed for the recording that thresholds come from

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
        """SHA-256 of frames and labels."""
        return digest([digest_of_files(self.path, self.labels), self.start, self.end])


@dataclass(frozen=True)
class Stills:
    """Labelled stills.

    Attributes:
        unseen, seen: test sets.
        rehearsal: stills of seen objects, to learn from.
        photographs: one more test set, of the world that the network had learnt.
        labelled: the unseen stills with all that has no label as a crowd, where labels are
            incomplete.
    """

    unseen: CocoDataset
    seen: CocoDataset
    rehearsal: CocoDataset
    photographs: CocoDataset | None = field(default=None, kw_only=True)
    labelled: CocoDataset | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Tabletop(Stills):
    """All data of one experiment.

    Attributes:
        name: name of the world.
        train: recording that masks are selected in.
        validation: recording of other scenes, to choose thresholds on; None if no method needs it.
    """

    name: str
    train: Recording
    validation: Recording | None


def rendered(
    out: Path,
    seed: int,
    kinds: tuple[str, ...],
    on: On,
    choose: bool,
    clips: int = CLIPS,
    rehearsal: int = STILLS["rehearsal"],
) -> Tabletop:
    """A world where no object recurs, with seen data of its own; what is missing is rendered.

    Args:
        clips: number of scenes in the recording that masks are selected in.
        rehearsal: number of labelled stills to rehearse.
    """
    name = f"world-{seed}" + (f"-{digest(kinds)[:8]}" if kinds else "")
    if (clips, rehearsal) != (CLIPS, STILLS["rehearsal"]):
        name += f"-{clips}-{rehearsal}"
    folder, unseen = out / name, f"unseen-{on}"
    render(folder, ["unseen-train", unseen, "seen-val"], seed, kinds, clips)
    render(folder, ["rehearsal"], seed, kinds, stills=rehearsal)
    return Tabletop(
        load_coco_dir(folder / unseen),
        load_coco_dir(folder / "seen-val"),
        load_coco_dir(folder / "rehearsal"),
        name,
        recording_of(folder),
        validation_recording(folder, seed, kinds) if choose else None,
    )


def environment(out: Path, seed: int, choose: bool) -> Tabletop:
    """An environment for the network that comes with the demo; what is missing is rendered.

    Seen data is the demo's. Thresholds are chosen in other scenes, not in the environment.
    """
    folder = out / f"environment-{seed}"
    if seed == ENVIRONMENT_SEED:
        recording = find_resource("demo/recording")
        train = Recording(recording, recording.with_suffix(".json"))
        unseen = find_resource("demo/unseen-test")
    else:
        generate_missing(folder, ENVIRONMENT_SPLITS, environment_config(seed, cores()))
        train, unseen = recording_of(folder), folder / "unseen-test"
    return Tabletop(
        load_coco_dir(unseen),
        load_coco_dir(find_resource("demo/seen-test")),
        load_coco_dir(find_resource("demo/rehearsal")),
        folder.name,
        train,
        demo_validation(out) if choose else None,
    )


def environment_config(seed: int, jobs: int) -> WorldConfig:
    """The size of the demo's environment."""
    return WorldConfig(seed, jobs, 100, CLIPS, FRAMES, QUALITY, environment=True)


def few() -> Tabletop:
    """A few frames and stills of the demo, for smoke tests; nothing is rendered."""
    recording, labels = find_resource("demo/recording"), find_resource("demo/recording.json")
    unseen, seen, rehearsal = (
        first(load_coco_dir(find_resource(f"demo/{name}")), count)
        for name, count in (("unseen-test", 4), ("seen-test", 4), ("rehearsal", 8))
    )
    return Tabletop(
        unseen,
        seen,
        rehearsal,
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


def demo_validation(out: Path) -> Recording:
    """The recording that thresholds for the demo's network are chosen on; rendered below `out`."""
    return validation_recording(out / f"world-{_SEEN_SEED}", _SEEN_SEED)


def validation_recording(folder: Path, seed: int, kinds: tuple[str, ...] = ()) -> Recording:
    """A recording of the same kinds in other scenes."""
    seed += _VALIDATION_SEED
    render(folder / "validation", ["unseen-train"], seed, kinds, _VALIDATION_CLIPS)
    return recording_of(folder / "validation")


def render(
    folder: Path,
    splits: Iterable[str],
    seed: int,
    kinds: tuple[str, ...] = (),
    clips: int = CLIPS,
    stills: int | None = None,
) -> None:
    """Generate the splits that a folder lacks, of a world with these unseen kinds (`()`: all)."""
    for name in splits:
        count = stills or STILLS.get(name)
        config = WorldConfig(seed, cores(), count, clips, FRAMES, QUALITY, kinds)
        generate_missing(folder, [name], config)


def generate_missing(folder: Path, splits: Iterable[str], config: WorldConfig) -> None:
    """Generate the splits that a folder lacks; each appears when it is complete."""
    for name in splits:
        if not (folder / name).exists():
            generate(folder, [name], config)
