"""How the threads of torch wait for each other in the programs."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

# What torch does first, in a hundredth of the time.
_LOADS_LIBGOMP = """
import ctypes, importlib.util, pathlib
folder = pathlib.Path(importlib.util.find_spec("torch").origin).parent
def load(_=None):
    for library in (folder / "lib").glob("libgomp*.so*"):
        ctypes.CDLL(str(library))
    return 0
"""
_GBOPT = f"""{_LOADS_LIBGOMP}
from gbopt_ros.cli import main as cli
cli.main = load
cli.program()
"""
_NODE = f"""{_LOADS_LIBGOMP}
from types import SimpleNamespace
from gbopt_ros.nodes import __main__ as nodes
nodes.import_module = lambda _: SimpleNamespace(main=load)
nodes.run("composed", [])
"""
_FOR_EVER = 10**12


def turns(program: str, **variables: str) -> int:
    """How often a waiting thread of torch looks again before it sleeps, as its libgomp tells."""
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
    assert (
        turns(f"{_LOADS_LIBGOMP}load()") > 100_000
    )  # otherwise the programs need not say anything


@pytest.mark.parametrize(
    ("variables", "least", "most"),
    [({"GOMP_SPINCOUNT": "20"}, 20, 20), ({"OMP_WAIT_POLICY": "ACTIVE"}, 100_000, _FOR_EVER)],
    ids=["spin count", "wait policy"],
)
def test_the_environment_decides(variables: dict[str, str], least: int, most: int) -> None:
    assert least <= turns(_GBOPT, **variables) <= most
