"""Videos and image folders as recordings, and what every recording has in common."""

from __future__ import annotations

import errno
import logging
import os
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recordings import assert_same_frames, noise_frames, write_images, write_video

from gbopt_ros.io.sources import Source, files_of_recording, open_source
from gbopt_ros.io.sources.base import Record, SourceOptions
from gbopt_ros.io.sources.images import UndecodableImage
from gbopt_ros.structures import GboptError


class Synthetic(Source):
    """`total` images at 10 Hz; the ones in `broken` cannot be decoded."""

    def __init__(
        self,
        total: int,
        options: SourceOptions,
        *,
        broken: frozenset[int] = frozenset(),
        size: tuple[int, int] = (2, 2),
    ) -> None:
        super().__init__(Path("synthetic"), options)
        self._count = total
        self._broken = broken
        self._size = size
        self.decoded = 0

    @property
    def total(self) -> int:
        return self._count

    def _records(self) -> Iterator[Record]:
        for index in range(self._count):
            yield Record(index, 5_000 + index * 100_000_000, partial(self._decode, index))

    def _decode(self, index: int) -> np.ndarray:
        self.decoded += 1
        if index in self._broken:
            raise UndecodableImage("broken")
        return np.full((*self._size, 3), index % 256, np.uint8)


# ------------------------------------------------------------------- range, stride, resize, skips


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (SourceOptions(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (SourceOptions(stride=4), [0, 4, 8]),
        (SourceOptions(start=0.2), [2, 3, 4, 5, 6, 7, 8, 9]),
        (SourceOptions(end=0.2), [0, 1]),
        (SourceOptions(start=0.15, end=0.85, stride=3), [2, 5, 8]),
        (SourceOptions(start=0.9, end=99), [9]),
    ],
)
def test_source_range_and_stride_keep_the_index_of_the_recording(
    options: SourceOptions, expected: list[int]
) -> None:
    source = Synthetic(10, options)
    frames = list(source)
    assert [f.index for f in frames] == expected
    assert [f.image[0, 0, 0] for f in frames] == expected
    assert [f.stamp_ns for f in frames] == [5_000 + i * 100_000_000 for i in expected]
    assert source.decoded == len(expected)


@given(st.integers(1, 40), st.integers(1, 12))
def test_source_count_is_exact_without_a_range(total: int, stride: int) -> None:
    source = Synthetic(total, SourceOptions(stride=stride))
    assert source.count == len(list(source))


def test_source_count_is_unknown_with_a_range() -> None:
    assert Synthetic(10, SourceOptions(start=0.1)).count is None
    assert Synthetic(10, SourceOptions(end=0.1)).count is None


@pytest.mark.parametrize("size", [(10, 20), (4, 4), (3, 9)])
def test_source_resize_is_width_by_height(size: tuple[int, int]) -> None:
    (frame,) = Synthetic(1, SourceOptions(resize=size), size=(4, 6))
    assert frame.image.shape == (size[1], size[0], 3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"stride": 0}, "stride"),
        ({"start": -1.0}, "start"),
        ({"start": float("nan")}, "start"),
        ({"end": float("inf")}, "end"),
        ({"start": 2.0, "end": 2.0}, "end"),
        ({"end": 0.0}, "end"),
        ({"resize": (0, 10)}, "resize"),
    ],
)
def test_open_source_refuses_options_out_of_range(
    tmp_path: Path, arguments: dict, named: str
) -> None:
    folder = write_images(tmp_path / "images", noise_frames(1))
    with pytest.raises(GboptError, match=f"^{named}: expected"):
        open_source(folder, **arguments)


def test_source_skips_counts_and_logs_undecodable_images_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Synthetic(6, SourceOptions(), broken=frozenset({0, 3}))
    for _ in range(2):
        assert [f.index for f in source] == [1, 2, 4, 5]
        assert source.skipped == 2
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "frame 3 (stamp 300005000 ns) skipped: broken" in warnings[1]


def test_source_without_a_decodable_image_is_an_error() -> None:
    source = Synthetic(3, SourceOptions(), broken=frozenset({0, 1, 2}))
    with pytest.raises(GboptError, match="none of 3 images can be decoded; frame 0: broken"):
        list(source)


