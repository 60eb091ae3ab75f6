"""Small random clips for the tests of selection."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.config import SelectionConfig
from gbopt_ros.selection import select_clip
from gbopt_ros.selection.objective import flow_loss
from gbopt_ros.selection.synthesis import background_photograph, composite
from gbopt_ros.structures import Calibration, Proposals, Selection
from support.fakes import HashFlow, make_clip, make_proposals
from support.oracles import all_combinations

SIZE = (8, 9)
CALIBRATION = Calibration(bias=-0.5, margin=0.1, score=0.8)


def paper(**changes: float | bool) -> SelectionConfig:
    """The paper's objective: no prior from scores, no shared pixel, all weights of the terms."""
    settings = {
        "k": 10, "overlap_tolerance": 0.0, "lambda_flow": 1.0, "score_weight": 0.0,
        "score_propagation": 0.0, "detect_cuts": False,
    }  # fmt: skip
    return SelectionConfig(**(settings | changes))


def random_inputs(seed: int, t: int, n: int) -> tuple:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (t, *SIZE, 3), dtype=np.uint8)
    masks = np.zeros((t, n, *SIZE), bool)
    for mask in masks.reshape(-1, *SIZE):
        y, x = rng.integers(0, 6, 2)
        mask[y : y + rng.integers(1, 4), x : x + rng.integers(1, 4)] = True
    backgrounds = list(rng.random((t, *SIZE)))
    flows = list(rng.normal(0, 0.3, (t - 1, *SIZE, 2)).astype(np.float32))
    return images, masks, backgrounds, flows


def calibrated(masks: NDArray[np.bool_]) -> Proposals:
    """`make_proposals` of a network with a calibration, whose scores count."""
    return replace(make_proposals(masks), calibration=CALIBRATION)


def run(inputs: tuple, config: SelectionConfig) -> tuple[Selection, HashFlow]:
    """The selection from calibrated proposals."""
    images, masks, backgrounds, flows = inputs
    network = HashFlow()
    proposals = [calibrated(frame) for frame in masks]
    return (
        select_clip(make_clip(list(images)), proposals, backgrounds, flows, network, config),
        network,
    )


def brute_force(inputs: tuple, config: SelectionConfig) -> float:
    """Energy of the best path over the K best combinations, straight from Eq. 2.

    Scores are not propagated.
    """
    images, masks, backgrounds, flows = inputs
    photograph = background_photograph(SIZE, config.seed)
    layers = []
    for frame, background in zip(masks, backgrounds, strict=True):
        scores = calibrated(frame).scores.astype(np.float64)
        prior = config.score_weight * (config.neutral_score - scores)
        found = all_combinations(frame, background, config.overlap_tolerance, config.epsilon)
        found = [(loss + prior[list(chosen)].sum(), chosen) for loss, chosen in found]
        layers.append(sorted(found)[: config.k])
    best = np.inf
    for path in itertools.product(*layers):
        unions = [masks[t][list(c)].any(axis=0) for t, (_, c) in enumerate(path)]
        energy = config.lambda_background * sum(loss for loss, _ in path)
        for t in range(len(path) - 1):
            a, b = unions[t], unions[t + 1]
            pair = [
                composite(images[t], a, photograph), composite(images[t + 1], b, photograph)
            ]  # fmt: skip
            synthetic = HashFlow().flow(pair[:1], pair[1:])[0]
            energy += config.lambda_flow * flow_loss(a, flows[t], synthetic)
            union = (a | b).sum()
            energy -= config.lambda_regularization * ((a & b).sum() / union if union else 0.0)
        best = min(best, energy)
    return float(best)
