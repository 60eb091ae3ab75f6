"""Report what is installed on this machine, and what each absence means.

Exits with 1 when something that every command needs is broken, else with 0.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gbopt_ros.io.resources import SEED_BACKGROUND, SEED_PROPOSALS, find_resource
from gbopt_ros.structures import GboptError, first_line

OK, ABSENT, BROKEN = "ok", "absent", "broken"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable, on stdout")


def run(args: argparse.Namespace) -> None:
    findings = examine()
    failed = [f.name for f in findings if f.required and f.status != OK]
    if args.json:
        report = {"ok": not failed, "findings": [asdict(f) for f in findings]}
        print(json.dumps(report, indent=2))
    else:
        print(table(findings))
    if failed:
        raise GboptError(f"required, but not in order: {', '.join(failed)}")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: the thing that was checked.
        status: `ok`, `absent` or `broken`.
        found: its version or place, or the reason why it is broken.
        meaning: what does not work without it, "" when it is ok.
        remedy: how to get it, "" when it is ok.
        required: nothing works without it.
    """

    name: str
    status: str
    found: str
    meaning: str = ""
    remedy: str = ""
    required: bool = False


class Problem(Exception):
    """A check failed: status and text of its finding."""

    def __init__(self, status: str, found: str = "") -> None:
        super().__init__(found)
        self.status = status


@dataclass(frozen=True)
class Check:
    """A check; `find` gives the text of the finding or raises. Other fields as in `Finding`."""

    name: str
    find: Callable[[], str]
    meaning: str
    remedy: str
    required: bool = False

    def run(self) -> Finding:
        try:
            return Finding(self.name, OK, self.find(), required=self.required)
        except Problem as problem:
            status, found = problem.status, str(problem)
        except ModuleNotFoundError as error:
            status, found = ABSENT, str(error)
        except Exception as error:
            status, found = BROKEN, first_line(error)
        return Finding(self.name, status, found, self.meaning, self.remedy, self.required)


def examine() -> list[Finding]:
    """Run all checks; those that need ROS only where there is ROS."""
    ros = ROS.run()
    return [
        *(check.run() for check in REQUIRED),
        ros,
        *(check.run() for check in (NEEDS_ROS if ros.status == OK else ())),
        *(check.run() for check in OPTIONAL),
    ]


def table(findings: list[Finding]) -> str:
    """The findings as text, one a line, with meaning and remedy of an absence below it."""
    width = max(len(f.name) for f in findings)
    lines = []
    for f in findings:
        lines.append(f"{f.status:<6}  {f.name:<{width}}  {f.found}".rstrip())
        if f.meaning:
            lines.append(f"{'':<{8 + width}}  {f.meaning}; to get it: {f.remedy}")
    return "\n".join(lines)


def installed(distribution: str) -> str:
    """The version of an installed distribution, "" where it has none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def find_python() -> str:
    found = f"{platform.python_version()} ({sys.executable}, {platform.machine()})"
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        raise Problem(BROKEN, found)
    return found


def find_package() -> str:
    return f"{installed('gbopt_ros')} ({Path(__file__).parents[1]})"


def find_module(module: str, distribution: str) -> str:
    importlib.import_module(module)
    return installed(distribution)


def find_module_apart(module: str, distribution: str) -> str:
    """Import a module in a process of its own, because a broken one could abort this one."""
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise Problem(ABSENT)
    run_apart(f"import {module}")
    return installed(distribution)


def run_apart(code: str) -> str:
    """The last line that Python code prints in a process of its own."""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if outcome.returncode != 0:
        lines = outcome.stderr.strip().splitlines()
        raise Problem(BROKEN, lines[-1] if lines else f"exit {outcome.returncode}")
    return (outcome.stdout.strip().splitlines() or [""])[-1]


def find_torch() -> str:
    """Run an operator of torchvision: it is missing when the two versions do not match."""
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.1, 0.9]), 0.5).tolist()
    found = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    if kept != [1]:
        raise Problem(BROKEN, f"{found}: nms kept {kept}, expected [1]")
    return found


def find_device() -> str:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB of GPU memory"
    return f"CPU, {torch.get_num_threads()} threads (no CUDA GPU)"


def find_ros() -> str:
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    sourced = [prefix for prefix in prefixes if prefix != Path(sys.prefix)]
    if sourced and importlib.util.find_spec("rclpy"):
        return f"sourced, {os.environ.get('ROS_DISTRO', 'unknown distribution')} ({sourced[-1]})"
    if not installed("ros-rclpy"):
        raise Problem(ABSENT)
    return f"wheels in {sys.prefix}"


def find_rclpy() -> str:
    rclpy: Any = importlib.import_module("rclpy")
    return f"{installed('rclpy')}, middleware {rclpy.get_rmw_implementation_identifier()}"


def find_messages() -> str:
    names = []
    for package in ("gbopt_ros.msg", "gbopt_ros.srv", "gbopt_ros.action"):
        module = importlib.import_module(package)
        types = [value for value in vars(module).values() if isinstance(value, type)]
        for kind in types:
            kind.__class__.__import_type_support__()  # type: ignore[attr-defined]
        names += [kind.__name__ for kind in types if "_" not in kind.__name__]  # as files have
    return ", ".join(sorted(names))


def find_detectron2() -> str:
    """Import what the backend imports, and look for the extension."""
    if importlib.util.find_spec("detectron2") is None:
        raise Problem(ABSENT)
    return run_apart("""
