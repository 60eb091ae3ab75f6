"""kill -9 at random moments over the commands that write: nothing that was committed is lost.

GBOPT_KILLS=100 GBOPT_SEED=1 .venv/bin/python -m pytest test/system/test_kills.py -s
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.kills import VERBS, Kills
from support.verbs import make_bench

KILLS = int(os.environ.get("GBOPT_KILLS", "100"))  # of all commands together
SEED = int(os.environ.get("GBOPT_SEED", "0"))

pytestmark = pytest.mark.timeout(300 + 20 * KILLS)


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kills]:
    folder = tmp_path_factory.mktemp("kills")
    made = Kills(folder, make_bench(folder), SEED)
    yield made
    print(f"\nkilled: {dict(made.counts)}, seed {SEED}")


@pytest.mark.parametrize("verb", VERBS)
def test_command_that_is_killed_loses_nothing(kills: Kills, verb: str) -> None:
    share = -(-KILLS // len(VERBS))
    for number in range(share):
        kills.kill(verb, number)
    assert kills.counts[verb] > 0, "none was killed before its end"
