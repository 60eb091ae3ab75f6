"""A process that does tasks: what it gave is kept, whatever becomes of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from benchmarks.isolated import FAILED, MEASURED, IsolatedProcess


@pytest.fixture(scope="module")
def process() -> Iterator[IsolatedProcess]:
    process = IsolatedProcess()
    yield process
    process.close()


def process_id(process: IsolatedProcess) -> int:
    """Of the process that does the tasks: the parent of a shell that it starts."""
    (line,) = process.run("os:popen", 20, "echo $PPID").rows
    return int(line)


def test_rows_come_in_order_and_the_process_stays(process: IsolatedProcess) -> None:
    outcome = process.run("builtins:range", 20, 3)
    assert (outcome.status, outcome.reason, outcome.rows) == (MEASURED, "", [0, 1, 2])
    assert process_id(process) == process_id(process) != os.getpid()


@pytest.mark.parametrize(
    ("task", "arguments", "budget_s", "reason"),
    [
        ("builtins:range", ("three",), 20, "TypeError: 'str' object cannot be interpreted as an"),
        ("builtins:absent", (), 20, "AttributeError: module 'builtins' has no attribute 'absent'"),
        ("os:abort", (), 20, "its process ended with status -6"),
        ("time:sleep", (60,), 0.2, "not done after 0.2 s"),
    ],
)
def test_a_failure_has_its_reason_and_a_new_process_takes_over(
    process: IsolatedProcess, task: str, arguments: tuple, budget_s: float, reason: str
) -> None:
    before = process_id(process)
    outcome = process.run(task, budget_s, *arguments)
    assert (outcome.status, outcome.rows) == (FAILED, [])
    assert outcome.reason.startswith(reason)
    assert outcome.seconds < 10
    assert process_id(process) != before


def test_rows_before_a_failure_are_kept(process: IsolatedProcess) -> None:
    outcome = process.run("itertools:count", 0.3)
    assert outcome.status == FAILED
    assert outcome.rows[:3] == [0, 1, 2]
