"""Averages of a trained network and the one that it started from."""

from __future__ import annotations

import torch

from gbopt_ros.models.weights import HasState


@torch.no_grad()
def interpolate(network: HasState, parent: HasState, share: float) -> None:
    """Move the weights by a share of the way back to the parent's (Wortsman et al. 2022).

    The weights of a network and its parent can be averaged: the average forgets less than the
    fine-tuned network and keeps most of what it learnt.
    """
    old = parent.state_dict()
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.lerp_(old[name].to(value), share)
