from __future__ import annotations

import subprocess

import pytest

from benchmarks import busy_cores


def test_table_has_a_row_for_every_measurement() -> None:
    rows = [
        busy_cores.Row(0, "default", {"networks": 137.2, "step": 1.66}),
        busy_cores.Row(2, "1000", {"networks": 3434.2, "step": 0.5}),
    ]
    assert busy_cores.table(rows).splitlines()[2:] == [
        "| 0 | default | 137 | 1.66 |",
        "| 2 | 1000 | 3434 | 0.50 |",
    ]


def test_busy_processes_run_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def remember(*arguments: object, **options: object) -> object:
        started.append(start(*arguments, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(busy_cores.subprocess, "Popen", remember)
    with busy_cores.busy(2):
        assert [process.poll() for process in started] == [None, None]
    assert all(process.returncode for process in started)
