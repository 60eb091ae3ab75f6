"""Masks of a COCO file as frames of a training set, and which frames have labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gbopt_ros.io.datasets.coco import CocoDataset, CocoImage
from gbopt_ros.learning.data.imported_masks import imported_frames, is_labelled, labelled_frames
from gbopt_ros.masks import encode
from gbopt_ros.structures import GboptError

RLE = encode(np.eye(4, dtype=bool))


def dataset(*extras: dict[str, object], images: Path | None = Path("images")) -> CocoDataset:
    entries = tuple(CocoImage(i, f"{i}.jpg", 4, 4, extra) for i, extra in enumerate(extras))
    return CocoDataset(entries, {image.id: (RLE,) for image in entries}, images)


def test_imported_frames_are_one_recording_or_one_a_video() -> None:
    masks = dataset(
        {}, {"video": "duck", "frame_index": 5}, {"video": "duck", "frame_index": 6}, {}
    )
    frames = list(imported_frames(masks, "hand"))
    assert [(f.recording, f.frame_index) for f in frames] == [
        ("hand", 0), ("hand/duck", 5), ("hand/duck", 6), ("hand", 3),
    ]  # fmt: skip
    first = frames[1]
    assert (first.image_path, first.size, first.rles) == (Path("images/1.jpg"), (4, 4), (RLE,))
    assert (first.scores, first.confidences, first.clip_id) == ((1.0,), (1.0,), 0)


def test_imported_frames_leaves_out_images_without_a_mask() -> None:
    masks = dataset({}, {})
    masks.rles_by_image[0] = ()
    assert [frame.frame_index for frame in imported_frames(masks, "hand")] == [1]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (dataset({}, images=None), "expected a folder of the images"),
        (CocoDataset((CocoImage(1, "a.jpg", 4, 4),), {1: ()}, Path()), "no mask in its 1 images"),
        (dataset(*[{"video": "a", "frame_index": 1}] * 2), r"1\.jpg: another image is frame 1 of"),
    ],
)
def test_imported_frames_refuses_what_cannot_be_learnt(masks: CocoDataset, message: str) -> None:
    with pytest.raises(GboptError, match=message):
        list(imported_frames(masks, "hand"))


def test_labelled_frames_and_the_frames_of_a_replay() -> None:
    labels = dataset({"video": "duck", "frame_index": 5}, {"video": "a/b", "frame_index": 0})
    labelled = labelled_frames(labels)
    assert labelled == {("duck", 5), ("a/b", 0)}
    five, six = imported_frames(
        dataset({"video": "duck", "frame_index": 5}, {"video": "duck", "frame_index": 6}), "replay"
    )
    assert is_labelled(five, labelled)
    assert not is_labelled(six, labelled)
    with pytest.raises(GboptError, match=r"0\.jpg: expected `video` and `frame_index`"):
        labelled_frames(dataset({"frame_index": 3}))
