"""Images, masks and statuses that become clips to store, in whatever order they come."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from gbopt_ros.nodes.clip_collector import ClipCollector, CollectedFrames
from gbopt_ros.nodes.messages import Stamped, make_header


class Stored(list[CollectedFrames]):
    """What a collector has handed over."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.collector = ClipCollector(capacity, self.append)

    def send_image(self, index: int) -> None:
        image = np.full((1, 1, 3), index, np.uint8)
        self.collector.add_image(Stamped(make_header(index + 1, "camera"), image))

    def send_masks(self, clip: int, index: int) -> bool:
        header = make_header(index + 1, "camera")
        return self.collector.add_masks(
            SimpleNamespace(header=header, clip_id=clip, frame_index=index)
        )

    def send_status(self, clip: int, frames: int) -> None:
        self.collector.add_status(SimpleNamespace(clip_id=clip, published=frames))

    @property
    def indices(self) -> list[tuple[list[int], bool]]:
        """The frames of each part, and whether its clip ends with it."""
        return [([masks.frame_index for masks, _ in p.frames], p.is_whole) for p in self]


def test_clip_is_stored_once_all_of_its_frames_came() -> None:
    stored = Stored(8)
    for index in range(2):
        stored.send_image(index)
        assert stored.send_masks(5, index)
    assert stored == []
    stored.send_status(5, 2)
    assert stored.indices == [([0, 1], True)]
    assert [image[0, 0, 0] for _, image in stored[0].frames] == [0, 1]


def test_status_may_come_first_and_an_image_never() -> None:
    stored = Stored(8)
    stored.send_status(0, 1)
    assert not stored.send_masks(0, 3)
    assert stored.indices == [([3], True)]
    assert stored[0].frames[0][1] is None


def test_clips_before_a_complete_one_are_stored_as_they_are() -> None:
    stored = Stored(8)
    stored.send_masks(0, 0)
    stored.send_masks(1, 4)
    stored.send_status(0, 3)
    assert stored == []
    stored.send_status(1, 1)
    assert stored.indices == [([0], True), ([4], True)]
    stored.send_masks(0, 5)  # of a clip that was stored: a part that waits for its status
    assert len(stored) == 2


def test_oldest_frames_are_stored_where_there_are_too_many() -> None:
    stored = Stored(2)
    for index in range(3):
        stored.send_image(index)
        stored.send_masks(0, index)
    assert stored.indices == [([0, 1, 2], False)]
    stored.send_image(3)
    stored.send_masks(0, 3)
    stored.collector.flush(are_whole=False)
    assert stored.indices[1:] == [([3], False)]
    assert len({part.session for part in stored}) == 1


def test_images_without_masks_are_forgotten() -> None:
    stored = Stored(2)
    for index in range(3):
        stored.send_image(index)
    assert [stored.send_masks(0, index) for index in range(3)] == [False, True, True]


def test_frames_that_count_from_0_again_begin_a_new_session() -> None:
    stored = Stored(8)
    stored.send_masks(0, 7)
    stored.send_masks(0, 0)
    stored.collector.flush(are_whole=False)
    assert stored.indices == [([7], True), ([0], False)]
    first, second = stored
    assert first.session != second.session


def test_status_of_an_old_clip_ends_no_clip_of_a_new_session() -> None:
    stored = Stored(8)
    stored.send_masks(0, 7)
    stored.send_status(1, 1)  # of a frame whose masks never come
    assert stored.indices == []
    for clip, index in ((0, 0), (1, 1), (1, 2)):
        stored.send_masks(clip, index)
    assert stored.indices == [([7], True)]
    stored.send_status(1, 2)
    assert stored.indices[1:] == [([0], True), ([1, 2], True)]
