"""What a node tells about itself on `/diagnostics`."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

_WINDOW_S = 10.0  # rates and latencies are taken over this time
_STATES = {  # of the lifecycle, in which a node does not work
    "unconfigured": (False, "not configured"),
    "inactive": (False, "not active"),
    "finalized": (True, "shut down; its process must be started again"),
}


class Health:
    """Counts what a node does; all methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: deque[tuple[float, float]] = deque()  # when, and how long it took
        self._counts: dict[str, int] = {}
        # By subject: text, is it a failure, and when it ends.
        self._problems: dict[str, tuple[str, bool, float]] = {}

    def done(self, seconds: float) -> None:
        """Count a frame or clip that took so long from arrival to result."""
        now = time.monotonic()
        with self._lock:
            self._done.append((now, seconds))
            self._counts["done"] = self._counts.get("done", 0) + 1
            self._forget(now)

    def count(self, name: str, number: int = 1) -> None:
        """Add to a named count."""
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + number

    def counted(self, name: str) -> int:
        with self._lock:
            return self._counts.get(name, 0)

    def warn(self, problem: str, subject: str = "work", seconds: float = math.inf) -> None:
        """Report a problem that the node works on with, until `recover` of the same subject.

        Args:
            seconds: maximum time for which it is shown, for what only happened once.
        """
        self._tell(problem, subject, False, seconds)

    def fail(self, problem: str, subject: str = "work", seconds: float = math.inf) -> None:
        """As `warn`; the node cannot do its work."""
        self._tell(problem, subject, True, seconds)

    def recover(self, subject: str = "work") -> None:
        """End the problem of a subject."""
        with self._lock:
            self._problems.pop(subject, None)

    def recover_all(self) -> None:
        """End all problems."""
        with self._lock:
            self._problems.clear()

    def begin(self) -> None:
        """Count from 0."""
        with self._lock:
            self._counts.clear()

    def status(self, name: str, state: str, values: Mapping[str, object]) -> DiagnosticStatus:
        """The current `diagnostic_msgs/DiagnosticStatus`."""
        now = time.monotonic()
        with self._lock:
            self._forget(now)
            seconds = [took for _, took in self._done]
            facts: dict[str, object] = {
                "state": state,
                "rate (Hz)": f"{len(seconds) / _WINDOW_S:.2f}",
                "latency mean (s)": f"{sum(seconds) / len(seconds):.3f}" if seconds else "",
                "latency max (s)": f"{max(seconds):.3f}" if seconds else "",
                **self._counts,
                **values,
            }
            told = [(words, failed) for words, failed, end in self._problems.values() if now < end]
            if state in _STATES:
                failed, words = _STATES[state]
                told.insert(0, (words, failed))
            level, message = DiagnosticStatus.OK, state
            if told:  # failures first, the latest of each first
                told = sorted(told[::-1], key=lambda problem: not problem[1])
                level = DiagnosticStatus.ERROR if told[0][1] else DiagnosticStatus.WARN
                message = "; ".join(words for words, _ in told)
        # A process that has not imported torch has nothing on a GPU.
        cuda = getattr(sys.modules.get("torch"), "cuda", None)
        if cuda is not None and cuda.is_available():
            facts["GPU memory (MB)"] = f"{cuda.memory_allocated() / 1e6:.0f}"
        pairs = [KeyValue(key=key, value=str(value)) for key, value in facts.items()]
        return DiagnosticStatus(level=level, name=name, message=message, values=pairs)

    def _tell(self, problem: str, subject: str, failed: bool, seconds: float) -> None:
        with self._lock:
            self._problems.pop(subject, None)  # the latest goes last
            self._problems[subject] = problem, failed, time.monotonic() + seconds

    def _forget(self, now: float) -> None:
        while self._done and self._done[0][0] < now - _WINDOW_S:
            self._done.popleft()
