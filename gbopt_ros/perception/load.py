"""The networks that a configuration names, on its device."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from gbopt_ros.config import Config, ProposalConfig
from gbopt_ros.io.resources import SEED_BACKGROUND, SEED_PROPOSALS, find_resource
from gbopt_ros.models.catalogue import find_weights
from gbopt_ros.models.device import resolve_device
from gbopt_ros.perception.background import FpnBackground
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import BackgroundNetwork, ProposalNetwork

log = logging.getLogger(__name__)


def load_proposal_network(config: Config) -> ProposalNetwork:
    """The proposal network of a configuration.

    Raises:
        GboptError: weights are missing, corrupt or of another network, or there is no such GPU.
    """
    device = resolve_device(config.device)
    return load_proposals(proposal_weights(config), config.proposal, device)


def load_background_network(config: Config) -> BackgroundNetwork:
    """The background network of a configuration; raises as `load_proposal_network`."""
    device = resolve_device(config.device)
    return FpnBackground.from_file(background_weights(config), config.background, device)


def load_proposals(path: Path, config: ProposalConfig, device: torch.device) -> ProposalNetwork:
    """The proposal network of a weights file, with a warning where it has no calibration.

    Raises:
        GboptError: the file is missing, corrupt or of another architecture.
    """
    network = MaskRcnnProposals.from_file(path, config, device)
    if network.calibration is None:
        log.warning(
            "%s: no calibration in this file, so confidences are network scores; "
            "`gbopt calibrate` fits one", path,
        )  # fmt: skip
    return network


def proposal_weights(config: Config) -> Path:
    """The weights file of the proposal network; by default that of the bundled network.

    Raises:
        GboptError: the weights are named by a name of the catalogue, and were not pulled.
    """
    return find_weights(config.proposal.weights or find_resource(SEED_PROPOSALS))


def background_weights(config: Config) -> Path:
    """The weights file of the background network; by default that of the bundled network."""
    return Path(config.background.weights or find_resource(SEED_BACKGROUND))
