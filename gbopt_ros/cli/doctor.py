"""Say what was found on this machine, and what each absence means.

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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gbopt_ros.io.resources import SEED_BACKGROUND, SEED_PROPOSALS, find_resource
from gbopt_ros.structures import GboptError

OK, ABSENT, BROKEN = "ok", "absent", "broken"
APT_ROS = "/opt/ros/jazzy"
IN_ENVIRONMENT = "make setup, or pip install the package again"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked for.
        status: `ok`, `absent` or `broken`.
        found: the version or the place, or why it is broken.
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


@dataclass(frozen=True)
class Module:
    """A Python module to look for; the fields are those of `Finding`."""

    name: str
    module: str
    distribution: str
    meaning: str
    remedy: str
    required: bool = False


REQUIRED = tuple(
    Module(name, module, distribution, "no command works", IN_ENVIRONMENT, required=True)
    for name, module, distribution in (
        ("NumPy", "numpy", "numpy"),
        ("OpenCV", "cv2", "opencv-python-headless"),
        ("pycocotools", "pycocotools.mask", "pycocotools"),
        ("rosbags", "rosbags.highlevel", "rosbags"),
        ("rosbags-image", "rosbags.image", "rosbags-image"),
        ("safetensors", "safetensors", "safetensors"),
        ("omegaconf", "omegaconf", "omegaconf"),
        ("matplotlib", "matplotlib", "matplotlib"),
        ("SciPy", "scipy.optimize", "scipy"),
        ("Pillow", "PIL.Image", "pillow"),
    )
)
ROS_OPTIONAL = (
    Module("cv_bridge", "cv_bridge", "cv_bridge",
           "nothing is lost: images are converted by rosbags-image and OpenCV",
           "sudo apt install ros-jazzy-cv-bridge"),
    Module("message_filters", "message_filters", "message_filters",
           "nothing is lost: a small synchroniser of the package stands in",
           "sudo apt install ros-jazzy-message-filters"),
    Module("vision_msgs", "vision_msgs.msg", "vision_msgs",
           "the selector publishes no Detection2DArray beside its own messages",
           "sudo apt install ros-jazzy-vision-msgs"),
    Module("launch_ros", "launch_ros", "launch_ros",
           "no launch files; `gbopt run` and `gbopt play` start the same graph",
           "sudo apt install ros-jazzy-launch-ros"),
)  # fmt: skip
OPTIONAL = (
    Module("pybullet", "pybullet", "pybullet",
           "no `gbopt world`; the demo learns from the bundled recording", "pip install pybullet"),
    Module("timm", "timm", "timm",
           "no background network on a backbone of timm; those on torchvision's ResNets work",
           "pip install 'timm>=1.0.9,<2'"),
)  # fmt: skip

_DETECTRON2 = """
import detectron2, gbopt_ros.models.detectron2_backend
try:
    from detectron2 import _C
    extension = "with its compiled extension, which is not needed"
except ImportError:
    extension = "without its compiled extension, which deformable convolutions alone need"
print(f"{detectron2.__version__}, {extension}")
"""


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


def examine() -> list[Finding]:
    """Look for everything; a check that fails is itself a finding."""
    findings = [check_python(), check_package()]
    findings += [check_module(module) for module in REQUIRED]
    findings += [guarded("torch", check_torch), guarded("device", check_device)]
    findings += list(check_ros())
    findings += [check_module(module) for module in OPTIONAL] + [check_detectron2()]
    findings += [check_weights(SEED_PROPOSALS, "proposals")]
    findings += [check_weights(SEED_BACKGROUND, "background"), check_raft()]
    return findings


def table(findings: list[Finding]) -> str:
    """The findings as text, one a line, absences with their meaning and remedy below them."""
    width = max(len(f.name) for f in findings)
    lines = []
    for f in findings:
        lines.append(f"{f.status:<6}  {f.name:<{width}}  {f.found}".rstrip())
        if f.meaning:
            lines.append(f"{'':<{8 + width}}  {f.meaning}; to get it: {f.remedy}")
    return "\n".join(lines)


def guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """A check of something required; any exception becomes a finding."""
    try:
        return check()
    except Exception as error:
        return Finding(
            name, BROKEN, first_line(error), "no command works", IN_ENVIRONMENT, required=True
        )


def check_python() -> Finding:
    found = f"{platform.python_version()} ({sys.executable}, {platform.machine()})"
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        return Finding("Python", OK, found, required=True)
    return Finding(
        "Python", BROKEN, found, "3.10 to 3.12 are supported", "make setup PYTHON=python3.11",
        required=True,
    )  # fmt: skip


def check_package() -> Finding:
    return Finding("gbopt_ros", OK, f"{installed('gbopt_ros')} ({Path(__file__).parents[1]})")


def check_module(wanted: Module) -> Finding:
    """Import a module, in a process of its own where a broken one could take this one down."""
    absent = Finding(wanted.name, ABSENT, "", wanted.meaning, wanted.remedy, wanted.required)
    if importlib.util.find_spec(wanted.module.partition(".")[0]) is None:
        return absent
    if not wanted.required:
        command = [sys.executable, "-c", f"import {wanted.module}"]
        outcome = subprocess.run(command, capture_output=True, text=True)
        if outcome.returncode != 0:
            why = (outcome.stderr.strip().splitlines() or [f"exit {outcome.returncode}"])[-1]
            return Finding(wanted.name, BROKEN, why, wanted.meaning, wanted.remedy)
        return Finding(wanted.name, OK, installed(wanted.distribution))
    try:
        importlib.import_module(wanted.module)
    except Exception as error:
        return Finding(
            wanted.name, BROKEN, first_line(error), wanted.meaning, wanted.remedy, wanted.required
        )
    return Finding(wanted.name, OK, installed(wanted.distribution), required=wanted.required)


def check_detectron2() -> Finding:
    """Import what the backend does, in a process of its own, and look for the extension."""
    meaning = "proposals are torchvision's alone: proposal.detectron2_config cannot be used"
    remedy = (
        "its public repository (it is not on PyPI): pip install it, or its requirements and put "
        "the checkout on PYTHONPATH"
    )
    if importlib.util.find_spec("detectron2") is None:
        return Finding("detectron2", ABSENT, "", meaning, remedy)
    outcome = subprocess.run(
        [sys.executable, "-c", _DETECTRON2], capture_output=True, text=True, check=False
    )
    if outcome.returncode != 0:
        why = (outcome.stderr.strip().splitlines() or [f"exit {outcome.returncode}"])[-1]
        return Finding("detectron2", BROKEN, why, meaning, remedy)
    return Finding("detectron2", OK, outcome.stdout.strip().splitlines()[-1])


def check_torch() -> Finding:
    """Run an operator of torchvision's: it is missing when the two versions do not match."""
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.1, 0.9]), 0.5).tolist()
    found = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    if kept != [1]:
        raise RuntimeError(f"{found}: nms kept {kept}, expected [1]")
    return Finding("torch", OK, found, required=True)


