"""Input of the DAVIS metrics: label images on disk, or tracks of the masks of a replay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros.config import TrackConfig
from gbopt_ros.evaluation.tracks import ScoredMasks, label_array, link_tracks
from gbopt_ros.io.datasets.davis import DavisSequence, read_label_images, write_label_image
from gbopt_ros.io.overlay import colour
from gbopt_ros.io.selection_format import SelectedFrame, read_selection
from gbopt_ros.structures import GboptError


@dataclass(frozen=True)
class Replay:
    """The output of `gbopt replay`.

    Attributes:
        folder: the output folder.
        recording: name of the recording; for DAVIS the name of a sequence.
        frames: at least one, of one size, in the order of `frame_index`.
    """

    folder: Path
    recording: str
    frames: tuple[SelectedFrame, ...]


def load_replay(folder: Path) -> Replay:
    """Raises GboptError if the folder is no replay of one recording with frames of one size."""
    frames = tuple(sorted(read_selection(folder), key=lambda frame: frame.frame_index))
    if not frames:
        raise GboptError(f"{folder}: a replay without frames")
    for frame in frames:
        if frame.recording != frames[0].recording:
            raise GboptError(
                f"{folder}: expected the output of one `gbopt replay`, got several recordings"
            )
        if frame.size != frames[0].size:
            raise GboptError(f"{folder}: frames of sizes {frames[0].size} and {frame.size}")
    return Replay(folder, frames[0].recording.rpartition("/")[2], frames)


def link_replay(
    replay: Replay, config: TrackConfig, sequence: DavisSequence, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Link the masks of a replay to tracks; the tracks at the labelled frames of a sequence.

    Masks of another size are scaled to the size of the labels by nearest neighbour.

    Args:
        size: (height, width) of the labels.

    Returns:
        (T, H, W) uint8, 0 or the number of a track.

    Raises:
        GboptError: the replay lacks a labelled frame.
    """
    position = {frame.frame_index: i for i, frame in enumerate(replay.frames)}
    missing = [index for index in sequence.frame_indices if index not in position]
    if missing:
        raise GboptError(
            f"{replay.folder}: {len(missing)} of {len(sequence)} labelled frames of "
            f"{sequence.name} were not replayed, the first is frame {missing[0]}; replay the "
            "sequence whole, without --stride, --start and --end"
        )
    masks = (ScoredMasks(frame.stamp_ns, frame.rles, frame.confidences) for frame in replay.frames)
    labels = label_array(link_tracks(masks, config), len(replay.frames), replay.frames[0].size)
    chosen = labels[[position[index] for index in sequence.frame_indices]]
    return np.stack([_scaled(label, size) for label in chosen])


def _scaled(label: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if label.shape == size:
        return label
    # Plain INTER_NEAREST does not align pixel centres: it shifts masks by up to half a pixel.
    scaled = cv2.resize(label, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(scaled, np.uint8)


def read_proposals(folder: Path, sequence: DavisSequence) -> NDArray[np.uint8]:
    """Read the label images `folder/SEQUENCE/00000.png`: (T, H, W) uint8.

    Raises:
        GboptError: a frame is missing or unreadable.
    """
    return read_label_images([folder / sequence.name / path.name for path in sequence.masks])


def write_proposals(folder: Path, sequence: DavisSequence, proposals: NDArray[np.uint8]) -> None:
    """Write (T, H, W) uint8 labels as the palette images that `read_proposals` reads.

    Raises:
        GboptError: they cannot be written.
    """
    colours = [colour(i) for i in range(int(proposals.max()))]
    for path, labels in zip(sequence.masks, proposals, strict=True):
        write_label_image(folder / sequence.name / path.name, labels, colours)
