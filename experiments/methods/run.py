"""Runs methods of comparison on clips, with the networks of a configuration, once each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from experiments.cache import Cache, digest_of_weights
from experiments.methods.contract import Inputs, Method
from gbopt_ros.config import Config
from gbopt_ros.learning.student import student_config
from gbopt_ros.models.detection import DetectionNetwork, load_mask_rcnn
from gbopt_ros.models.device import resolve_device
from gbopt_ros.perception.flow import make_flow
from gbopt_ros.perception.load import load_background_network, proposal_weights
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import BackgroundNetwork, Clip, FlowNetwork, Proposals, Rle


class MethodRunner:
    """Gives methods what they need, and keeps what they give on disk.

    Networks are loaded at the first clip whose masks are not there yet.

    Args:
        networks: all that results depend on beside a method's own inputs, for the cache.
    """

    def __init__(self, config: Config, cache: Cache, networks: Mapping[str, Any]) -> None:
        self._config, self._cache, self._networks = config, cache, networks

    def masks(
        self,
        method: Method,
        clip: Clip,
        proposals: Sequence[Proposals],
        recording: str,
        digest: str,
        truth: Sequence[Rle] = (),
    ) -> tuple[list[Proposals], float]:
        """The masks of a clip, and how many seconds they took when they were made.

        Args:
            proposals: of each frame.
            recording: name of the recording that the clip is of.
            digest: SHA-256 of the recording, with its ground truth.
            truth: instances of the first frame.

        Raises:
            GboptError: weights cannot be loaded, or the method cannot use them.
        """
        inputs = {
            "method": [type(method).__name__, method.label, getattr(method, "digest", "")],
            "recording": digest,
            "clip": clip.clip_id,
            "proposals": [to_json(found) for found in proposals],
            "networks": self._networks,
            "network": digest_of_weights(proposal_weights(student_config(self._config))),
        }

        def make() -> dict[str, Any]:
            given = Inputs(
                clip=clip,
                proposals=tuple(proposals),
                flow_network=self._flow,
                background_network=self._background,
                network=self._network,
                truth=tuple(truth),
                recording=recording,
            )
            started = time.perf_counter()
            made = [to_json(found) for found in method.masks(given)]
            return {"masks": made, "seconds": time.perf_counter() - started}

        value = self._cache.get_or_make("masks", inputs, make)
        return [from_json(found) for found in value["masks"]], float(value["seconds"])

    @cached_property
    def _flow(self) -> FlowNetwork:
        return make_flow(self._config.flow, self._config.device)

    @cached_property
    def _background(self) -> BackgroundNetwork:
        return load_background_network(self._config)

    @cached_property
    def _network(self) -> DetectionNetwork:
        """The network that learns: it proposes as well, where what proposes can learn."""
        config = student_config(self._config)
        network, info = load_mask_rcnn(proposal_weights(config), config.proposal.detectron2_config)
        # Sets it up as for proposals.
        MaskRcnnProposals(network, info.version, config.proposal, resolve_device(config.device))
        return network


def to_json(found: Proposals) -> dict[str, Any]:
    """The masks of a frame, for a cache."""
    return {
        "size": list(found.size),
        "counts": [rle["counts"] for rle in found.rles],
        "scores": [float(score) for score in found.scores],
        "boxes": found.boxes.tolist(),
    }


def from_json(value: Mapping[str, Any]) -> Proposals:
    """What `to_json` wrote."""
    height, width = value["size"]
    return Proposals(
        (height, width),
        tuple(Rle(size=[height, width], counts=counts) for counts in value["counts"]),
        np.array(value["scores"], np.float32),
        np.array(value["boxes"], np.float32).reshape(-1, 4),
    )