def test_source_without_an_image_in_range_is_an_error() -> None:
    with pytest.raises(GboptError, match="empty"):
        list(Synthetic(0, SourceOptions()))
    with pytest.raises(GboptError, match=r"no image from second 100 on, it is 0\.2 s long; start"):
        list(Synthetic(3, SourceOptions(start=100.0)))
    with pytest.raises(GboptError, match="no image in the requested range"):
        list(Synthetic(3, SourceOptions(start=0.11, end=0.12)))


def test_source_memory_does_not_grow() -> None:
    source = Synthetic(2000, SourceOptions(), size=(120, 160))  # 115 MB in all
    tracemalloc.start()
    assert sum(frame.image.shape[0] for frame in source) == 2000 * 120
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


# ------------------------------------------------------------------------------------ image folder


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".PNG"])
def test_folder_source_is_in_natural_order_at_30_hz(tmp_path: Path, suffix: str) -> None:
    frames = noise_frames(12)
    source = open_source(write_images(tmp_path / "walk", frames, suffix))
    assert (source.name, source.count) == ("walk", 12)
    for _ in range(2):
        got = list(source)
        for a, b in zip(got, frames, strict=True):
            np.testing.assert_array_equal(a.image, b.image)
        assert [f.index for f in got] == list(range(12))
        assert [f.stamp_ns for f in got] == [round(i * 1e9 / 30) for i in range(12)]


def test_folder_source_takes_stamps_from_file_names_of_nanoseconds(tmp_path: Path) -> None:
    folder = write_images(tmp_path, noise_frames(3))
    stamps = [1_700_000_000_000_000_000, 1_700_000_000_033_000_000, 1_700_000_000_099_000_000]
    for index, stamp in enumerate(stamps):
        (folder / f"{index}.png").rename(folder / f"{stamp}.png")
    assert [f.stamp_ns for f in open_source(folder)] == stamps
    write_images(tmp_path, noise_frames(1))  # one name that is no stamp: 30 Hz
    assert [f.stamp_ns for f in open_source(folder)] == [0, 33333333, 66666667, 100000000]


@pytest.mark.parametrize(
    ("names", "stamps"),
    [
        (
            ("1403636579763555584", "1403636580000000001"),
            (1403636579763555584, 1403636580000000001),
        ),
        (("1531883530412470", "1531883530449377"), (1531883530412470000, 1531883530449377000)),
        (("1600000000005", "1600000000038"), (1600000000005000000, 1600000000038000000)),
        (("1305031102.175304", "1305031102.2"), (1305031102175304000, 1305031102200000000)),
        (("0000000000000000", "0000000000000001"), (0, 33333333)),
        (("0000000000", "0000000001"), (0, 33333333)),
        (("20230101123000", "20230101123001"), (0, 33333333)),
    ],
    ids=["EuRoC", "nuScenes", "milliseconds", "TUM", "16-digit index", "KITTI", "date"],
)
def test_folder_source_knows_the_unit_of_stamps_in_file_names(
    tmp_path: Path, names: tuple[str, str], stamps: tuple[int, int]
) -> None:
    folder = write_images(tmp_path, noise_frames(2))
    for index, name in enumerate(names):
        (folder / f"{index}.png").rename(folder / f"{name}.png")
    got = [(f.file_name, f.stamp_ns, f.index) for f in open_source(folder)]
    assert got == [(f"{names[i]}.png", stamps[i], i) for i in range(2)]


def test_folder_source_takes_a_png_beside_a_jpeg_for_a_mask(tmp_path: Path) -> None:
    write_images(tmp_path, noise_frames(3), ".jpg")
    write_images(tmp_path, noise_frames(2, (5, 5)), ".png")
    (tmp_path / ".hidden.jpg").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    frames = list(open_source(tmp_path))
    assert [f.size for f in frames] == [(24, 32)] * 3


def test_folder_source_skips_undecodable_files(tmp_path: Path) -> None:
    write_images(tmp_path, noise_frames(4), ".jpg")
    data = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "2.jpg").write_bytes(b"")
    source = open_source(tmp_path)
    assert [f.index for f in source] == [0, 3]
    assert source.skipped == 2


