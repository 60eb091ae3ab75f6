"""Masks that another program made, such as RVOS (Ventura et al. 2019), read from files.

PATH is of one recording, or a folder with an entry for each: PATH/NAME, PATH/NAME.json, where NAME
is the name of the recording. An entry is one of

- a folder of label images as DAVIS results are, 00000.png and so on: 0 is background, every other
  value a mask, with score 1. The images are those of the frames in their order or, in a folder that
  holds the frames too, of those with the same names.
- a COCO dataset with a `score` at its annotations, such as `selected.json` of `gbopt replay`. Its
  images have a `frame_index`, or are the frames in the natural order of their file names.
- a COCO result list; `image_id` is the position of the frame in the recording, from 0.

Frames that are not in it have no mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from experiments.cache import digest_of_files
from experiments.methods.contract import Inputs, without_overlap
from gbopt_ros import masks as mask_ops
from gbopt_ros.evaluation.results import load_results
from gbopt_ros.io.datasets.coco import CocoDataset, CocoImage, load_coco
from gbopt_ros.io.datasets.davis import load_sequence, object_masks
from gbopt_ros.io.json_file import Fields, read_json
from gbopt_ros.io.sources.folder import natural_key
from gbopt_ros.structures import GboptError, Proposals, Rle

Scored = list[tuple[Rle, float]]
"""The masks of a frame with their scores."""


class MaskFile:
    """The masks of a file or a folder, for any recording that it has an entry for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: dict[str, Mapping[int, Scored]] = {}

    @property
    def label(self) -> str:
        """What a table calls it."""
        return f"masks of {self._path.stem}"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the files."""
        return digest_of_files(self._path)

    def masks(self, inputs: Inputs) -> list[Proposals]:
        """T times the masks of the files; a pixel of several masks is of the best of them.

        Raises:
            GboptError: there is no entry for the recording, it cannot be read, it has no frame of
                the clip, or its masks have another size than the frames.
        """
        name, size = inputs.recording, inputs.clip.size
        entry = self._entry(name)
        if name not in self._read:
            self._read[name] = read_masks(entry, size)
        by_frame = self._read[name]
        indices = [frame.index for frame in inputs.clip.frames]
        if not any(index in by_frame for index in indices):
            raise GboptError(
                f"{entry}: has masks of frames {sorted(by_frame)[:1]} to {sorted(by_frame)[-1:]}, "
                f"none of frames {indices[0]} to {indices[-1]} of {name}; "
                "frames are counted from 0, as in the recording"
            )
        return [_proposals(entry, by_frame.get(index, []), size) for index in indices]

    def _entry(self, recording: str) -> Path:
        own = [self._path / recording, self._path / f"{recording}.json"]
        if found := [path for path in own if recording and path.exists()]:
            return found[0]
        if self._path.is_file() or any(self._path.glob("*.png")):
            return self._path
        raise GboptError(
            f"{self._path}: no masks of recording {recording!r}; expected a JSON file, a folder of "
            f"label images (.png), or a folder with {own[0].name} or {own[1].name}"
        )


def read_masks(path: Path, size: tuple[int, int]) -> dict[int, Scored]:
    """The masks of a file or a folder, by the position of the frame in its recording.

    Args:
        size: (height, width) of the frames, which result lists do not tell.

    Raises:
        GboptError: it cannot be read, or is none of the formats.
    """
    if path.is_dir():
        sequence = load_sequence(path)
        return {
            index: [(rle, 1.0) for rle in object_masks(label).values()]
            for index, label in zip(sequence.frame_indices, sequence.labels(), strict=True)
        }
    content = read_json(path)
    if isinstance(content, dict):
        described = load_coco(path)
        ordered = sorted(described.images, key=lambda image: natural_key(Path(image.file_name)))
        frames = {
            image.id: Fields(
                {"frame_index": position} | image.extra, f"{path}: image {image.id}"
            ).integer("frame_index")
            for position, image in enumerate(ordered)
        }
    else:
        ids = {entry.get("image_id") for entry in content if isinstance(entry, dict)}
        frames = {index: index for index in ids if isinstance(index, int)}
        images = tuple(CocoImage(index, str(index), *size) for index in sorted(frames))
        described = CocoDataset(images, {})
    found: dict[int, Scored] = {frame: [] for frame in frames.values()}
    for result in load_results(path, described):
        found[frames[result["image_id"]]].append((result["segmentation"], result["score"]))
    return found


def _proposals(path: Path, scored: Scored, size: tuple[int, int]) -> Proposals:
    for rle, _ in scored:
        if tuple(rle["size"]) != size:
            raise GboptError(
                f"{path}: masks of size {tuple(rle['size'])}, the frames have {size} "
                "(height, width); scale the masks to the frames"
            )
    masks = mask_ops.decode_all([rle for rle, _ in scored], size)
    return without_overlap(masks, np.array([score for _, score in scored]))
