"""Unseen-VIS (Section 4.1): the videos of YouTube-VIS 2019 with classes that COCO lacks.

    OUT/manifest.json            seed, classes, counts, the videos of each split
    OUT/test/annotations.json    labelled stills, COCO instances of one class
    OUT/test/images/VIDEO/       links to the folders of YouTube-VIS
    OUT/train/annotations.json   labels of the training videos, for upper bounds alone
    OUT/train/images/VIDEO/      each a recording for `gbopt replay`

24 of the 40 classes coincide with classes of COCO, the 16 of `UNSEEN` remain. The paper leaves
three things open:

- A video is taken if all its objects are of unseen classes, because an object of a seen class would
  count as background. (The paper has 795 videos, and 1,089 of seen classes in Appendix D.2; of the
  2,238 with public labels that leaves 354, probably the mixed ones.)
- Videos are split in the order of a hash of seed and video name, which depends on no library.
- Frames without a labelled object are left out: not every object is labelled, so an empty frame
  proves nothing.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gbopt_ros.io.datasets.coco import ANNOTATIONS_NAME, IMAGES_NAME, CocoImage, write_coco
from gbopt_ros.io.datasets.youtube_vis import VisVideo, YoutubeVis, load_youtube_vis
from gbopt_ros.io.files import replacing_folder
from gbopt_ros.io.json_file import to_json
from gbopt_ros.io.sources.folder import list_images
from gbopt_ros.structures import GboptError, Rle

logger = logging.getLogger(__name__)

MANIFEST_NAME = "manifest.json"
UNSEEN = (
    "giant_panda", "lizard", "earless_seal", "shark", "mouse", "frog", "tiger", "leopard", "fox",
    "deer", "ape", "snake", "monkey", "rabbit", "fish", "turtle",
)  # fmt: skip
SEEN = (  # in COCO, birds are "bird", a sedan is "car", and a hand is part of a "person"
    "person", "parrot", "skateboard", "sedan", "dog", "hand", "duck", "cat", "cow", "train",
    "horse", "bear", "motorbike", "giraffe", "owl", "surfboard", "airplane", "truck", "zebra",
    "elephant", "snowboard", "boat", "eagle", "tennis_racket",
)  # fmt: skip
_SPLITS = ("train", "test")
_DEFINED_ON = "Unseen-VIS is defined on the 40 classes of YouTube-VIS 2019"


@dataclass(frozen=True)
class UnseenVisConfig:
    """Options of the benchmark; the defaults are the paper's.

    Attributes:
        train_videos, test_videos: number of videos of each split.
        seed: seed of the split.
        mixed: also take videos that show unseen and seen classes; their objects of seen classes
            become ignore regions.
        all_frames: folder with all frames of each video (`train_all_frames/JPEGImages`), for the
            training videos; None takes the annotated frames alone.
        copy: copy the images; by default folders are linked.
    """

    train_videos: int = 595
    test_videos: int = 200
    seed: int = 0
    mixed: bool = False
    all_frames: Path | None = None
    copy: bool = False

    def __post_init__(self) -> None:
        for name in ("train_videos", "test_videos"):
            if getattr(self, name) < 1:
                raise GboptError(f"{name}: expected at least 1, got {getattr(self, name)}")


def build_unseen_vis(folder: Path, out: Path, config: UnseenVisConfig) -> dict[str, Any]:
    """Build Unseen-VIS at `out` from the YouTube-VIS folder `folder`.

    Returns:
        The content of `manifest.json`.

    Raises:
        GboptError: `out` exists, `folder` is not YouTube-VIS 2019, it has too few videos, or frames
            are missing. After a failure nothing is left.
    """
    with replacing_folder(out) as aside:
        source = load_youtube_vis(folder)
        _check_classes(source)
        kinds = ("unseen", "mixed") if config.mixed else ("unseen",)
        candidates = [video for video in source.videos if _kind(video) in kinds]
        splits = split_videos(candidates, config)
        image_dirs = {"train": config.all_frames or source.image_dir, "test": source.image_dir}
        for name in _SPLITS:
            _check_frames(splits[name], image_dirs[name])
        manifest = _manifest(source, candidates, splits, config)
        first_id = 1
        for name in _SPLITS:
            _write_split(aside / name, splits[name], image_dirs[name], config.copy, first_id)
            first_id += sum(len(video.file_names) for video in splits[name])
        text = to_json(manifest, indent=2) + "\n"
        (aside / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return manifest


def class_name(name: str) -> str:
    """The name of a YouTube-VIS class as in `UNSEEN` and `SEEN`.

    Some copies of the annotations write "earless seal", the paper writes "seal" and "panda".
    """
    name = name.strip().lower().replace(" ", "_")
    return {"panda": "giant_panda", "seal": "earless_seal"}.get(name, name)


def split_videos(
    candidates: Sequence[VisVideo], config: UnseenVisConfig
) -> dict[str, list[VisVideo]]:
    """The disjoint splits `train` and `test`, each sorted by name; other candidates are left over.

    The split does not depend on the order of the candidates.

    Raises:
        GboptError: there are too few candidates.
    """
    wanted = config.train_videos + config.test_videos
    if len(candidates) < wanted:
        raise GboptError(
            f"{len(candidates)} videos show unseen classes "
            f"{'at all' if config.mixed else 'and no seen class'}, {wanted} are needed; set "
            "--train-videos and --test-videos" + ("" if config.mixed else ", or allow --mixed ones")
        )

    def shuffled(video: VisVideo) -> bytes:
        return hashlib.sha256(f"{config.seed}/{video.name}".encode()).digest()

    order = sorted(candidates, key=shuffled)
    test, train = order[: config.test_videos], order[config.test_videos : wanted]
    return {
        "train": sorted(train, key=lambda video: video.name),
        "test": sorted(test, key=lambda video: video.name),
    }


def _check_classes(source: YoutubeVis) -> None:
    names = {class_name(name) for name in source.categories}
    unknown = sorted(names.difference(UNSEEN, SEEN))
    if unknown:
        raise GboptError(
            f"{source.annotations}: unknown category {', '.join(unknown)}; {_DEFINED_ON}"
        )
    absent = sorted(set(UNSEEN) - names)
    if absent:
        raise GboptError(
            f"{source.annotations}: declares no category {', '.join(absent)}; {_DEFINED_ON}"
        )


def _unseen(category: str) -> bool:
    return class_name(category) in UNSEEN


def _kind(video: VisVideo) -> str:
    """Whether a video shows "unseen" classes, "mixed" ones, or "seen or none"."""
    shown = {_unseen(category) for category in video.categories}
    if shown == {True}:
        return "unseen"
    return "mixed" if True in shown else "seen or none"


def _check_frames(videos: Sequence[VisVideo], image_dir: Path) -> None:
    paths = [image_dir / video.name / name for video in videos for name in video.file_names]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise GboptError(
            f"{missing[0]}: no such frame; {len(missing)} of the {len(paths)} annotated frames are "
            f"missing in {image_dir}"
        )


def _labelled_frames(video: VisVideo) -> list[int]:
    """The frames in which an object of an unseen class is labelled."""
    unseen = [item for item in video.objects if _unseen(item.category) and not item.crowd]
    frames = range(len(video.file_names))
    return [t for t in frames if any(item.rles[t] is not None for item in unseen)]


def _instances(video: VisVideo, frame: int) -> tuple[list[Rle], list[Rle]]:
    """The instances and the ignore regions of a frame."""
    instances: list[Rle] = []
    ignored: list[Rle] = []
    for item in video.objects:
        rle = item.rles[frame]
        if rle is not None:
            (instances if _unseen(item.category) and not item.crowd else ignored).append(rle)
    return instances, ignored


def _write_split(
    folder: Path, videos: Sequence[VisVideo], image_dir: Path, copy: bool, first_id: int
) -> None:
    images: list[CocoImage] = []
    rles: dict[int, list[Rle]] = {}
    ignored: dict[int, list[Rle]] = {}
    (folder / IMAGES_NAME).mkdir(parents=True)
    for video in tqdm(videos, desc=folder.name, unit="video", dynamic_ncols=True):
        frames = image_dir / video.name
        target = folder / IMAGES_NAME / video.name
        if copy:
            shutil.copytree(frames, target)
        else:
            target.symlink_to(frames.resolve(), target_is_directory=True)
        positions = {path.name: i for i, path in enumerate(list_images(frames))}
        for t in _labelled_frames(video):
            key, name = first_id + len(images), video.file_names[t]
            extra = {"video": video.name, "frame_index": positions[name]}
            height, width = video.size
            images.append(CocoImage(key, f"{video.name}/{name}", height, width, extra))
            rles[key], ignored[key] = _instances(video, t)
    write_coco(folder / ANNOTATIONS_NAME, images, rles, ignored)


def _manifest(
    source: YoutubeVis,
    candidates: Sequence[VisVideo],
    splits: dict[str, list[VisVideo]],
    config: UnseenVisConfig,
) -> dict[str, Any]:
    taken = {video.name for videos in splits.values() for video in videos}
    kinds = Counter(_kind(video) for video in source.videos)
    step = _frame_step([video for videos in splits.values() for video in videos])
    if step not in (None, 5):
        logger.warning("one frame in %d is annotated, in YouTube-VIS 2019 it is one in 5", step)
    return {
        "name": "Unseen-VIS",
        "source": {
            "annotations": str(source.annotations.resolve()),
            "sha256": hashlib.sha256(source.annotations.read_bytes()).hexdigest(),
            "videos": len(source.videos),
            "videos_by_kind": dict(sorted(kinds.items())),
            "all_frames": None if config.all_frames is None else str(config.all_frames.resolve()),
        },
        "seed": config.seed,
        "mixed": config.mixed,
        "unseen_classes": list(UNSEEN),
        "annotated_frame_step": step,
        "splits": {name: _summary(videos) for name, videos in splits.items()},
        "unused_videos": sorted(video.name for video in candidates if video.name not in taken),
    }


def _summary(videos: Sequence[VisVideo]) -> dict[str, Any]:
    per_frame = [len(_instances(video, t)[0]) for video in videos for t in _labelled_frames(video)]
    objects = [item for v in videos for item in v.objects if _unseen(item.category)]
    by_class = Counter(
        name for v in videos for name in {class_name(c) for c in v.categories if _unseen(c)}
    )
    return {
        "videos": len(videos),
        "annotated_frames": sum(len(video.file_names) for video in videos),
        "labelled_images": len(per_frame),
        "instances": sum(per_frame),
        "objects": len(objects),
        "most_instances_of_an_image": max(per_frame, default=0),
        "videos_by_class": dict(sorted(by_class.items())),
        "video_names": [video.name for video in videos],
    }


def _frame_step(videos: Sequence[VisVideo]) -> int | None:
    """The most frequent distance of annotated frames by their file names, None if unknown."""
    steps: Counter[int] = Counter()
    for video in videos:
        stems = [name.partition(".")[0] for name in video.file_names]
        if all(stem.isdecimal() for stem in stems):
            numbers = [int(stem) for stem in stems]
            steps.update(b - a for a, b in pairwise(numbers))
    return steps.most_common(1)[0][0] if steps else None
