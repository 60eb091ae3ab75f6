"""What motion against the surroundings says of objects, and the constants of its evidence.

    gbopt world --out h1 --environment --seed 1 --splits unseen-train --frames-per-clip 10
    gbopt world --out h2 --environment --seed 2 --splits unseen-train --frames-per-clip 10
    python benchmarks/parallax.py --fit h1/unseen-train --judge h2/unseen-train

Fits bias and slope of `perception.parallax` by logistic regression, the background network's own
log-odds counting once, and says how well network, motion and both tell pixels of objects from all
others: cross-entropy and IoU at probability 0.5.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from gbopt_ros.learning.adapt import collect_views
from numpy.typing import NDArray
from torch.nn import functional

from experiments.tabletop import RECORDING_NAME
from gbopt_ros import masks as mask_ops
from gbopt_ros.config import load_config
from gbopt_ros.io.clip_cutter import cut_clips
from gbopt_ros.io.datasets.coco import load_coco
from gbopt_ros.io.sources import open_source
from gbopt_ros.learning.round import ADAPTED_CLIP
from gbopt_ros.perception.flow import high_detail_flow, make_flow
from gbopt_ros.perception.load import load_background_network
from gbopt_ros.perception.plane_residual import BIAS, SLOPE
from gbopt_ros.structures import Clip

_STEP = 3  # every so many rows and columns count


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fit", type=Path, nargs="+", required=True, help="splits of video")
    parser.add_argument("--judge", type=Path, nargs="+", required=True, help="other ones")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    fitted = [pixels_of(folder, args.set) for folder in args.fit]
    bias, slope = fit(*(np.concatenate(values) for values in zip(*fitted, strict=True)))
    print(f"fitted: bias {bias:.2f}, slope {slope:.2f}; in use: {BIAS}, {SLOPE}")
    for folder in args.judge:
        network, motion, is_object = pixels_of(folder, args.set)
        known = motion != 0
        print(f"{folder}: motion known on {100 * known.mean():.0f} % of the pixels")
        for name, logits in (
            ("network", network),
            ("motion", motion),
            ("both", network + motion),
        ):
            print(f"  {name:8} {quality(logits, is_object)}")


def pixels_of(
    folder: Path, settings: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """(P,) of the pixels of a recording: log-odds of the network, evidence of motion, truth."""
    config = load_config(None, settings)
    labels = load_coco(folder / "annotations.json")
    truth = {im.extra["frame_index"]: labels.rles_by_image[im.id] for im in labels.images}
    network = load_background_network(config)
    clips: list[Clip] = list(
        cut_clips(
            open_source(folder / RECORDING_NAME), ADAPTED_CLIP, max_gap_s=config.clip.max_gap_s
        )
    )
    flow = high_detail_flow(make_flow(config.flow, config.device))
    logits, evidence, is_object = [], [], []
    for view in collect_views(clips, network, flow, config.adapt, config.motion.baseline_s, 10_000):
        (background,) = network.background([view.image])
        sure = np.clip(background, 1e-3, 1 - 1e-3)
        union = mask_ops.decode_all(truth[view.index], background.shape).any(axis=0)
        for values, found in (
            (logits, np.log1p(-sure) - np.log(sure)),
            (evidence, view.evidence.astype(np.float32)),
            (is_object, union),
        ):
            values.append(found[::_STEP, ::_STEP].ravel())
    return np.concatenate(logits), np.concatenate(evidence), np.concatenate(is_object)


def fit(
    network: NDArray[np.float32], motion: NDArray[np.float32], is_object: NDArray[np.bool_]
) -> tuple[float, float]:
    """Bias and slope under which the sum of both explains the truth best."""
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
    run(parse_arguments())
