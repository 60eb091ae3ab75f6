"""All nodes but the learner in one process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from gbopt_ros.nodes.background import BackgroundNode
from gbopt_ros.nodes.base import PipelineNode
from gbopt_ros.nodes.clip_buffer import ClipBufferNode
from gbopt_ros.nodes.flow import FlowNode
from gbopt_ros.nodes.intra_process import IntraProcessBus
from gbopt_ros.nodes.objects_3d import Objects3dNode
from gbopt_ros.nodes.proposal import ProposalNode
from gbopt_ros.nodes.selector import SelectorNode
from gbopt_ros.nodes.spin import spin
from gbopt_ros.nodes.wiring import remaps_depth

# Downstream first, so that every publisher finds its subscribers.
COMPOSED = (SelectorNode, FlowNode, BackgroundNode, ProposalNode, ClipBufferNode)


def compose(*, has_depth: bool = False, **options: Any) -> list[PipelineNode]:
    """All nodes but the learner, joined by a bus.

    Args:
        has_depth: with the node that finds the objects in space.
        options: for every node, such as `context` and `namespace`.
    """
    bus = IntraProcessBus()
    kinds = (Objects3dNode, *COMPOSED) if has_depth else COMPOSED
    return [make(bus, **options) for make in kinds]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the composed nodes."""
    # Three networks share the CPU: with more threads than cores, threads only wait for each other.
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    has_depth = remaps_depth(sys.argv if arguments is None else arguments)
    return spin(lambda: compose(has_depth=has_depth), arguments)
