"""Processes forked from one that has imported everything, so that a hundred take little."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
# One list: the server imports it when the first test of a process needs it. Without ROS, it leaves
# out the nodes.
FORKS.set_forkserver_preload([
    "gbopt_ros.cli.bag", "gbopt_ros.cli.bulk", "gbopt_ros.cli.learn", "gbopt_ros.cli.models",
    "gbopt_ros.cli.replay", "gbopt_ros.learning.store.store", "gbopt_ros.pipeline",
    "torch.utils.data.dataloader", "gbopt_ros.nodes.composed", "gbopt_ros.nodes.learner",
])  # fmt: skip


class ForkedProgram:
    """What `python -m MODULE ARGUMENTS` does, in a process of its own.

    Args:
        module: `gbopt_ros.nodes` or `gbopt_ros.cli`.
        log: file of all that it and its children write; None leaves that to pytest.
    """

    def __init__(self, module: str, arguments: Sequence[str], log: Path | None = None) -> None:
        # The server has the environment of the test that started it.
        given = module, tuple(arguments), log, dict(os.environ)
        self._process = FORKS.Process(target=_run, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def interrupt(self) -> None:
        """Send what Ctrl-C sends, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """Kill it, if it has not ended; returns when it has."""
        self._process.kill()
        self._process.join()

    def wait(self, patience_s: float) -> int | None:
        """Its exit status when it has ended; None if it still runs after a while."""
        self._process.join(patience_s)
        return self._process.exitcode


def _run(
    module: str, arguments: Sequence[str], log: Path | None, environment: Mapping[str, str]
) -> None:
    import cv2
    import torch

    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    if log is not None:
        with log.open("wb") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
    if module == "gbopt_ros.nodes":
        from gbopt_ros.nodes.__main__ import run

        run(arguments[0], arguments[1:])
    from gbopt_ros.cli.main import main
    from gbopt_ros.process import leave

    leave(main(list(arguments)))
