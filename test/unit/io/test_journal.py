"""The journal of a run that can be gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from gbopt_ros.io.journal import JOURNAL_NAME, Journal, differences, unfinished_run


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


@pytest.mark.parametrize("clips", [(1, 3, 2), (2, 1, 3), (3, 2, 1), (9, 10, 2)])
def test_unfinished_run_is_the_one_that_has_done_most(
    tmp_path: Path, clips: tuple[int, ...]
) -> None:
    """Of those with the same settings, whatever their names."""
    left = [tmp_path / f".out.{letter * 8}.part" for letter in "abcd"]
    for folder, count in zip(left, (*clips, 20), strict=True):
        folder.mkdir()
        journal = Journal(folder / JOURNAL_NAME)
        journal.begin({"k": 2 if count == 20 else 1})
        for clip in range(count):
            journal.append({"clip": clip})
    most = left[clips.index(max(clips))]
    assert unfinished_run(tmp_path / "out", {"k": 1}) == most / "out"
    assert unfinished_run(tmp_path / "out", {"k": 2}) == left[3] / "out"


def test_differences_name_settings_and_both_values() -> None:
    before = {"config": {"k": 10, "size": (4, 5)}, "files": {"a": "0" * 64}, "gone": 1}
    now = {"config": {"k": 5, "size": [4, 5]}, "files": {"a": "1" * 64}}
    assert differences(before, before) == []
    assert differences(before, now) == [
        "config.k was 10, now 5",
        "files.a was '0000000000000000000..., now '1111111111111111111...",
        "gone was 1, now None",
    ]
