"""How the threads of torch wait for each other in the programs."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

_GBOPT = """
from gbopt_ros.cli import main as cli
cli.main = lambda: __import__("torch") and 0
cli.program()
"""
_NODE = """
from types import SimpleNamespace
from gbopt_ros.nodes import __main__ as nodes
nodes.import_module = lambda _: SimpleNamespace(main=lambda _: __import__("torch") and 0)
nodes.run("composed", [])
"""
_FOR_EVER = 10**12


def turns(program: str, **variables: str) -> int:
    """How often a waiting thread of torch looks again before it sleeps, as libgomp tells."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "GOMP_", "PYTEST_"))
    }
    told = subprocess.run(
        [sys.executable, "-c", program],
        env=kept | {"OMP_NUM_THREADS": "1", "OMP_DISPLAY_ENV": "verbose"} | variables,
        capture_output=True, text=True, check=True, timeout=120,
    ).stderr  # fmt: skip
    found = re.search(r"GOMP_SPINCOUNT = '(\d+|INFINITY)'", told)
    if found is None:
        pytest.skip("torch does not use libgomp here")
    return _FOR_EVER if found[1] == "INFINITY" else int(found[1])


@pytest.mark.parametrize("program", [_GBOPT, _NODE], ids=["gbopt", "node"])
def test_a_waiting_thread_soon_leaves_its_core(program: str) -> None:
    assert turns(program) == 1000
    assert turns("import torch") > 100_000  # otherwise the programs need not say anything


@pytest.mark.parametrize(
    ("variables", "least", "most"),
    [({"GOMP_SPINCOUNT": "20"}, 20, 20), ({"OMP_WAIT_POLICY": "ACTIVE"}, 100_000, _FOR_EVER)],
    ids=["spin count", "wait policy"],
)
def test_the_environment_decides(variables: dict[str, str], least: int, most: int) -> None:
    assert least <= turns(_GBOPT, **variables) <= most
