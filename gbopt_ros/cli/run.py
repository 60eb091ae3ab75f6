"""Run the graph: all nodes in one process, the learner beside it.

What follows `--ros-args` goes to every node, for example
`gbopt run --camera /camera/image_raw --ros-args -p clip.length:=15`.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from gbopt_ros.config import load_config
from gbopt_ros.structures import GboptError

_PATIENCE_S = 10.0  # for the learner to end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--camera", default="camera/image_raw", metavar="TOPIC", help="image topic to subscribe to"
    )
    parser.add_argument("--config", type=Path, help="YAML file with overrides")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="such as selection.k=5"
    )
    parser.add_argument("--no-learner", action="store_true", help="select masks, learn nothing")
    parser.add_argument("--namespace", default="", help="of all nodes, such as robot1")
    parser.add_argument(
        "--ros-args", nargs=argparse.REMAINDER, default=[], help="arguments for every node"
    )


def run(args: argparse.Namespace) -> None:
    from omegaconf import OmegaConf

    config = load_config(args.config, args.set)

    from gbopt_ros.nodes import graph
    from gbopt_ros.nodes.wiring import CAMERA

    with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix="gbopt-") as profile:
        OmegaConf.save(OmegaConf.create(config.to_dict()), profile.name)
        common = ["-p", f"profile:={profile.name}"]
        if args.namespace:
            common += ["-r", f"__ns:=/{args.namespace.strip('/')}"]
        camera = ["-r", f"{CAMERA[0]}:{CAMERA[1]}:={args.camera}"]
        learner = None
        if not args.no_learner:
            learner = _start_learner([*common, *args.ros_args])
        try:
            status = graph.main(["--ros-args", *common, *camera, *args.ros_args])
        finally:
            if learner is not None:
                _end(learner)
    if status:
        raise GboptError("the graph did not start; the log above says why")


def _start_learner(ros_arguments: list[str]) -> subprocess.Popen[bytes]:
    """A Ctrl-C, which the terminal sends to both, must not meet it while it imports its modules."""
    command = [sys.executable, "-m", "gbopt_ros.nodes.learner", "--ros-args", *ros_arguments]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited, until the node handles it
    try:
        return subprocess.Popen(command)
    finally:
        signal.signal(signal.SIGINT, before)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
