"""Masks that selection did not choose, as frames of a training set; frames that have labels."""

from __future__ import annotations

from collections.abc import Iterator

from gbopt_ros.io.datasets.coco import CocoDataset
from gbopt_ros.io.files import path_below
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.structures import GboptError

FrameKey = tuple[str, int]
"""Name of a video and index of a frame in it."""


def imported_frames(masks: CocoDataset, recording: str) -> Iterator[SelectedFrame]:
    """The images of a COCO dataset that have masks, each mask with score and confidence 1.

    Images that tell their `video` make a recording of it, with their `frame_index`. All others
    make one recording, in the order of the dataset.

    Args:
        masks: masks of another method, of a person, or ground truth.
        recording: its name, and the first part of the names of videos.

    Raises:
        GboptError: the dataset has no image folder or no mask, two images are the same frame, or an
            image is not in the folder.
    """
    if masks.image_dir is None:
        raise GboptError(f"{recording}: expected a folder of the images, such as --images DIR")
    if not any(masks.rles_by_image[image.id] for image in masks.images):
        raise GboptError(f"{recording}: no mask in its {len(masks)} images; nothing to learn from")
    known: set[FrameKey] = set()
    for position, image in enumerate(masks.images):
        video, index = _key(image.extra)
        name = recording if video is None else f"{recording}/{video}"
        key = name, position if index is None or video is None else index
        if key in known:
            raise GboptError(f"{image.file_name}: another image is frame {key[1]} of {name}, too")
        known.add(key)
        rles = masks.rles_by_image[image.id]
        if rles:
            yield SelectedFrame(
                *_placed(key),
                image_path=path_below(masks.image_dir, image.file_name),
                size=(image.height, image.width),
                rles=rles,
                scores=(1.0,) * len(rles),
                confidences=(1.0,) * len(rles),
            )


def labelled_frames(labels: CocoDataset) -> set[FrameKey]:
    """The frames that a dataset of `gbopt dataset` labels.

    Raises:
        GboptError: an image does not tell its video and frame.
    """
    found = set()
    for image in labels.images:
        video, index = _key(image.extra)
        if video is None or index is None:
            raise GboptError(
                f"{image.file_name}: expected `video` and `frame_index` in its entry, as "
                "`gbopt dataset` writes them"
            )
        found.add((video, index))
    return found


def is_labelled(frame: SelectedFrame, labelled: set[FrameKey]) -> bool:
    """Whether a frame of a replay of a folder of images is one of these."""
    return (frame.recording.rpartition("/")[2], frame.frame_index) in labelled


def _placed(key: FrameKey) -> tuple[str, int, int, int]:
    """Recording, clip, frame and stamp: one clip a recording, a frame a second."""
    recording, index = key
    return recording, 0, index, index * 10**9


def _key(extra: dict[str, object]) -> tuple[str | None, int | None]:
    video, index = extra.get("video"), extra.get("frame_index")
    return (video if isinstance(video, str) else None, index if isinstance(index, int) else None)
