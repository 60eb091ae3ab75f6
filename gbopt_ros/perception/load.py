"""The networks that a configuration names, on its device."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from gbopt_ros.config import BackgroundConfig, Config, ProposalConfig
from gbopt_ros.config.background import BUNDLED
from gbopt_ros.io.resources import SEED_BACKGROUND, SEED_PROPOSALS, find_resource
from gbopt_ros.models.catalogue import find_weights
from gbopt_ros.models.device import resolve_device
from gbopt_ros.models.onnx import is_onnx
from gbopt_ros.perception.background import AveragedBackground, FpnBackground
from gbopt_ros.perception.onnx_background import OnnxBackground
from gbopt_ros.perception.onnx_proposals import OnnxProposals
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
    """The background network of a configuration, which averages several if it names several.

    Raises:
        GboptError: as `load_proposal_network`.
    """
    device, section = resolve_device(config.device), config.background
    networks = [read_background(path, section, device) for path in background_weights(config)]
    if len(networks) == 1:
        return networks[0]
    return AveragedBackground(networks, section.network_shares)


def load_proposals(path: Path, config: ProposalConfig, device: torch.device) -> ProposalNetwork:
    """The proposal network of a weights file, with a warning where it has no calibration.

    Raises:
        GboptError: the file is missing, corrupt or of another architecture.
    """
    network = read_proposals(path, config, device)
    if network.calibration is None:
        remedy = "" if isinstance(network, OnnxProposals) else "; `gbopt calibrate` fits one"
        log.warning(
            "%s: no calibration in this file, so confidences are network scores, which do not "
            "count in the selection%s",
            path,
            remedy,
        )
    return network


def read_proposals(
    path: Path, config: ProposalConfig, device: torch.device
) -> MaskRcnnProposals | OnnxProposals:
    """The proposal network of a weights file, of ONNX or for torch; raises as `load_proposals`."""
    path = find_weights(path)
    backend = OnnxProposals if is_onnx(path) else MaskRcnnProposals
    return backend.from_file(path, config, device)


def read_background(
    path: Path, config: BackgroundConfig, device: torch.device
) -> BackgroundNetwork:
    """The background network of a weights file, of ONNX or for torch.

    Raises:
        GboptError: the file is missing, corrupt or of another architecture.
    """
    backend = OnnxBackground if is_onnx(path) else FpnBackground
    return backend.from_file(path, config, device)


def proposal_weights(config: Config) -> Path:
    """The weights file of the proposal network; by default that of the bundled network.

    Raises:
        GboptError: the weights are named by a name of the catalogue, and were not pulled.
    """
    return find_weights(config.proposal.weights or find_resource(SEED_PROPOSALS))


def network_files(config: Config) -> dict[str, Path]:
    """The files that decide what the networks of a configuration give, by their settings.

    Raises:
        GboptError: as `load_proposal_network`.
    """
    files = {"proposal.weights": proposal_weights(config)}
    for number, path in enumerate(background_weights(config)):
        files[f"background.weights[{number}]"] = path
    if config.flow.weights:
        files["flow.weights"] = find_weights(config.flow.weights)
    if config.proposal.detectron2_config:
        files["proposal.detectron2_config"] = Path(config.proposal.detectron2_config)
    return files


def background_weights(config: Config) -> tuple[Path, ...]:
    """The weights files of all background networks; by default that of the bundled network.

    Raises:
        GboptError: as `proposal_weights`.
    """
    return tuple(
        find_resource(SEED_BACKGROUND) if name == BUNDLED else find_weights(name)
        for name in config.background.networks
    )
