"""The plane residual as evidence for objects: fits its constants, and says how much it tells.

    gbopt world --out e1 --environment --seed 1 --splits unseen-train --frames-per-clip 10
    gbopt world --out e2 --environment --seed 2 --splits unseen-train --frames-per-clip 10
    python -m experiments.plane_residual --fit e1/unseen-train --judge e2/unseen-train

Fits BIAS and SLOPE of `perception.plane_residual` by logistic regression beside the log-odds of the
background network. Then it prints how well the network, motion and both tell pixels of objects from
all others: cross-entropy, and IoU at probability 0.5.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from experiments.command_line import Distinct, check_apart, start
from experiments.tabletop import RECORDING_NAME, Recording
from gbopt_ros import masks as mask_ops
from gbopt_ros.config import load_config
from gbopt_ros.io.clip_cutter import cut_clips
from gbopt_ros.io.datasets.coco import ANNOTATIONS_NAME
from gbopt_ros.perception.flow import high_detail_flow, make_flow
from gbopt_ros.perception.load import load_background_network
from gbopt_ros.perception.motion import motion_between, resized
from gbopt_ros.perception.plane_residual import BIAS, SLOPE

_STEP = 3  # only every third row and column is taken

Pixels = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]
"""(P,) log-odds of an object by the network, the same by motion, whether there is an object."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    several = {"type": Path, "nargs": "+", "required": True, "action": Distinct}
    parser.add_argument("--fit", **several, help="splits of video")
    parser.add_argument("--judge", **several, help="other splits")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(arguments)
    check_apart(parser, args.fit, args.judge)
    return args


def run(args: argparse.Namespace) -> None:
    fitted = [pixels_of(folder, args.set) for folder in args.fit]
    bias, slope = fit(*(np.concatenate(values) for values in zip(*fitted, strict=True)))
    print(f"fitted: bias {bias:.2f}, slope {slope:.2f}; in use: {BIAS}, {SLOPE}")
    for folder in args.judge:
        network, motion, is_object = pixels_of(folder, args.set)
        print(f"{folder}: motion known on {100 * np.mean(motion != 0):.0f} % of the pixels")
        for name, logits in {
            "network": network, "motion": motion, "both": network + motion
        }.items():  # fmt: skip
            print(f"  {name:8} {quality(logits, is_object)}")


def pixels_of(folder: Path, settings: Sequence[str]) -> Pixels:
    """The pixels of all frames of a recording that have a partner to compare with."""
    config = load_config(None, settings)
    recording = Recording(folder / RECORDING_NAME, folder / ANNOTATIONS_NAME)
    network = load_background_network(config)
    flow = high_detail_flow(make_flow(config.flow, config.device))
    found: list[tuple[NDArray, ...]] = []
    for clip in cut_clips(recording.open(), config.clip.length, max_gap_s=config.clip.max_gap_s):
        backgrounds = dict(enumerate(network.background([f.image for f in clip.frames])))
        evidence = motion_between(clip.frames, backgrounds, flow, config.motion.baseline_s)
        for t, motion in evidence.items():
            sure = resized(backgrounds[t], motion.shape).clip(1e-3, 1 - 1e-3)
            masks = mask_ops.decode_all(recording.truth[clip.frames[t].index], clip.size)
            union = masks.any(axis=0).astype(np.float32)
            is_object = resized(union, motion.shape) >= 0.5
            maps = np.log1p(-sure) - np.log(sure), motion, is_object
            found.append(tuple(each[::_STEP, ::_STEP].ravel() for each in maps))
    network_odds, motion_odds, is_object = (
        np.concatenate(values) for values in zip(*found, strict=True)
    )
    return network_odds, motion_odds, is_object


def fit(
    network: NDArray[np.float32], motion: NDArray[np.float32], is_object: NDArray[np.bool_]
) -> tuple[float, float]:
    """Bias and slope under which the sum of both log-odds explains the truth best."""
    known = motion != 0
    x = torch.from_numpy((motion[known] - BIAS) / SLOPE)  # log(residual + floor)
    offset = torch.from_numpy(network[known])
    target = torch.from_numpy(is_object[known].astype(np.float32))
    weights = torch.tensor([BIAS, SLOPE], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = offset + weights[0] + weights[1] * x
        value = functional.binary_cross_entropy_with_logits(logits, target)
        value.backward()
        return value

    optimizer.step(loss)
    bias, slope = weights.tolist()
    return bias, slope


def quality(logits: NDArray[np.float32], is_object: NDArray[np.bool_]) -> str:
    found = logits > 0
    iou = np.count_nonzero(found & is_object) / np.count_nonzero(found | is_object)
    entropy = float(np.mean(np.logaddexp(0, logits) - is_object * logits))
    return f"cross-entropy {entropy:.4f}, IoU {iou:.3f}"


if __name__ == "__main__":
    sys.exit(start(run, parse_arguments()))
