"""The journal of a run that can be gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from gbopt_ros.io.journal import Journal, differences


@pytest.mark.parametrize("cut", range(1, 12))
def test_journal_gives_whole_entries_and_drops_a_cut_one(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.begin({"of": "another run"})
    journal.begin({"config": {"k": 1}})
    journal.append({"clip": 0})
    journal.append({"clip": 1})
    entries = [{"config": {"k": 1}}, {"clip": 0}, {"clip": 1}]
    assert journal.read() == entries
    path.write_bytes(path.read_bytes()[:-cut])
    assert journal.read() == entries[:2]
    journal.append({"clip": 7})  # begins on a line of its own
    assert journal.read() == [*entries[:2], {"clip": 7}]


@pytest.mark.parametrize("line", [b"\xff\x00", b"7", b"[]"])
def test_journal_that_is_missing_or_damaged(tmp_path: Path, line: bytes) -> None:
    assert Journal(tmp_path / "none").read() == []
    path = tmp_path / "journal"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"b": 2}\n')
    assert Journal(path).read() == [{"a": 1}]


def test_differences_name_settings_and_both_values() -> None:
    before = {"config": {"k": 10, "size": (4, 5)}, "files": {"a": "0" * 64}, "gone": 1}
    now = {"config": {"k": 5, "size": [4, 5]}, "files": {"a": "1" * 64}}
    assert differences(before, before) == []
    assert differences(before, now) == [
        "config.k was 10, now 5",
        "files.a was '0000000000000000000..., now '1111111111111111111...",
        "gone was 1, now None",
    ]
