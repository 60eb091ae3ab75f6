"""The networks that a configuration names, on its device."""

from __future__ import annotations

from pathlib import Path

from gbopt_ros.config import Config
from gbopt_ros.io.resources import SEED_BACKGROUND, SEED_PROPOSALS, find_resource
from gbopt_ros.models.catalogue import find_weights
from gbopt_ros.models.device import resolve_device
from gbopt_ros.perception.background import FpnBackground
from gbopt_ros.perception.ensemble import load_proposals
from gbopt_ros.structures import BackgroundNetwork, ProposalNetwork


def load_proposal_network(config: Config) -> ProposalNetwork:
    """The proposal network that the configuration names, on its device.

    Raises:
        GboptError: weights are missing, corrupt or of another network, or there is no such GPU.
    """
    device = resolve_device(config.device)
    return load_proposals(proposal_weights(config), config.proposal, device)


def load_background_network(config: Config) -> BackgroundNetwork:
    """The background network that the configuration names; raises as `load_proposal_network`."""
    device = resolve_device(config.device)
    return FpnBackground.from_file(background_weights(config), config.background, device)


def proposal_weights(config: Config) -> Path:
    """The weights file of the proposal network, the bundled seed network where none is named.

    Raises:
        GboptError: it is named by its name in the catalogue, and was not pulled.
    """
    return find_weights(config.proposal.weights or find_resource(SEED_PROPOSALS))


def background_weights(config: Config) -> Path:
    """The weights file of the background network, the bundled one where none is named."""
    return Path(config.background.weights or find_resource(SEED_BACKGROUND))
