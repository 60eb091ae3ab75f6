"""What is new after learning, on masks made by hand, and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from gbopt_ros.demo.before_after import (
    Replay,
    crop_around,
    most_confident_of_tracks,
    picture_found,
    picture_pairs,
    unmatched,
    write_overlay,
)
from gbopt_ros.evaluation.report_content import SelectionNumbers
from gbopt_ros.io.overlay import OverlayWriter
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.io.sources import open_source
from gbopt_ros.masks import decode, encode
from gbopt_ros.structures import Rle

SIZE = (40, 80)  # (height, width)


def bar(left: int, width: int = 10, top: int = 20) -> Rle:
    """A mask 4 pixels high."""
    mask = np.zeros(SIZE, bool)
    mask[top : top + 4, left : left + width] = True
    return encode(mask)


def replay(
    masks: Mapping[int, Sequence[tuple[Rle, float]]],
    path: Path = Path("frame.png"),
    clips: Sequence[Mapping[str, object]] = (),
) -> Replay:
    """Frame index -> masks with their confidences."""
    frames = {
        index: SelectedFrame(
            "r", 0, index, index, path, SIZE, tuple(rle for rle, _ in of_frame),
            (0.5,) * len(of_frame), tuple(confidence for _, confidence in of_frame),
        )
        for index, of_frame in masks.items()
    }  # fmt: skip
    return Replay(frames, clips)


def test_unmatched_masks_have_no_counterpart_on_the_same_frame() -> None:
    before = replay({0: [(bar(0), 0.9)], 1: [(bar(20), 0.9)], 2: []})
    after = replay(
        {
            0: [(bar(0, width=20), 0.3), (bar(0, width=21), 0.6)],  # IoU 0.5, and 10 of 21
            1: [(bar(0), 0.8), (bar(20), 0.4)],  # where frame 0 had one; and the same
            2: [(bar(0), 0.7)],
        }
    )
    found = unmatched(after, before)
    assert [(mask.frame_index, mask.confidence) for mask in found] == [(1, 0.8), (2, 0.7), (0, 0.6)]
    assert [decode(mask.rle).sum() for mask in found] == [40, 40, 84]
    assert unmatched(before, after) == []
    assert len(unmatched(after, before, iou=0.51)) == 4
    assert unmatched(after, after) == []


def test_unmatched_counts_frames_that_the_other_replay_lacks() -> None:
    assert len(unmatched(replay({5: [(bar(0), 0.5)]}), replay({}))) == 1


def test_most_confident_of_tracks_shows_an_object_once() -> None:
    after = replay(
        {
            3: [(bar(0), 0.4)],
            4: [(bar(2), 0.9), (bar(25, top=30), 0.5)],
            5: [(bar(4), 0.6)],
        }
    )
    shown = most_confident_of_tracks(unmatched(after, replay({})))
    assert [(mask.frame_index, mask.confidence, count) for mask, count in shown] == [
        (4, 0.9, 3), (4, 0.5, 1),
    ]  # fmt: skip
    assert most_confident_of_tracks([]) == []


@pytest.mark.parametrize(
    ("box", "columns", "rows"),
    [
        ((300, 200, 380, 260), (260, 420), (170, 290)),  # twice the box: it is 4:3 as the image
        ((0, 0, 20, 20), (0, 96), (0, 72)),  # the smallest crop, moved into the image
        ((620, 470, 640, 480), (544, 640), (408, 480)),
        ((10, 10, 630, 470), (0, 640), (0, 480)),  # no larger than the image
    ],
)
def test_crop_around_shows_the_surroundings(
    box: tuple[int, ...], columns: tuple[int, int], rows: tuple[int, int]
) -> None:
    x, y = np.meshgrid(np.arange(640), np.arange(480))
    image = np.stack([x // 4, y // 4, 0 * x], axis=2).astype(np.uint8)
    crop = crop_around(image, box)
    assert crop.shape == (240, 320, 3)
    ends = [int(v) * 4 for v in (*crop[120, [0, -1], 0], *crop[[0, -1], 160, 1])]
    np.testing.assert_allclose(ends, [*columns, *rows], atol=6)


def test_pictures_before_and_after(tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    cv2.imwrite(str(path), np.full((*SIZE, 3), 100, np.uint8))
    before = replay({i: [(bar(0), 0.5)] for i in range(9)}, path)
    after = replay({i: [(bar(50), 0.8), (bar(1), 0.6)] for i in range(9)}, path)
    pairs = picture_pairs(before, after)
    assert [pair.caption for pair in pairs] == [
        f"frame {i}: 1 and 2 masks" for i in (0, 2, 3, 5, 6, 8)
    ]
    for pair in pairs:
        assert pair.after is not None
        new, old = (slice(20, 24), slice(50, 60)), (22, 4)
        assert (pair.before[new] == 100).all() and (pair.after[new] != 100).any(axis=2).all()
        # The mask that was there before has its colour, though it comes second now.
        np.testing.assert_array_equal(pair.before[old], pair.after[old])
        assert (pair.before[old] != pair.after[22, 55]).any()
    (alone, *_) = picture_pairs(before, None)
    assert alone.after is None and alone.caption == "frame 0: 1 masks"
    (found,) = picture_found(after, unmatched(after, before))
    assert found.caption == "frame 0, confidence 0.80, new in 9 frames"


def test_numbers_of_a_replay() -> None:
    numbers = replay(
        {0: [(bar(0), 0.5), (bar(20), 0.25)], 1: []},
        clips=[{"energy": -1.5, "optimal": True}, {"energy": -2.0, "optimal": False}],
    ).numbers
    assert numbers == SelectionNumbers((0.5, 0.25), (2, 0), ((-1.5, True), (-2.0, False)))


def test_write_overlay_puts_before_beside_after(tmp_path: Path) -> None:
    for name, grey in (("before", 60), ("after", 180)):
        (tmp_path / name).mkdir()
        with OverlayWriter(tmp_path / name / "overlay.mp4", 10) as video:
            for _ in range(3):
                video.write(np.full((64, 96, 3), grey, np.uint8))
    write_overlay(tmp_path / "both.mp4", tmp_path / "before", tmp_path / "after")
    frames = list(open_source(tmp_path / "both.mp4"))
    assert len(frames) == 3
    for frame in frames:
        assert frame.size == (64 + 28, 2 * 96)  # a bar with the titles above
        np.testing.assert_allclose(frame.image[40:80, 8:88].mean(), 60, atol=12)
        np.testing.assert_allclose(frame.image[40:80, 104:184].mean(), 180, atol=12)
