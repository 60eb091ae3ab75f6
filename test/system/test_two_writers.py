"""Processes that want to change one store at the same time, again and again.

GBOPT_ROUNDS=10 .venv/bin/python -m pytest test/system/test_two_writers.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.two_writers import second_writers
from support.verbs import make_bench

ROUNDS = int(os.environ.get("GBOPT_ROUNDS", "4"))

pytestmark = pytest.mark.timeout(300 * (1 + ROUNDS))


def test_second_writer_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        second_writers(folder, bench)
