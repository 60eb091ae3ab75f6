"""Drawn masks, colours that follow objects, and videos."""

from __future__ import annotations

import resource
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from gbopt_ros import masks as mask_ops
from gbopt_ros.io.overlay import OverlayWriter, colour, draw_masks
from gbopt_ros.structures import GboptError, Rle

GREY = np.full((20, 30, 3), 100, np.uint8)


def box(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (20, 30)) -> Rle:
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask_ops.encode(mask)


def test_draw_masks_blends_the_fill_and_outlines_by_one_pixel():
    drawn = draw_masks(GREY, [box(5, 4, 12, 10)], alpha=0.5)
    rgb = np.array(colour(0))
    expected = GREY.copy()
    expected[4:10, 5:12] = rgb
    expected[5:9, 6:11] = np.rint(0.5 * 100 + 0.5 * rgb)
    np.testing.assert_array_equal(drawn, expected)
    assert (GREY == 100).all()


def test_draw_masks_outlines_a_full_mask_at_the_border():
    drawn = draw_masks(GREY, [box(0, 0, 30, 20)], alpha=0)
    inner = drawn[1:-1, 1:-1]
    assert (inner == 100).all()
    assert (drawn[0] == colour(0)).all() and (drawn[:, -1] == colour(0)).all()


def test_draw_masks_puts_the_first_mask_on_top_and_shows_hidden_outlines():
    drawn = draw_masks(GREY, [box(5, 5, 15, 15), box(8, 8, 25, 18)], alpha=1)
    assert tuple(drawn[10, 10]) == colour(0)
    assert tuple(drawn[12, 20]) == colour(1)
    assert tuple(drawn[8, 10]) == colour(1)  # outline of the second inside the first


def test_draw_masks_takes_the_colours_that_are_given():
    drawn = draw_masks(GREY, [box(0, 0, 5, 5), box(10, 10, 15, 15)], alpha=1, colours=[7, 3])
    assert tuple(drawn[2, 2]) == colour(7) and tuple(drawn[12, 12]) == colour(3)


def test_draw_masks_without_masks_gives_a_copy():
    drawn = draw_masks(GREY, [])
    np.testing.assert_array_equal(drawn, GREY)
    assert drawn is not GREY
    empty = mask_ops.encode(np.zeros((20, 30), bool))
    np.testing.assert_array_equal(draw_masks(GREY, [empty]), GREY)


def test_draw_masks_keeps_labels_inside_the_image():
    image = np.full((60, 80, 3), 100, np.uint8)
    size = (60, 80)
    rles = [box(70, 0, 80, 6, size), box(0, 50, 5, 60, size)]
    plain, labelled = draw_masks(image, rles), draw_masks(image, rles, ["0.93", "0.10"])
    changed = np.argwhere((plain != labelled).any(axis=2))
    assert len(changed) > 100
    assert labelled.shape == image.shape


def test_draw_masks_refuses_masks_of_another_size():
    with pytest.raises(ValueError, match="size of the image"):
        draw_masks(GREY, [box(0, 0, 2, 2, (10, 10))])


def test_colour_is_distinct_for_24_indices():
    palette = [np.array(colour(i), float) for i in range(24)]
    assert min(np.linalg.norm(a - b) for a, b in combinations(palette, 2)) > 12
    assert min(np.linalg.norm(a - b) for a, b in combinations(palette[:8], 2)) > 70


def read(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (got := capture.read())[0]:
        frames.append(got[1][:, :, ::-1])
    capture.release()
    return frames


def test_overlay_writer_letterboxes_images_of_another_size(tmp_path: Path):
    path = tmp_path / "new" / "overlay.mp4"
    red = np.zeros((96, 128, 3), np.uint8)
    red[:] = (220, 20, 20)
    wide = np.full((48, 256, 3), 255, np.uint8)
    with OverlayWriter(path, fps=10) as video:
        video.write(red)
        assert not path.exists()
        video.write(wide)
    frames = read(path)
    assert [frame.shape for frame in frames] == [(96, 128, 3)] * 2
    np.testing.assert_allclose(frames[0].mean(axis=(0, 1)), (220, 20, 20), atol=12)
    # 256x48 fits as 128x24: 36 black rows above and below.
    assert frames[1][:32].mean() < 25 and frames[1][40:56].mean() > 230
    assert frames[1][64:].mean() < 25
    assert [p.name for p in path.parent.iterdir()] == ["overlay.mp4"]


def test_overlay_writer_pads_odd_sizes_by_a_pixel(tmp_path: Path):
    with OverlayWriter(tmp_path / "odd.mp4", fps=5) as video:
        video.write(np.full((65, 81, 3), 128, np.uint8))
        video.write(np.full((65, 81, 3), 128, np.uint8))
    frames = read(tmp_path / "odd.mp4")
    assert [frame.shape for frame in frames] == [(66, 82, 3)] * 2
    assert all(frame.min() > 110 for frame in frames)


def test_overlay_writer_takes_the_size_as_height_and_width(tmp_path: Path):
    with OverlayWriter(tmp_path / "small.mp4", fps=5, size=(64, 96)) as video:
        video.write(np.full((128, 192, 3), 200, np.uint8))
    assert read(tmp_path / "small.mp4")[0].shape == (64, 96, 3)


def test_overlay_writer_keeps_the_old_video_after_a_failure(tmp_path: Path):
    path = tmp_path / "overlay.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), OverlayWriter(path, fps=5) as video:
        video.write(np.zeros((64, 64, 3), np.uint8))
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["overlay.mp4"]
    assert path.read_bytes() == b"old"


def test_overlay_writer_needs_a_frame_a_rate_and_a_folder(tmp_path: Path):
    with pytest.raises(GboptError, match="at least one"), OverlayWriter(tmp_path / "a.mp4", 5):
        pass
    for fps in (0, 1e-4, 1e5, float("nan")):  # FFmpeg would take 24, or write what has no frame
        with pytest.raises(GboptError, match=r"expected 0\.001 to 1000 frames per second"):
            OverlayWriter(tmp_path / "a.mp4", fps)
    (tmp_path / "file").touch()
    with pytest.raises(GboptError, match="cannot be written"):
        OverlayWriter(tmp_path / "file" / "a.mp4", 5).__enter__()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_overlay_writer_writes_what_browsers_play(tmp_path: Path):
    with OverlayWriter(tmp_path / "a.mp4", fps=7.5) as video:
        for grey in (0, 100, 200):
            video.write(np.full((48, 64, 3), grey, np.uint8))
    with av.open(tmp_path / "a.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(15, 2)
        times = [frame.time for frame in container.decode(stream)]
    np.testing.assert_allclose(times, [0, 1 / 7.5, 2 / 7.5], atol=1e-3)


@pytest.mark.parametrize("images", [2, 60])  # it fails at the end, and while it writes
def test_overlay_writer_says_why_a_video_cannot_be_written(images: int, tmp_path: Path):
    path, random = tmp_path / "overlay.mp4", np.random.default_rng(0)
    path.write_bytes(b"old")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            pytest.raises(GboptError, match=r"/overlay\.mp4: cannot be written: File too large"),
            OverlayWriter(path, fps=5) as video,
        ):
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most))
            for _ in range(images):
                video.write(random.integers(0, 255, (240, 320, 3), np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert [p.name for p in tmp_path.iterdir()] == ["overlay.mp4"]
    assert path.read_bytes() == b"old"
