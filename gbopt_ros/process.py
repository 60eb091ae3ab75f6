"""How a process of nodes ends: on the first signal, and at once when its nodes are closed."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_caught: list[int] = []


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
