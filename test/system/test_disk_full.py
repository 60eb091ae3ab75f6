"""Commands on disks with too little room: one clear line, no leftovers, nothing lost.

GBOPT_DISKS=20 GBOPT_SEED=1 .venv/bin/python -m pytest test/system/test_disk_full.py -s
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.full_disk import on_small_disk
from support.verbs import make_bench

TRIES = int(os.environ.get("GBOPT_DISKS", "10"))  # of each of three commands
SEED = int(os.environ.get("GBOPT_SEED", "0"))

pytestmark = pytest.mark.timeout(300 + 60 * TRIES)


def test_commands_on_a_full_disk_lose_nothing(tmp_path: Path) -> None:
    failed = on_small_disk(tmp_path, make_bench(tmp_path), TRIES, SEED)
    print(f"\n{failed} of {3 * TRIES} commands found too little room, seed {SEED}")
    assert failed > 0
