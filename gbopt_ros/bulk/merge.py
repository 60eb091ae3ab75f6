"""The shards of all recordings as one COCO dataset, which `gbopt learn` reads like a replay."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gbopt_ros.bulk.plan import Shard
from gbopt_ros.io.datasets.coco import image_size, segmentation_to_rle
from gbopt_ros.io.files import replacing
from gbopt_ros.io.json_file import Fields, printable
from gbopt_ros.io.limits import MAX_JSON_BYTES
from gbopt_ros.io.selection_format import SELECTION_NAME, append_entry, join_parts
from gbopt_ros.tracks import TrackLinker

log = logging.getLogger(__name__)

FRAMES = "frames"
_PARTS = ("images", "annotations")


@dataclass(frozen=True)
class FinishedShard:
    """A shard to merge.

    Attributes:
        recording: its name.
        folder: where its `selected.json` is, below `OUT/frames`.
        first_clip: number of its first clip in the whole dataset.
    """

    recording: str
    shard: Shard
    folder: Path
    first_clip: int


@dataclass
class Merged:
    """What was merged: the number of frames and masks of each recording."""

    frames: dict[str, int]
    masks: dict[str, int]


def merge(out: Path, shards: Iterable[FinishedShard], linker: TrackLinker) -> Merged:
    """Write `OUT/selected.json` atomically; the images stay where they are.

    Ids of images and annotations and numbers of clips are unique, every image tells its recording,
    and frames that two shards share keep the masks of the first. One shard is in memory at a time.

    Args:
        linker: gives track ids anew, for a shard does not know those of the shard before it. Those
            of two recordings differ.

    Raises:
        GboptError: a shard is damaged, or the file cannot be written.
    """
    merged = Merged({}, {})
    path = out / SELECTION_NAME
    with replacing(path) as aside:
        parts = {name: aside.with_name(name) for name in _PARTS}
        with ExitStack() as files:
            images, annotations = (
                files.enter_context(parts[name].open("w", encoding="utf-8")) for name in _PARTS
            )
            image_id = annotation_id = 0
            for each in shards:
                if each.recording not in merged.frames:
                    linker.forget()
                content = Fields.read(each.folder / SELECTION_NAME)
                place = (each.folder / "frames").relative_to(out / FRAMES).as_posix()
                masks: dict[int, list[Fields]] = {}
                for annotation in content.objects("annotations"):
                    masks.setdefault(annotation.integer("image_id"), []).append(annotation)
                frames_before, masks_before = image_id, annotation_id
                for image in content.objects("images"):
                    if image.integer("frame_index") < each.shard.first_new:
                        continue
                    image_id += 1
                    entry = {
                        "id": image_id,
                        "file_name": f"{place}/{image.text('file_name')}",
                        "recording": each.recording,
                        "clip_id": each.first_clip + image.integer("clip_id"),
                    }
                    append_entry(images, dict(image.content) | entry, first=image_id == 1)
                    found = masks.get(image.integer("id"), [])
                    for annotation, track_id in zip(
                        found, _track_ids(linker, image, found), strict=True
                    ):
                        annotation_id += 1
                        entry = {"id": annotation_id, "image_id": image_id, "track_id": track_id}
                        append_entry(
                            annotations, dict(annotation.content) | entry, first=annotation_id == 1
                        )
                for counts, number in (
                    (merged.frames, image_id - frames_before),
                    (merged.masks, annotation_id - masks_before),
                ):
                    counts[each.recording] = counts.get(each.recording, 0) + number
        join_parts(aside, printable(out.resolve().name), parts)
        size = aside.stat().st_size
    if size > MAX_JSON_BYTES:
        log.warning(
            "%s has %d bytes, and at most %d can be learnt from: select in parts, or with --stride",
            path, size, MAX_JSON_BYTES,
        )  # fmt: skip
    return merged


def _track_ids(linker: TrackLinker, image: Fields, annotations: Sequence[Fields]) -> list[int]:
    size = image_size(image)
    rles = [segmentation_to_rle(a.content.get("segmentation"), size, a.where) for a in annotations]
    after_cut = image.flag("after_cut", default=False)
    return linker.link(rles, image.integer("stamp_ns"), after_cut=after_cut)
