"""Run the ROS 2 nodes: all in one process, but the learner in a second one.

Without --config the profile is robot: masks come frame by frame. Arguments after `--ros-args` go to
every node, for example `gbopt run --camera /camera/image_raw --ros-args -p clip.length:=15`.
"""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import sys
import tempfile
import threading

from gbopt_ros.cli.options import add_config_arguments, config_from_args
from gbopt_ros.config.load import bundled_profile
from gbopt_ros.process import exit_on_signals, stop_on_signals
from gbopt_ros.structures import GboptError

log = logging.getLogger(__name__)

_PROFILE = "robot"
_PATIENCE_S = 15.0  # for the learner to end, which may wait 5 s for each of two threads


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--camera",
        default="camera/image_raw",
        metavar="TOPIC",
        help="image topic to subscribe to (default: %(default)s)",
    )
    parser.add_argument(
        "--depth",
        metavar="TOPIC",
        help="depth image topic, aligned to the colour image: publish where objects are in space",
    )
    add_config_arguments(parser, profile=_PROFILE)
    parser.add_argument("--no-learner", action="store_true", help="select masks, learn nothing")
    parser.add_argument(
        "--namespace", default="", help="namespace of all nodes, such as robot1 (default: none)"
    )
    parser.add_argument(
        "--ros-args", nargs=argparse.REMAINDER, default=[], help="arguments for every node"
    )


def run(args: argparse.Namespace) -> None:
    from omegaconf import OmegaConf

    config = config_from_args(args, bundled_profile(_PROFILE))
    exit_on_signals()

    from gbopt_ros.nodes import composed
    from gbopt_ros.nodes.wiring import CAMERA, DEPTH, enclave, remapping

    stop_on_signals()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix="gbopt-") as profile:
        OmegaConf.save(OmegaConf.create(config.to_dict()), profile.name)
        common = ["-p", f"profile:={profile.name}"]
        if args.namespace:
            common += ["-r", f"__ns:=/{args.namespace.strip('/')}"]
        camera = remapping(CAMERA, args.camera)
        if args.depth:
            camera += remapping(DEPTH, args.depth)
        learner = None
        if not args.no_learner:
            learner = _Learner([*common, *args.ros_args])
        try:
            own = [*enclave("composed"), *common, *camera]
            status = composed.main(["--ros-args", *own, *args.ros_args])
        finally:
            if learner is not None:
                learner.end()
    if status:
        raise GboptError("the nodes did not start; the log above says why")
    if learner is not None and learner.failed:
        raise GboptError("the learner ended while the other nodes ran on; the log above says why")


class _Learner:
    """The process of the learner. If it dies, this is logged and the other nodes run on.

    Attributes:
        failed: whether it ended with an error before `end` was called.
    """

    def __init__(self, ros_arguments: list[str]) -> None:
        command = [sys.executable, "-m", "gbopt_ros.nodes", "learner", "--ros-args", *ros_arguments]
        # The terminal sends Ctrl-C to both processes. The learner ignores it until it handles the
        # signal: else it would end with a traceback while its interpreter starts.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._process = subprocess.Popen(command)
        finally:
            signal.signal(signal.SIGINT, before)
        self.failed = False
        self._ending = threading.Event()
        threading.Thread(target=self._watch, name="learner", daemon=True).start()

    def end(self) -> None:
        self._ending.set()
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _watch(self) -> None:
        status = self._process.wait()
        # Ctrl-C may end it a moment before `end` is called; its status is 0 then.
        if status != 0 and not self._ending.is_set():
            self.failed = True
            log.error("the learner ended with status %d: nothing is learnt any more", status)
