"""The lock of a store: one writer at a time, told by name, and dead with its process."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from gbopt_ros.io import locks
from gbopt_ros.learning.store import lock as lock_module
from gbopt_ros.learning.store.lock import StoreLock
from gbopt_ros.structures import GboptError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "_PAUSE_S", 0.0)


def test_lock_is_held_by_one_owner_at_a_time(tmp_path: Path) -> None:
    first, second = StoreLock(tmp_path / "store"), StoreLock(tmp_path / "store")
    assert first.is_free() and not (tmp_path / "store").exists()
    with first.held("gbopt learn"):
        assert not second.is_free()
        with first.held("publishing a version"):  # in the same thread
            pass
        assert not second.is_free()
        told = rf"store: gbopt learn is under way in process {os.getpid()} on \S+; wait until"
        with pytest.raises(GboptError, match=told), second.held("a rollback"):
            pass
    assert second.is_free()
    with second.held("a rollback"):
        assert not first.is_free()


def test_lock_is_refused_to_another_thread_of_its_owner(tmp_path: Path) -> None:
    lock, refused = StoreLock(tmp_path), []

    def other() -> None:
        try:
            with lock.held("a rollback"):
                pass
        except GboptError as error:
            refused.append(str(error))

    with lock.held("learning"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1 and "learning is under way" in refused[0]


def test_lock_is_free_after_an_error_and_after_a_kill(tmp_path: Path) -> None:
    lock = StoreLock(tmp_path)
    with pytest.raises(KeyError), lock.held("learning"):
        raise KeyError
    assert lock.is_free()
    process = os.fork()
    if process == 0:
        with lock.held("learning"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    assert lock.is_free()


def test_lock_needs_no_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    lock, other = StoreLock(tmp_path), StoreLock(tmp_path)
    monkeypatch.setattr(Path, "write_text", full)
    with (
        lock.held("learning"),
        pytest.raises(GboptError, match="another process is writing it; wait until it is done"),
        other.held("a rollback"),
    ):
        pass


@pytest.mark.parametrize("number", [13, 30], ids=os.strerror)
def test_lock_of_a_store_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.os, "open", refuse)
    with (
        pytest.raises(GboptError, match=f"cannot be written: {os.strerror(number)}"),
        StoreLock(tmp_path).held("learning"),
    ):
        pass
