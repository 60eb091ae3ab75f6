"""Which output feeds which input. Free of ROS, so that launch files can read it.

All names are relative to the namespace of the graph, so two robots share a domain in peace.
"""

from __future__ import annotations

NODES = ("clip_buffer", "proposal", "background", "flow", "selector", "learner")

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
    "learner": {
        "~/input/image": _IMAGE,
        "~/input/masks": "selector/output/masks",
        "~/input/status": "selector/output/status",
    },
}
CAMERA = "clip_buffer", "~/input/image"
"""The node and the input that the camera's topic is remapped to."""


def remap_arguments(node: str) -> list[str]:
    """What `--ros-args` takes to wire a node, whichever process it is in."""
    rules = WIRING[node].items()
    return [part for name, topic in rules for part in ("-r", f"{node}:{name}:={topic}")]
