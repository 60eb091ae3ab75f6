"""The launch file of a robot under the real launch system, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

file, *arguments = sys.argv[1:]
included = IncludeLaunchDescription(
    PythonLaunchDescriptionSource(file),
    launch_arguments=[argument.split(":=") for argument in arguments],
)
service = LaunchService()
service.include_launch_description(LaunchDescription([included]))
sys.exit(service.run())
"""
_FILE = Path(__file__).resolve().parents[2] / "launch/active_vision.launch.py"
_STARTED = re.compile(r"\[(\w+)-\d+\]: process started with pid \[(\d+)\]")


@dataclass(frozen=True)
class Launched:
    """A launch that runs.

    Attributes:
        process: of the launch system.
        path: file of what it and its processes write.
    """

    process: subprocess.Popen[bytes]
    path: Path

    def log(self) -> str:
        return self.path.read_text(encoding="utf-8", errors="replace")

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def pids(self) -> dict[str, int]:
        """Of the process that was started last, by its program."""
        return {name: int(pid) for name, pid in _STARTED.findall(self.log())}


@contextmanager
def launched(folder: Path, parameters: str = "", **arguments: str) -> Iterator[Launched]:
    """Launch `active_vision.launch.py` until the block ends, with Ctrl-C.

    Args:
        folder: for its log and parameters; made here.
        parameters: ROS parameters of all nodes, as the inside of a mapping in YAML.
        arguments: of the launch file.
    """
    folder.mkdir()
    given = folder / "parameters.yaml"
    given.write_text(f"/**: {{ros__parameters: {{{parameters}}}}}", encoding="utf-8")
    pairs = {"params_file": str(given), **arguments}
    words = [f"{name}:={value}" for name, value in pairs.items()]
    path = folder / "log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", _LAUNCH, str(_FILE), *words],
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | {"ROS_LOG_DIR": str(folder / "ros")},
        )  # fmt: skip
    try:
        yield Launched(process, path)
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        try:
            process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
