"""`gbopt bag`: any recording to a rosbag2."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from support.recordings import (
    assert_same_frames,
    noise_frames,
    storage_file,
    write_images,
    write_video,
)

from gbopt_ros.cli import bag
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.io.sources import open_source
from gbopt_ros.structures import GboptError


def gbopt_bag(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    bag.add_arguments(parser)
    bag.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bag_has_the_frames_of_its_video(
    tmp_path: Path, storage: str, capsys: pytest.CaptureFixture
) -> None:
    video = write_video(tmp_path / "walk.avi", noise_frames(8, (48, 64)), "MJPG", fps=12.5)
    gbopt_bag(video, tmp_path / "bag", "--storage", storage)
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'bag'}: 8 messages on /camera/color/image_raw\n"
    assert "8/8" in captured.err
    assert_same_frames(open_source(tmp_path / "bag"), list(open_source(video)))
    suffix = {"mcap": ".mcap", "sqlite3": ".db3"}[storage]
    assert storage_file(tmp_path / "bag").suffix == suffix


@pytest.mark.parametrize(
    ("flags", "topic", "lossless"),
    [
        ([], "/camera/color/image_raw", True),
        (["--compressed", "png"], "/camera/color/image_raw/compressed", True),
        (["--compressed", "jpeg"], "/camera/color/image_raw/compressed", False),
        (["--compressed"], "/camera/color/image_raw/compressed", False),
        (["--topic", "/mine", "--compressed", "png"], "/mine", True),
    ],
)
def test_bag_topic_and_compression(
    tmp_path: Path, flags: list[str], topic: str, lossless: bool
) -> None:
    folder = write_images(tmp_path / "images", noise_frames(3))
    gbopt_bag(folder, tmp_path / "bag", *flags)
    got = list(open_source(tmp_path / "bag", topic=topic))
    expected = list(open_source(folder))
    assert [f.stamp_ns for f in got] == [f.stamp_ns for f in expected]
    same = [np.array_equal(a.image, b.image) for a, b in zip(got, expected, strict=True)]
    assert same == [lossless] * 3


def test_bag_takes_a_part_of_one_topic(tmp_path: Path) -> None:
    frames = noise_frames(10)
    write_rosbag(frames, tmp_path / "in", topic="/left")
    gbopt_bag(
        *(tmp_path / "in", tmp_path / "out", "--input-topic", "/left", "--topic", "/right"),
        *("--start", 0.03, "--end", 0.2, "--stride", 2, "--resize", "16x8"),
    )
    got = list(open_source(tmp_path / "out", topic="/right"))
    assert [f.stamp_ns for f in got] == [frames[i].stamp_ns for i in (1, 3, 5)]
    assert {f.size for f in got} == {(8, 16)}
    with pytest.raises(GboptError, match="no topic /front"):
        gbopt_bag(tmp_path / "in", tmp_path / "more", "--input-topic", "/front")


def test_bag_reports_undecodable_frames(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_images(tmp_path / "images", noise_frames(3))
    (folder / "1.png").write_bytes(b"x")
    gbopt_bag(folder, tmp_path / "bag")
    assert capsys.readouterr().out.endswith(
        "2 messages on /camera/color/image_raw, 1 undecodable skipped\n"
    )


def test_bag_of_a_damaged_source_leaves_nothing(tmp_path: Path) -> None:
    write_rosbag(noise_frames(4), tmp_path / "in", topic="/left")
    file = storage_file(tmp_path / "in")
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(GboptError, match="4 frames before the damage were read"):
        gbopt_bag(file, tmp_path / "out")
    assert {f.name for f in tmp_path.iterdir()} == {"in"}


@pytest.mark.parametrize(
    "flags",
    [
        ["--resize", "64"],
        ["--resize", "0x5"],
        ["--stride", "0"],
        ["--start", "-1"],
        ["--end", "nan"],
        ["--storage", "zip"],
        ["--compressed", "webp"],
    ],
)
def test_bag_exits_with_2_on_wrong_usage(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as exit_:
        gbopt_bag(tmp_path, tmp_path / "bag", *flags)
    assert exit_.value.code == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(("name", "size"), [("cups.mp4", "64x36"), ("davis-bear", "64x36")])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bag_of_real_recordings(
    real_dir: Path, tmp_path: Path, name: str, size: str, storage: str
) -> None:
    flags = ("--end", "0.5", "--resize", size)
    gbopt_bag(real_dir / name, tmp_path / "bag", "--storage", storage, *flags)
    expected = list(open_source(real_dir / name, end=0.5, resize=(64, 36)))
    assert len(expected) == 15
    assert_same_frames(open_source(tmp_path / "bag"), expected)
