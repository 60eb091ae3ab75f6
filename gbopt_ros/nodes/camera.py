"""What an operator is told when the camera is silent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy

from gbopt_ros.io.sources.images import IMAGE_TYPES

_MOST = 3  # topics that are listed
_OURS = re.compile("/(output|debug)/")  # a graph like this one publishes them


def topic_in_words(topic: str, kind: str, qos: QoSProfile) -> str:
    """A topic with its type and its QoS."""
    return f"{topic} ({kind}, {_reliability(qos)}, depth {qos.depth})"


def silence(node: Any, topic: str, kind: str, advice: Mapping[str, str] | None = None) -> str:
    """The likely cause of silence on a topic: what the network knows of it and of similar ones.

    Args:
        topic: full name.
        kind: type that the node subscribes to, such as `sensor_msgs/msg/Image`.
        advice: what to do where another type is published, by that type.
    """
    publishers = node.get_publishers_info_by_topic(topic)
    if any(publisher.topic_type == kind for publisher in publishers):
        qos = ", ".join(sorted({_reliability(p.qos_profile) for p in publishers}))
        return f"{len(publishers)} publish it ({qos}), but nothing arrives"
    if publishers:
        found = publishers[0].topic_type
        return f"it is published as {found}: {(advice or {}).get(found, f'name a topic of {kind}')}"
    kinds = IMAGE_TYPES if kind in IMAGE_TYPES else (kind,)
    others = {
        name: types[0]
        for name, types in node.get_topic_names_and_types()
        if types[0] in kinds and node.count_publishers(name) and not _OURS.search(name)
    }
    similar = get_close_matches(topic, others, _MOST, cutoff=0.3) or sorted(others)[:_MOST]
    found = ", ".join(f"{name} ({others[name]})" for name in similar)
    return "nobody publishes it" + (f"; there is {found}" if found else "")


def _reliability(qos: QoSProfile) -> str:
    is_best_effort = qos.reliability == ReliabilityPolicy.BEST_EFFORT
    return "best effort" if is_best_effort else "reliable"
