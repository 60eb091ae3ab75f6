"""Files and folders that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from gbopt_ros.io.files import read_json, replacing, replacing_folder
from gbopt_ros.structures import GboptError


def test_replacing_keeps_the_old_file_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with (
        pytest.raises(GboptError, match="cannot be written: disk"),
        replacing(path) as new,
    ):
        new.write_text("half")
        raise OSError("disk")
    assert path.read_text() == "old"
    with replacing(path) as new:
        new.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_folder_publishes_a_complete_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    with replacing_folder(folder) as new:
        assert new.name == "out"
        new.mkdir()
        (new / "file").touch()
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert list(folder.parent.iterdir()) == [folder]
    with pytest.raises(GboptError, match="exists already"), replacing_folder(folder):
        pass


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left"), "{out}: cannot be written: No space left"),
        (GboptError("{new}/file is broken"), "{out}/file is broken"),
        (KeyError("other"), "'other'"),
    ],
)
def test_replacing_folder_leaves_nothing_after_a_failure(
    tmp_path: Path, error: Exception, text: str
) -> None:
    folder = tmp_path / "deep" / "out"
    with pytest.raises((GboptError, KeyError)) as raised, replacing_folder(folder) as new:
        new.mkdir()
        raise type(error)(str(error).format(new=new)) if type(error) is GboptError else error
    assert str(raised.value) == text.format(out=folder)
    assert list(tmp_path.iterdir()) == []


def test_read_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(GboptError, match=r"b\.json: expected JSON"):
        read_json(tmp_path / "b.json")
    with pytest.raises(GboptError, match=r"c\.json: cannot be read: No such file"):
        read_json(tmp_path / "c.json")