def check_device() -> Finding:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gib = properties.total_memory / 2**30
        return Finding("device", OK, f"{properties.name}, {gib:.1f} GiB of GPU memory")
    return Finding("device", OK, f"CPU, {torch.get_num_threads()} threads (no CUDA GPU)")


def check_ros() -> Iterator[Finding]:
    """ROS itself, then what stands on it."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    sourced = [prefix for prefix in prefixes if prefix != Path(sys.prefix)]
    wheels = installed("ros-rclpy")
    if sourced and importlib.util.find_spec("rclpy"):
        distribution = os.environ.get("ROS_DISTRO", "of unknown name")
        yield Finding("ROS 2", OK, f"sourced, {distribution} ({sourced[-1]})")
    elif wheels:
        yield Finding("ROS 2", OK, f"wheels in {sys.prefix} (rclpy {wheels})")
    else:
        yield Finding(
            "ROS 2", ABSENT, "", "no live nodes; everything on recordings works",
            f"source {APT_ROS}/setup.bash before make setup, or on x86_64: pip install -e "
            "'.[ros,interfaces]'",
        )  # fmt: skip
        return
    yield optional("rclpy", check_rclpy, "no live nodes", IN_ENVIRONMENT)
    yield optional(
        "messages",
        check_messages,
        "not built, so no live nodes",
        "python tools/build_interfaces.py",
    )
    for module in ROS_OPTIONAL:
        yield check_module(module)


def optional(name: str, check: Callable[[], str], meaning: str, remedy: str) -> Finding:
    """Absent when the check cannot import its module, broken when anything else fails."""
    try:
        return Finding(name, OK, check())
    except ModuleNotFoundError:
        return Finding(name, ABSENT, "", meaning, remedy)
    except Exception as error:
        return Finding(name, BROKEN, first_line(error), meaning, remedy)


def check_rclpy() -> str:
    rclpy: Any = importlib.import_module("rclpy")
    return f"{installed('rclpy')}, middleware {rclpy.get_rmw_implementation_identifier()}"


def check_messages() -> str:
    names = []
    for package in ("gbopt_ros.msg", "gbopt_ros.srv"):
        module = importlib.import_module(package)
        types = [value for name, value in vars(module).items() if isinstance(value, type)]
        for kind in types:
            kind.__class__.__import_type_support__()  # type: ignore[attr-defined]
        names += [kind.__name__ for kind in types]
    return ", ".join(sorted(names))


def check_weights(name: str, network: str) -> Finding:
    """Read a bundled seed network as the commands do."""
    label = f"seed {network}"
    meaning, remedy = "give your own with --weights", "take a full checkout, or gbopt pretrain"
    try:
        path = find_resource(name)
    except GboptError:
        return Finding(label, ABSENT, name, meaning, remedy)
    try:
        weights: Any = importlib.import_module("gbopt_ros.models.weights")
        info, _ = weights.read_weights(path, network)
    except Exception as error:
        return Finding(label, BROKEN, first_line(error), meaning, remedy)
    return Finding(label, OK, f"{info.version}, {info.architecture} ({path})")


def check_raft() -> Finding:
    """RAFT is optional and given by file; a copy in a cache is worth a mention."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    torch_home = os.environ.get("TORCH_HOME", f"{caches}/torch")
    folders = (f"{caches}/gbopt_ros/models", f"{torch_home}/hub/checkpoints")
    cached = [path for f in folders for path in sorted(Path(f).expanduser().glob("raft_*.pth"))]
    if cached:
        return Finding("RAFT weights", OK, f"{cached[0]} (use: --set flow.weights=...)")
    return Finding(
        "RAFT weights", ABSENT, "", "optical flow is DIS, which needs no weights",
        "gbopt models pull raft_large, then --set flow.weights=raft_large",
    )  # fmt: skip


def installed(distribution: str) -> str:
    """The version of an installed distribution, "" where it has none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
