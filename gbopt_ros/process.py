"""How the processes of the programs share the cores, and how those of nodes end."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

SPIN_COUNT = "1000"
"""Turns after which a waiting thread of torch sleeps; 300,000 unless told otherwise."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_caught: list[int] = []


def share_cores() -> None:
    """From now on a thread of torch that waits for the others soon leaves its core.

    To be called before torch is imported. The threads of a network wait for each other at every
    layer. If one of them has to share its core with another program, the others would spin for most
    of its turn, and so take the cores from both. What the environment says about it holds.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def exit_on_signals() -> None:
    """From now on SIGINT and SIGTERM end the process with status 0.

    For the time in which modules are imported: nothing has to be closed yet.
    """
    for number in _SIGNALS:
        signal.signal(number, lambda *_: leave(0))


def stop_on_signals() -> list[int]:
    """From now on each SIGINT and SIGTERM goes into the list that is returned, always the same one.

    No event: a signal that interrupts the handler of another one would wait for its lock for ever.
    """
    for number in _SIGNALS:
        signal.signal(number, lambda caught, _: _caught.append(caught))
    return _caught


def leave(status: int) -> NoReturn:
    """End the process without the end of the interpreter, which takes seconds with torch loaded.

    Everything must be closed. Functions registered with `atexit` are not called.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)
