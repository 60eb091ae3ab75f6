"""`python -m gbopt_ros.nodes NAME`: one node, or `composed`, as a process.

The module of the node is imported when signals are handled: importing torch takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from gbopt_ros.nodes.wiring import NODES, enclave
from gbopt_ros.process import exit_on_signals, leave, share_cores

PROGRAMS = ("composed", *NODES)


def run(name: str, arguments: Sequence[str]) -> NoReturn:
    """Run a node until a signal ends it.

    Args:
        name: one of `PROGRAMS`.
        arguments: command line, as for any ROS node.
    """
    exit_on_signals()
    share_cores()
    command_line = [name, "--ros-args", *enclave(name), "--", *arguments]
    leave(import_module(f"gbopt_ros.nodes.{name}").main(command_line))


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in PROGRAMS:
        sys.exit(f"usage: python -m gbopt_ros.nodes NAME [--ros-args ...], NAME one of {PROGRAMS}")
    run(sys.argv[1], sys.argv[2:])
