"""Excerpts: which frames of a recording they give."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.recordings import assert_same_frames, noise_frames, write_images

from gbopt_ros.io.sources import folder as folder_module
from gbopt_ros.io.sources import open_source
from gbopt_ros.io.sources.excerpt import Excerpt, pieces
from gbopt_ros.io.sources.images import read_image
from gbopt_ros.structures import GboptError


@pytest.mark.parametrize(
    ("count", "frames", "length", "expected"),
    [
        (10, 10, 3, [(0, 10)]),
        (7, 10, 3, [(0, 10)]),
        (None, 10, 3, [(0, 10)]),  # unknown: the beginning
        (20, 6, 3, [(0, 3), (17, 20)]),
        (21, 9, 3, [(0, 3), (9, 12), (18, 21)]),
        (20, 8, 3, [(0, 3), (17, 20)]),  # whole clips
        (20, 2, 3, [(0, 2)]),
        (10, 9, 3, [(0, 3), (3, 6), (7, 10)]),
    ],
)
def test_pieces_lie_evenly_over_the_recording(
    count: int | None, frames: int, length: int, expected: list[tuple[int, int]]
) -> None:
    assert pieces(count, frames, length) == [range(*each) for each in expected]


def test_excerpt_gives_whole_clips_and_decodes_no_other_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = noise_frames(10)
    write_images(tmp_path / "images", frames)
    source = open_source(tmp_path / "images")
    read: list[str] = []
    monkeypatch.setattr(
        folder_module,
        "read_image",
        lambda path, limit: read.append(path.stem) or read_image(path, limit),
    )
    excerpt = Excerpt(source, frames=4, length=2)
    assert (excerpt.name, excerpt.count, excerpt.total) == ("images", 4, 10)
    chosen = [frame for frame in open_source(tmp_path / "images") if frame.index in (0, 1, 8, 9)]
    read.clear()
    for _ in range(2):  # every iteration starts afresh
        assert_same_frames(excerpt, chosen)
    assert read == ["0", "1", "8", "9"] * 2


def test_excerpt_counts_strides_and_skips_as_its_source(tmp_path: Path) -> None:
    write_images(tmp_path / "images", noise_frames(10))
    (tmp_path / "images" / "4.png").write_bytes(b"")
    excerpt = Excerpt(open_source(tmp_path / "images", stride=2), frames=100, length=3)
    assert excerpt.count == 5
    assert [frame.index for frame in excerpt] == [0, 2, 6, 8]
    assert excerpt.skipped == 1
    part = Excerpt(open_source(tmp_path / "images", start=0.15), frames=3, length=2)
    assert part.count is None
    assert [frame.index for frame in part] == [5, 6, 7]


def test_excerpt_of_undecodable_images_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "images", noise_frames(4))
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(GboptError, match="none of 2 images can be decoded"):
        list(Excerpt(open_source(tmp_path / "images"), frames=2, length=2))