def test_folder_source_allows_a_change_of_size(tmp_path: Path) -> None:
    write_images(tmp_path, [*noise_frames(2), *noise_frames(4, (10, 12))[2:]])
    assert [f.size for f in open_source(tmp_path)] == [(24, 32)] * 2 + [(10, 12)] * 2


def test_folder_source_without_images_says_so_beside_a_folder_that_must_not_be_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").mkdir()
    look = os.stat

    def stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if "secret/" in str(path):  # root may enter what its mode forbids
            raise PermissionError(errno.EACCES, "Permission denied")
        return look(path, *args, **options)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(GboptError, match="no image in this folder: expected"):
        open_source(tmp_path)


def test_folder_source_without_images_says_where_they_are(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="no image in this folder: expected"):
        open_source(tmp_path)
    write_images(tmp_path / "frames", noise_frames(1))
    with pytest.raises(GboptError, match=f"there are in {tmp_path / 'frames'}"):
        open_source(tmp_path)
    (tmp_path / "a.MP4").touch()
    with pytest.raises(GboptError, match=f"no image in this folder, but a recording: {tmp_path}/a"):
        open_source(tmp_path)
    (tmp_path / "a.MP4").unlink()
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "metadata.yaml").touch()
    with pytest.raises(GboptError, match=f"but a recording: {tmp_path / 'bag'}"):
        open_source(tmp_path)


# ------------------------------------------------------------------------------------------- video


def test_video_source_gives_frames_and_stamps(tmp_path: Path) -> None:
    frames = noise_frames(10, (48, 64))
    source = open_source(write_video(tmp_path / "clip.avi", frames, "FFV1"))
    assert (source.name, source.count) == ("clip", 10)
    got = list(source)
    assert [f.stamp_ns for f in got] == [i * 40_000_000 for i in range(10)]
    assert [f.index for f in got] == list(range(10))
    for a, b in zip(got, frames, strict=True):
        assert np.abs(a.image.astype(int) - b.image).mean() < 25  # FFV1 here keeps YUV 4:2:0
    assert_same_frames(source, got)


@pytest.mark.parametrize(("name", "fourcc"), [("a.avi", "MJPG"), ("a.mp4", "mp4v")])
def test_video_source_reports_a_cut_file(tmp_path: Path, name: str, fourcc: str) -> None:
    whole = write_video(tmp_path / name, noise_frames(12, (48, 64)), fourcc)
    frames = list(open_source(whole))
    data = whole.read_bytes()
    cut = tmp_path / f"cut-{name}"
    for kept in np.linspace(1, len(data) - 1, 23).astype(int):
        cut.write_bytes(data[:kept])
        got = []
        with pytest.raises(GboptError, match=r"cut off.* lacks \d+ bytes|not a readable|text file"):
            got.extend(open_source(cut))
        assert len(got) <= len(frames)


def test_video_source_accepts_data_after_the_last_mp4_box(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", noise_frames(3, (48, 64)), "mp4v")
    with video.open("ab") as file:
        file.write(b"\x7f\xff\xff\xffnote and more")
    assert len(list(open_source(video))) == 3


def test_open_source_refuses_a_file_of_another_kind(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    file = tmp_path / "zeros.bin"
    file.write_bytes(b"\0" * 4096)
    with pytest.raises(GboptError, match="not a readable video; expected a rosbag2"):
        open_source(file)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mp4", b"", "the file is empty"),
        ("a.bag", b"#ROSBAG V2.0\n" + b"\0" * 50, "ROS 1; convert it"),
        ("a.db3.zstd", b"\x28\xb5\x2f\xfd" + b"\0" * 50, "compressed with zstd"),
        ("a.mcap", b"hello, I am no MCAP file", "does not start as an MCAP file"),
        ("a.db3", b"hello, I am no SQLite file", "does not start as an SQLite file"),
        ("a.txt", b"some text, which FFmpeg would draw\n", "a text file; expected a rosbag2"),
        ("a.m3u8", b"#EXTM3U\n#EXTINF:1,\nother.ts\n", "a text file"),
        ("a.jpg", b"\xff\xd8\xff\xe0" + b"\0" * 50, "a single image; name its folder"),
    ],
)
def test_open_source_explains_files_that_are_no_recording(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GboptError, match=message):
        open_source(tmp_path / name)


