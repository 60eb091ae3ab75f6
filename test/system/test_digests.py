"""What the demo recording gives is the same to the bit as before a change of structure.

.venv/bin/python test/support/digests.py > before.json     # before the change
GBOPT_DIGESTS=before.json make test-system                 # after it
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support import digests

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.skipif(
    "GBOPT_DIGESTS" not in os.environ,
    reason="set GBOPT_DIGESTS to a file that `test/support/digests.py` printed on this machine",
)
def test_digests_are_those_of_the_file(ros_domain_id: int) -> None:
    command = [sys.executable, digests.__file__, "--expect", os.environ["GBOPT_DIGESTS"]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
