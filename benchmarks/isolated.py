"""Work in a process of its own: what it gave before it failed, hung or died is kept.

A task is `module:function`, a function that yields rows: plain values that can be pickled.
"""

from __future__ import annotations

import importlib
import multiprocessing
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

MEASURED, NOT_THERE, FAILED = "measured", "not measured", "failed"
_ROW = "row"
_PATIENCE_S = 10.0


class NotThereError(Exception):
    """The machine lacks what a task needs; the message says what."""


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        status: `measured`, `not measured` (the machine lacks something) or `failed`.
        reason: why, in one line; "" if it was measured.
        rows: all that it yielded.
        seconds: wall time, with the start of a process if one was needed.
    """

    status: str
    reason: str
    rows: list[Any]
    seconds: float


class IsolatedProcess:
    """Does one task after the other. After one that failed a new process takes its place."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
        self._process: Any = None
        self._pipe: Connection | None = None

    def run(self, task: str, budget_s: float, *arguments: Any) -> Outcome:
        """The outcome of a task, which is killed when its budget is used up."""
        start, rows = time.monotonic(), []
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        status, reason = FAILED, f"not done after {budget_s:.3g} s"
        try:
            self._pipe.send((task, arguments))
            while self._pipe.poll(max(0.0, start + budget_s - time.monotonic())):
                kind, value = self._pipe.recv()
                if kind != _ROW:
                    status, reason = kind, value
                    break
                rows.append(value)
            else:
                self._process.kill()
        except (EOFError, OSError):
            self._process.join(_PATIENCE_S)
            reason = f"its process ended with status {self._process.exitcode}"
        if status == FAILED:
            self.close()
        return Outcome(status, reason, rows, time.monotonic() - start)

    def close(self) -> None:
        """End the process, which has nothing to do or is dead already."""
        if self._pipe is not None:
            self._pipe.close()
            self._process.join(_PATIENCE_S)
            self._process.kill()
            self._process.join()
            self._pipe = None

    def _start(self) -> None:
        self._pipe, other = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()  # else the end of the process would not be noticed


def _serve(pipe: Connection) -> None:
    while True:
        try:
            task, arguments = pipe.recv()
        except EOFError:  # closed, or the parent has ended
            return
        module, function = task.split(":")
        try:
            for row in getattr(importlib.import_module(module), function)(*arguments):
                pipe.send((_ROW, row))
        except NotThereError as error:
            pipe.send((NOT_THERE, str(error)))
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines() or ["no message"]
            pipe.send((FAILED, f"{type(error).__name__}: {lines[0]}"))
        else:
            pipe.send((MEASURED, ""))