def test_open_source_accepts_a_path_as_text(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", noise_frames(2))
    assert open_source(str(folder)).count == open_source(folder).count == 2


def test_open_source_refuses_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="no such file or folder"):
        open_source(tmp_path / "nothing.mcap")


@pytest.mark.parametrize("camera", ["rtsp://10.0.0.1/live", "HTTP://host:80/a.mjpg", "/dev/tty"])
def test_open_source_says_how_a_camera_is_read(camera: str) -> None:
    with pytest.raises(GboptError, match=r"no recording; .*gbopt run --camera TOPIC"):
        open_source(camera)


def test_open_source_refuses_a_topic_without_a_rosbag(tmp_path: Path) -> None:
    folder = write_images(tmp_path, noise_frames(1))
    with pytest.raises(GboptError, match="not a rosbag2, so it has no topic /camera"):
        open_source(folder, topic="/camera")


# -------------------------------------------------------------------------------- real recordings


def test_open_source_reads_a_real_video(real_dir: Path) -> None:
    source = open_source(real_dir / "cups.mp4", stride=60, resize=(64, 36))
    frames = list(source)
    assert source.count == len(frames) == 5
    assert [f.index for f in frames] == [0, 60, 120, 180, 240]
    assert [f.stamp_ns for f in frames] == [2_002_000_000 * i for i in range(5)]
    assert {f.size for f in frames} == {(36, 64)}
    assert cv2.absdiff(frames[0].image, frames[-1].image).max() > 20


def test_open_source_reads_a_real_cut_video_up_to_the_cut(real_dir: Path, tmp_path: Path) -> None:
    data = (real_dir / "cups.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 5])
    got = []
    with pytest.raises(GboptError, match=r"cut off, the file lacks \d+ bytes; \d+ frames"):
        got.extend(open_source(cut, resize=(32, 18)))
    assert 30 < len(got) < 100
    assert [f.index for f in open_source(cut, end=0.2, resize=(32, 18))] == list(range(6))


@pytest.mark.parametrize(
    ("name", "count", "size"), [("davis-bear", 40, (480, 854)), ("ycbv-0001", 20, (480, 640))]
)
def test_open_source_leaves_masks_out_of_real_folders(
    real_dir: Path, name: str, count: int, size: tuple[int, int]
) -> None:
    source = open_source(real_dir / name, stride=10)
    assert source.total == count
    for frame in source:
        assert frame.size == size
        assert len(np.unique(frame.image)) > 100


def test_sources_refuse_too_many_pixels(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi", noise_frames(2, (24, 32)), "MJPG")
    assert len(list(open_source(video, max_pixels=768))) == 2
    with pytest.raises(GboptError, match=r"clip\.avi: frames of 32x24 pixels are more than 767"):
        open_source(video, max_pixels=767)
    folder = write_images(tmp_path / "images", noise_frames(1, (24, 32)))
    with pytest.raises(GboptError, match="32x24 pixels are more than 767"):
        list(open_source(folder, max_pixels=767))
    with pytest.raises(GboptError, match="resize: 99999x1 pixels: expected a side at most 64"):
        open_source(folder, resize=(99999, 1))
    with pytest.raises(GboptError, match="resize: 9000x9000 pixels are more than 64000000"):
        open_source(folder, resize=(9000, 9000))


def test_files_of_recording_tell_whether_it_has_changed(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    (bag / "folder").mkdir(parents=True)
    for name, content in (("b.mcap", b"12"), ("a.yaml", b"1")):
        (bag / name).write_bytes(content)
        os.utime(bag / name, ns=(5, 7))
    expected = [("a.yaml", 1, 7), ("b.mcap", 2, 7)]
    assert files_of_recording(bag) == expected
    assert files_of_recording(bag / "b.mcap") == expected[1:]
    (bag / "c.mcap").symlink_to(bag / "gone")  # not read either
    assert files_of_recording(bag) == expected
    os.utime(bag / "a.yaml", ns=(5, 8))
    assert files_of_recording(bag) == [("a.yaml", 1, 8), expected[1]]
    with pytest.raises(GboptError, match="gone: cannot be read"):
        files_of_recording(tmp_path / "gone")
