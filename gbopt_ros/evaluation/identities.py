"""Labels and replays as masks with ids, for the identity metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gbopt_ros.config import Config
from gbopt_ros.evaluation.davis_results import Replay
from gbopt_ros.evaluation.identity_metrics import (
    IdentifiedMasks,
    IdentityCounts,
    count_identities,
)
from gbopt_ros.io.datasets.coco import ANNOTATIONS_NAME, load_coco
from gbopt_ros.io.datasets.davis import load_sequence, object_masks
from gbopt_ros.io.json_file import Fields
from gbopt_ros.structures import GboptError
from gbopt_ros.tracks import TrackLinker

Identities = dict[int, IdentifiedMasks]
"""The masks of every frame of a recording, by its index."""


def load_identities(path: Path, config: Config) -> Identities:
    """The labelled objects of a recording.

    Args:
        path: a JSON file of COCO instances with names, or a folder with one: what `gbopt world
            --environment` writes for its video. A name is that of one object until the stream has
            a gap longer than `clip.max_gap_s`. Or a folder of frames with a label image beside
            each, as of one DAVIS sequence.

    Raises:
        GboptError: neither, or two images are the same frame, or two objects of a frame have the
            same name.
    """
    labels = path / ANNOTATIONS_NAME if path.is_dir() else path
    if labels.is_file():
        return _of_coco(labels, config.clip.max_gap_s)
    sequence = load_sequence(path)
    objects = zip(sequence.frame_indices, map(object_masks, sequence.labels()), strict=True)
    return {index: IdentifiedMasks(list(found), list(found.values())) for index, found in objects}


def score_identities(
    truth: Identities, replay: Replay, linker: TrackLinker | None = None
) -> IdentityCounts:
    """Count the ids of a replay in the frames that have labels.

    Args:
        linker: gives the masks new ids; None keeps those of the replay.

    Raises:
        GboptError: the replay has no labelled frame, or masks without ids or of another size.
    """
    frames = {frame.frame_index: frame for frame in replay.frames}
    found: Identities = {}
    for index, frame in frames.items():
        ids: Sequence[int | None] = frame.track_ids
        if linker:
            ids = linker.link(frame.rles, frame.stamp_ns, after_cut=frame.after_cut)
        if None in ids or len(ids) != len(frame.rles):
            raise GboptError(f"{replay.folder}: masks have no track_id; give --relink")
        found[index] = IdentifiedMasks(ids, frame.rles)
    common = [index for index in truth if index in found]
    if not common:
        raise GboptError(f"{replay.folder}: no frame has labels; are they of another recording?")
    sizes = {tuple(rle["size"]) for i in common for rle in (*truth[i].rles, *found[i].rles)}
    if len(sizes) > 1:
        raise GboptError(
            f"{replay.folder}: masks and labels of sizes {sorted(sizes)} (height, width); replay "
            "without --resize"
        )
    return count_identities([truth[i] for i in common], [found[i] for i in common])


def _of_coco(path: Path, max_gap_s: float) -> Identities:
    dataset = load_coco(path)
    frames: Identities = {}
    scene, last_ns = 0, None
    by_index = {}
    for image in dataset.images:
        entry = Fields(image.extra, f"{path}: image {image.id}")
        index = entry.integer("frame_index")
        if index in by_index:
            raise GboptError(f"{entry.where}: another image is frame {index}, too")
        by_index[index] = entry, image
    for index, (entry, image) in sorted(by_index.items()):
        stamp_ns = entry.integer("stamp_ns")
        scene += last_ns is not None and stamp_ns - last_ns > max_gap_s * 1e9
        last_ns = stamp_ns
        names, rles = dataset.names_by_image.get(image.id, ()), dataset.rles_by_image[image.id]
        if "" in names or len(set(names)) != len(rles):
            raise GboptError(
                f"{entry.where}: expected a 'name' of its own for every object, as `gbopt world "
                "--environment` writes"
            )
        frames[index] = IdentifiedMasks([(scene, name) for name in names], rles)
    return frames
