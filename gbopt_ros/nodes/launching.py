"""What the launch files do when a process ends. It needs the launch system when it is called."""

from __future__ import annotations

import signal
from typing import Any

# By Ctrl-C: the status of `gbopt`, and of a Python that has not come to its own code yet.
_INTERRUPTED = 128 + signal.SIGINT, -signal.SIGINT


def end_all(event: Any, context: Any) -> list[Any]:
    """End the other processes, as `on_exit` of a process.

    Args:
        event: the `ProcessExited`.

    Raises:
        RuntimeError: the process failed. The launch system ends the others and fails, too.
    """
    from launch.actions import Shutdown

    told = f"{event.process_name} ended with status {event.returncode}"
    if event.returncode and event.returncode not in _INTERRUPTED:
        raise RuntimeError(told)
    return [Shutdown(reason=told)]