import detectron2, gbopt_ros.models.detectron2_backend
try:
    from detectron2 import _C
    extension = "with its compiled extension, which is not needed"
except ImportError:
    extension = "without its compiled extension, which only deformable convolutions need"
print(f"{detectron2.__version__}, {extension}")
""")


def find_onnxruntime() -> str:
    """Import it, and list what it can run networks on."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise Problem(ABSENT)
    return run_apart("""
import onnxruntime
names = ", ".join(onnxruntime.get_available_providers()).replace("ExecutionProvider", "")
print(f"{onnxruntime.__version__}, runs networks on: {names}")
""")


def find_weights(name: str, network: str) -> str:
    """Read the weights file of a bundled network."""
    try:
        path = find_resource(name)
    except GboptError:
        raise Problem(ABSENT, name) from None
    weights: Any = importlib.import_module("gbopt_ros.models.weights")
    info, _ = weights.read_weights(path, network)
    return f"{info.version}, {info.architecture} ({path})"


def find_raft() -> str:
    """RAFT weights are optional and given by file; report a cached copy."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    torch_home = os.environ.get("TORCH_HOME", f"{caches}/torch")
    folders = (f"{caches}/gbopt_ros/models", f"{torch_home}/hub/checkpoints")
    cached = [path for f in folders for path in sorted(Path(f).expanduser().glob("raft_*.pth"))]
    if not cached:
        raise Problem(ABSENT)
    return f"{cached[0]} (use: --set flow.weights=...)"


NO_COMMAND, INSTALL = "no command works", "make setup, or pip install the package again"
SEED_MISSING = "give your own with --weights", "take a full checkout, or gbopt pretrain"

REQUIRED = (
    Check(
        "Python", find_python, "3.10 to 3.12 are supported", "make setup PYTHON=python3.11", True
    ),
    Check("gbopt_ros", find_package, NO_COMMAND, INSTALL, True),
    *(
        Check(name, partial(find_module, module, distribution), NO_COMMAND, INSTALL, True)
        for name, module, distribution in (
            ("NumPy", "numpy", "numpy"),
            ("OpenCV", "cv2", "opencv-python-headless"),
            ("PyAV", "av", "av"),
            ("pycocotools", "pycocotools.mask", "pycocotools"),
            ("rosbags", "rosbags.highlevel", "rosbags"),
            ("rosbags-image", "rosbags.image", "rosbags-image"),
            ("safetensors", "safetensors", "safetensors"),
            ("omegaconf", "omegaconf", "omegaconf"),
            ("matplotlib", "matplotlib", "matplotlib"),
            ("SciPy", "scipy.optimize", "scipy"),
            ("Pillow", "PIL.Image", "pillow"),
        )
    ),
    Check("torch", find_torch, NO_COMMAND, INSTALL, True),
    Check("device", find_device, NO_COMMAND, INSTALL, True),
)
ROS = Check(
    "ROS 2", find_ros, "no live nodes; everything on recordings works",
    "source /opt/ros/jazzy/setup.bash before make setup, or on x86_64: pip install -e "
    "'.[ros,interfaces]'",
)  # fmt: skip
NEEDS_ROS = (
    Check("rclpy", find_rclpy, "no live nodes", INSTALL),
    Check(
        "messages", find_messages, "not built, so no live nodes", "python tools/build_interfaces.py"
    ),
    *(
        Check(
            name, partial(find_module_apart, module, name), meaning,
            f"sudo apt install ros-jazzy-{name.replace('_', '-')}",
        )
        for name, module, meaning in (
            ("cv_bridge", "cv_bridge", "not needed: OpenCV gives the same images"),
            ("message_filters", "message_filters", "not needed: the package has a synchroniser"),
            ("vision_msgs", "vision_msgs.msg", "the selector publishes no Detection2DArray"),
            ("launch_ros", "launch_ros", "no launch files; use `gbopt run` and `gbopt play`"),
        )
    ),
)  # fmt: skip
OPTIONAL = (
    Check(
        "pybullet", partial(find_module_apart, "pybullet", "pybullet"),
        "no `gbopt world`", "pip install pybullet",
    ),
    Check(
        "timm", partial(find_module_apart, "timm", "timm"),
        "background networks with a backbone of torchvision only", "pip install 'timm>=1.0.9,<2'",
    ),
    Check(
        "onnxruntime", find_onnxruntime,
        "no ONNX networks in proposal.weights and background.weights",
        "pip install 'gbopt_ros[onnx]'",
    ),
    Check(
        "flask", partial(find_module_apart, "flask", "flask"),
        "no `gbopt review` and no `gbopt serve-models`", "pip install 'gbopt_ros[review]'",
    ),
    Check(
        "detectron2", find_detectron2,
        "networks of torchvision only: proposal.detectron2_config cannot be used",
        "its public repository (it is not on PyPI): pip install it, or its requirements and put "
        "the checkout on PYTHONPATH",
    ),
    Check("seed proposals", partial(find_weights, SEED_PROPOSALS, "proposals"), *SEED_MISSING),
    Check("seed background", partial(find_weights, SEED_BACKGROUND, "background"), *SEED_MISSING),
    Check(
        "RAFT weights", find_raft, "optical flow is DIS, which needs no weights",
        "gbopt models pull raft_large, then --set flow.weights=raft_large",
    ),
)  # fmt: skip
