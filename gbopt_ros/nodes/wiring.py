"""Which output topic each input topic is connected to. Launch files import this without ROS.

All names are relative to the namespace, so that two robots can share a ROS domain.
"""

from __future__ import annotations

from collections.abc import Sequence

NODES = ("clip_buffer", "proposal", "background", "flow", "selector", "objects_3d", "learner")

_IMAGE = "clip_buffer/output/image"
WIRING: dict[str, dict[str, str]] = {
    "clip_buffer": {"~/input/done": "selector/output/done"},
    "proposal": {
        "~/input/image": _IMAGE,
        "~/input/model_update": "learner/output/model_update",
    },
    "background": {"~/input/image": _IMAGE},
    "flow": {"~/input/image": _IMAGE},
    "selector": {
        "~/input/image": _IMAGE,
        "~/input/clips": "clip_buffer/output/clips",
        "~/input/partial_clip": "clip_buffer/output/partial_clip",
        "~/input/proposals": "proposal/output/proposals",
        "~/input/background": "background/output/probability",
        "~/input/flow": "flow/output/flow",
    },
    "objects_3d": {
        "~/input/image": _IMAGE,
        "~/input/masks": "selector/output/masks",
    },
    "learner": {
        "~/input/image": _IMAGE,
        "~/input/masks": "selector/output/masks",
        "~/input/status": "selector/output/status",
    },
}
CAMERA = "clip_buffer", "~/input/image"
"""The node and its input that is remapped to the camera topic."""
DEPTH = "objects_3d", "~/input/depth"
"""The node and its input that is remapped to the depth topic. Without one it is not started."""


def remapping(end: tuple[str, str], topic: str) -> list[str]:
    """Arguments of a ROS program that connect the input of a node to a topic, CAMERA or DEPTH."""
    return ["-r", f"{end[0]}:{end[1]}:={topic}"]


def enclave(program: str) -> list[str]:
    """Arguments of a ROS program that put it in its enclave of the SROS2 policy.

    Only the enclave of the learner may announce a network. A later `--enclave` wins.
    """
    return ["--enclave", f"/gbopt_ros/{'learner' if program == 'learner' else 'perception'}"]


def remaps_depth(arguments: Sequence[str]) -> bool:
    """Whether the arguments of a program have a depth topic."""
    return any(argument.startswith(f"{DEPTH[0]}:{DEPTH[1]}:=") for argument in arguments)
