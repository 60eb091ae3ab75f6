"""A worker apart from all others: a process that imports it starts fast."""

from __future__ import annotations

import os
import signal


class Doubler:
    """A worker that doubles numbers, and is killed by a negative one."""

    def __init__(self, dies: bool = False) -> None:
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    def ready(self) -> None: ...

    def do(self, task: int) -> int:
        if task < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * task
