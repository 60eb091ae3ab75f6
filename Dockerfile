# syntax=docker/dockerfile:1
# The whole package on a host without ROS: the demo, the command line and the live graph.
#
#     docker build --target cpu -t gbopt_ros:cpu .
#     docker build --target cuda -t gbopt_ros:cuda .
#
# docs/containers.md says how to run the images.

# The base is ros:jazzy-ros-base because `ros2 launch` has no wheel on PyPI: python:3.11-slim with
# the ROS wheels would run `make demo` and `gbopt run`, but no launch file. The wheels are also for
# x86_64 alone. The price is Python 3.12, for which PyBullet has no wheel: no `gbopt world`.
FROM ros:jazzy-ros-base AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /opt/gbopt_ros

# A compiler for the messages, and the ROS packages that package.xml names. The Python libraries
# that it names come from PyPI in a matching set.
COPY package.xml .
RUN apt-get update \
 && apt-get install --yes --no-install-recommends build-essential python3-dev python3-venv \
 && rosdep update --rosdistro "$ROS_DISTRO" \
 && rosdep install --from-paths . --ignore-src -y -t build -t buildtool -t exec --skip-keys \
    "python3-matplotlib python3-numpy python3-opencv python3-pil python3-scipy python3-tqdm" \
 && rm -rf /var/lib/apt/lists/*

COPY . .

# What setup.bash of a workspace would set, so that the programs of ROS find the package and its
# messages. The entry point of the base sources ROS itself.
ENV PATH=/opt/gbopt_ros/.venv/bin:$PATH \
    AMENT_PREFIX_PATH=/opt/gbopt_ros/.venv \
    LD_LIBRARY_PATH=/opt/gbopt_ros/.venv/lib \
    PYTHONPATH=/opt/gbopt_ros

# Extras of setup.py beyond what every command needs. `interfaces` builds the messages.
ARG EXTRAS=interfaces,onnx

# torch from PyPI brings CUDA with it. The driver is the host's: NVIDIA Container Toolkit.
FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN --mount=type=cache,target=/root/.cache/pip \
    source "/opt/ros/$ROS_DISTRO/setup.bash" && make setup EXTRAS="$EXTRAS"

# PyTorch's own index has the same versions without CUDA, most of the size. pip prefers 2.x.y+cpu to
# 2.x.y, and constraints.txt allows both. The last stage is built where none is named.
FROM base AS cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    source "/opt/ros/$ROS_DISTRO/setup.bash" \
 && PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make setup EXTRAS="$EXTRAS"
