"""No damaged file of any kind that is read ends in more than a clear error.

GBOPT_FUZZ_CASES=500 .venv/bin/python -m pytest -s test/system/test_fuzz.py
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from support.fuzz import KINDS, Isolated

pytestmark = pytest.mark.timeout(3600)

CASES = int(os.environ.get("GBOPT_FUZZ_CASES", "50"))


def test_readers_give_a_value_or_a_clear_error_for_damaged_files(tmp_path: Path) -> None:
    counts: dict[str, Counter[str]] = {}
    faults: list[str] = []
    with Isolated(tmp_path) as isolated:
        for name in KINDS:
            counts[name] = Counter()
            for number in range(CASES):
                found = isolated.verdict(name, number)
                outcome = found if found in ("value", "error") else "fault"
                counts[name][outcome] += 1
                if outcome == "fault":
                    faults.append(f"{name} {number}: {found}")
            print(f"{name}: {dict(counts[name])}", flush=True)
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:20])
    # Sound readers refuse a good part of the damage, else they look at nothing.
    assert all(count["error"] for count in counts.values()), counts
