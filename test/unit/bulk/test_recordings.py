"""The recordings that a command line and a manifest name."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gbopt_ros.bulk.recordings import Recording, find_recordings, read_manifest
from gbopt_ros.io.sources.base import SourceOptions
from gbopt_ros.structures import GboptError

OPTIONS = SourceOptions(stride=2)


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """Files of every kind of recording, and others; nothing opens them."""
    for name in (
        "robot10/a.mcap", "robot10/b.mcap", "robot9/bag/metadata.yaml", "robot9/bag/bag_0.db3",
        "robot9/split/s_0.mcap", "robot9/split/s_1.mcap", "images/0.png", "hall.MP4", "notes.txt",
        ".hidden/c.mcap", "replay-x/selected.json", "replay-x/frames/0.jpg", "out/plans/x.mp4",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_find_recordings_in_a_folder(fleet: Path) -> None:
    found = find_recordings([fleet], OPTIONS, out=fleet / "out")
    assert [(each.name, each.path.relative_to(fleet).as_posix()) for each in found] == [
        ("hall", "hall.MP4"),
        ("images", "images"),
        ("robot9-bag", "robot9/bag"),
        ("robot9-split", "robot9/split"),
        ("robot10-a", "robot10/a.mcap"),
        ("robot10-b", "robot10/b.mcap"),
    ]
    assert {each.options for each in found} == {OPTIONS}


def test_find_recordings_follows_no_link_to_a_folder_above(fleet: Path) -> None:
    before = find_recordings([fleet], OPTIONS, out=fleet / "out")
    (fleet / "robot10" / "loop").symlink_to("..")
    assert find_recordings([fleet], OPTIONS, out=fleet / "out") == before
    (fleet / "other").symlink_to("robot9")  # to another one it does
    names = [each.name for each in find_recordings([fleet], OPTIONS, out=fleet / "out")]
    assert names[2:4] == ["other-bag", "other-split"]
    assert len(names) == len(before) + 2


def test_find_recordings_tells_of_others_beside_images(
    fleet: Path, caplog: pytest.LogCaptureFixture
) -> None:
    find_recordings([fleet / "images"], OPTIONS, out=fleet / "out")
    assert caplog.messages == []
    (fleet / "cover.jpg").touch()
    (found,) = find_recordings([fleet], OPTIONS, out=fleet / "out")
    assert found.path == fleet
    assert caplog.messages == [
        f"{fleet}: taken for a folder of images; other recordings in it, such as {fleet}/hall.MP4, "
        "are left out: name them, too, or move the images"
    ]


def test_find_recordings_leaves_out_a_folder_that_cannot_be_read(
    fleet: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "robot9":  # root may read what its mode forbids
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    names = [each.name for each in find_recordings([fleet], OPTIONS, out=fleet / "out")]
    assert names == ["hall", "images", "robot10-a", "robot10-b"]
    assert caplog.messages == [f"{fleet}/robot9: left out, it cannot be read (Permission denied)"]


def test_find_recordings_passes_over_a_link_that_must_not_be_followed(
    fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = find_recordings([fleet], OPTIONS, out=fleet / "out")
    (fleet / "secret").symlink_to("images/1.png")
    look = os.stat

    def stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("secret"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return look(path, *args, **options)

    monkeypatch.setattr(os, "stat", stat)
    assert find_recordings([fleet], OPTIONS, out=fleet / "out") == before


def test_find_recordings_takes_manifests_folders_and_recordings(fleet: Path) -> None:
    (fleet / "list.yaml").write_text(
        "- hall.MP4\n- {source: robot9/bag, name: nine, topic: /camera/image, start: 1, end: 2.5}\n"
    )
    sources = [fleet / "list.yaml", fleet / "images", fleet / "robot10" / "a.mcap"]
    assert find_recordings(sources, OPTIONS, "/left", out=fleet / "out") == [
        Recording("hall", fleet / "hall.MP4", OPTIONS, "/left"),
        Recording(
            "nine",
            fleet / "robot9/bag",
            SourceOptions(stride=2, start=1.0, end=2.5),
            "/camera/image",
        ),
        Recording("images", fleet / "images", OPTIONS, "/left"),
        Recording("a", fleet / "robot10/a.mcap", OPTIONS, "/left"),
    ]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["robot10/a.mcap", "robot10"], "two recordings have the name 'a', .*robot10/a.mcap and"),
        (["nowhere"], "nowhere: no such file or folder"),
        (["replay-x"], "no recording in it: expected rosbag2 folders"),
    ],
)
def test_find_recordings_refuses(fleet: Path, sources: list[str], message: str) -> None:
    with pytest.raises(GboptError, match=message):
        find_recordings([fleet / name for name in sources], OPTIONS, out=fleet / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "expected a list of sources"),
        ("[]", "expected a list of sources"),
        ("- [", "not valid YAML"),
        ("- 3", "entry 1: expected a JSON object, got 3"),
        ("- a\n- {topic: /t}", "entry 2: expected 'source', it is not there"),
        ("- {source: a, colour: red}", "entry 1: unknown key 'colour'; expected end, name, source"),
        ("- {source: a, name: x/y}", "entry 1: .*: 'x/y' cannot be the name of a folder"),
        ("- {source: a, start: 2, end: 1}", "entry 1: end: expected more than start, got 2"),
        ("- {source: a, topic: 5}", r"^[^:]+: entry 1: 'topic': expected text, got 5$"),
        ("- {source: a, name: [b]}", r"^[^:]+: entry 1: 'name': expected text, got \['b'\]$"),
        ("- {source: a, start: soon}", "entry 1: 'start': expected a finite number, got 'soon'"),
    ],
)
def test_read_manifest_refuses(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(text)
    with pytest.raises(GboptError, match=message):
        read_manifest(path, OPTIONS)
