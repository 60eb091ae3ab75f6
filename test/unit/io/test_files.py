"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from gbopt_ros.io import files
from gbopt_ros.io.files import (
    collect_leftovers,
    make_folder,
    path_below,
    remove_folder,
    replacing,
    replacing_folder,
    unfinished_folders,
)
from gbopt_ros.io.locks import try_lock, unlock
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


@pytest.mark.parametrize("below", ["out", "deep/out", "deeper/still/out"])
def test_writers_name_the_file_that_should_be_a_folder(tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.touch()
    for write in (replacing, replacing_folder):
        with pytest.raises(GboptError) as raised, write(file / below):
            pass
        assert str(raised.value) == f"{file / below}: cannot be written: {file} is no folder"
    with pytest.raises(GboptError) as raised:
        make_folder(file / below)
    assert str(raised.value) == f"{file / below}: cannot be made a folder: {file} is no folder"
    assert [*tmp_path.iterdir()] == [file]


# ---------------------------------------------------------------------------- leftovers and locks


def killed_in(write: Callable[[], object]) -> None:
    """A process that is killed while it writes."""
    process = os.fork()
    if process == 0:
        try:
            write()
        finally:
            os._exit(1)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL


def kill_in_folder(folder: Path) -> None:
    with replacing_folder(folder) as aside:
        (aside / "deep").mkdir(parents=True)
        os.kill(os.getpid(), signal.SIGKILL)


def kill_in_file(path: Path) -> None:
    with replacing(path) as aside:
        aside.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_replacing_folder_collects_what_a_killed_writer_left(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    killed_in(lambda: kill_in_folder(out))
    killed_in(lambda: kill_in_folder(other))
    assert len(list(tmp_path.iterdir())) == 2
    with replacing_folder(out) as aside:
        aside.mkdir()
    assert [path.name.split(".")[1] for path in tmp_path.glob(".*")] == ["other"]  # is not ours
    collect_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [out]


def test_replacing_folder_collects_leftovers_of_a_finished_output_too(tmp_path: Path) -> None:
    """Its writer was killed after the rename."""
    killed_in(lambda: kill_in_folder(tmp_path / "out"))
    (tmp_path / "out" / "frames").mkdir(parents=True)
    with pytest.raises(GboptError, match="exists already"), replacing_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_make_folder_collects_what_a_killed_writer_left(tmp_path: Path) -> None:
    killed_in(lambda: kill_in_file(tmp_path / "a.txt"))
    assert len(list(tmp_path.iterdir())) == 1
    make_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_collect_leftovers_leaves_the_work_of_a_live_writer(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with replacing_folder(out) as aside:
        aside.mkdir()
        collect_leftovers(tmp_path)
        assert unfinished_folders(out) == []
        process = os.fork()
        if process == 0:  # another process, which inherited the descriptor
            collect_leftovers(tmp_path)
            os._exit(0)
        assert os.waitpid(process, 0)[1] == 0
        assert aside.is_dir()
    assert out.is_dir()


def test_collect_leftovers_touches_no_folder_of_others(tmp_path: Path) -> None:
    names = [".out.part", ".out.1234567.part", ".out.12345678.bak", "out.12345678.part", ".git"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / ".file.12345678.part").touch()
    collect_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6


def test_try_lock_ends_with_its_process_even_while_a_fork_lives(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    read, write = os.pipe()
    owner = os.fork()
    if owner == 0:
        try_lock(path, os.O_RDWR | os.O_CREAT)
        if os.fork() == 0:  # a worker that outlives its parent
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(owner, 0)
    lock = try_lock(path)
    assert lock is not None and try_lock(path) is None
    unlock(lock)
    os.close(write)
    os.close(read)
    assert try_lock(tmp_path / "nothing") is None


# ------------------------------------------------------------------------------------- durability


@pytest.mark.parametrize("what", ["file", "folder"])
def test_all_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """In this order: new parents, the content, the rename, the name."""
    done: list[str] = []
    replace, folder = os.replace, tmp_path / "new"
    monkeypatch.setattr(files, "sync", lambda path: done.append(path.name))
    monkeypatch.setattr(files.os, "replace", lambda *p: (done.append("replace"), replace(*p)))
    if what == "file":
        with replacing(folder / "out") as aside:
            aside.touch()
        assert done == [tmp_path.name, "out", "replace", "new"]
    else:
        with replacing_folder(folder / "out") as aside:
            (aside / "frames").mkdir(parents=True)
            (aside / "frames" / "0.jpg").touch()
        assert done == [tmp_path.name, "out", "0.jpg", "frames", "replace", "new"]


def test_remove_folder_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v0001" / "deep").mkdir(parents=True)
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync", synced.append)
    remove_folder(tmp_path / "v0001")
    assert synced == [tmp_path]
    assert list(tmp_path.iterdir()) == []


def test_replacing_names_the_target_in_errors(tmp_path: Path) -> None:
    with pytest.raises(GboptError) as raised, replacing(tmp_path / "a.txt") as aside:
        raise GboptError(f"{aside}: is broken")
    assert str(raised.value) == f"{tmp_path}/a.txt: is broken"
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------- paths and digests


@pytest.mark.parametrize("name", ["/etc/hostname", "../b.png", "a/../../b.png"])
def test_path_below_refuses_what_is_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(GboptError, match="this one is outside of it"):
        path_below(tmp_path / "images", name)


@pytest.mark.parametrize("name", ["b.png", "a/b.png", "a/../b.png", "..b.png"])
def test_path_below_takes_what_is_inside(tmp_path: Path, name: str) -> None:
    assert path_below(tmp_path, name) == tmp_path / name
