"""The shards of all recordings as one COCO dataset, which `gbopt learn` reads like a replay."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gbopt_ros.bulk.plan import Shard
from gbopt_ros.io.files import replacing
from gbopt_ros.io.json_file import Fields, printable
from gbopt_ros.io.limits import MAX_JSON_BYTES
from gbopt_ros.io.selection_format import SELECTION_NAME, append_entry, join_parts

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


def merge(out: Path, shards: Iterable[FinishedShard]) -> Merged:
    """Write `OUT/selected.json` atomically; the images stay where they are.

    Ids of images and annotations and numbers of clips are unique, every image tells its recording,
    and frames that two shards share keep the masks of the first. One shard is in memory at a time.

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
                content = Fields.read(each.folder / SELECTION_NAME)
                place = (each.folder / "frames").relative_to(out / FRAMES).as_posix()
                ids: dict[int, int] = {}
                for image in content.objects("images"):
                    if image.integer("frame_index") < each.shard.first_new:
                        continue
                    image_id += 1
                    ids[image.integer("id")] = image_id
                    entry = {
                        "id": image_id,
                        "file_name": f"{place}/{image.text('file_name')}",
                        "recording": each.recording,
                        "clip_id": each.first_clip + image.integer("clip_id"),
                    }
                    append_entry(images, dict(image.content) | entry, first=image_id == 1)
                found = 0
                for annotation in content.objects("annotations"):
                    owner = ids.get(annotation.integer("image_id"))
                    if owner is None:
                        continue
                    found += 1
                    annotation_id += 1
                    entry = {"id": annotation_id, "image_id": owner}
                    append_entry(
                        annotations, dict(annotation.content) | entry, first=annotation_id == 1
                    )
                for counts, number in ((merged.frames, len(ids)), (merged.masks, found)):
                    counts[each.recording] = counts.get(each.recording, 0) + number
        join_parts(aside, printable(out.resolve().name), parts)
        size = aside.stat().st_size
    if size > MAX_JSON_BYTES:
        log.warning(
            "%s has %d bytes, and at most %d can be learnt from: select in parts, or with --stride",
            path, size, MAX_JSON_BYTES,
        )  # fmt: skip
    return merged
