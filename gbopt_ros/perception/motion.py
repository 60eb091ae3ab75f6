"""What moves against its surroundings, as a cue beside the background network; not in the paper.

The background network judges single images. A print on a table looks like an object to it; a print
moves as the table does, though, and an object does not. So frames that lie half a second apart are
compared, and the log-odds of an object that their motion gives are added to those of the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros.config import MotionConfig
from gbopt_ros.perception.plane_residual import motion_evidence, plane_residual
from gbopt_ros.structures import FlowNetwork, Frame, Image

_SHORT_SIDE = 240  # pixels, of the images that are compared at most: the evidence was fitted there
_BLOCK = 16  # frames whose flow is in memory at once
_SURE = 1e-3  # probabilities are kept from 0 and 1 by this much


def clip_with_motion(
    frames: Sequence[Frame],
    backgrounds: Sequence[NDArray[np.float32]],
    flow_network: FlowNetwork,
    config: MotionConfig,
) -> list[NDArray[np.float32]]:
    """What the background network and motion together say of the frames of a clip.

    Args:
        frames: T, of one size.
        backgrounds: T arrays (H, W), probability that a pixel belongs to no object.
        flow_network: of two pairs at most for each frame.

    Returns:
        T arrays (H, W) float32, the same probability; those of the network where `weight` is 0.
    """
    if config.weight == 0:
        return list(backgrounds)
    if len(frames) != len(backgrounds):
        raise ValueError(f"expected a background a frame, got {len(backgrounds)}, {len(frames)}")
    of_frame = dict(enumerate(backgrounds))
    found = motion_between(frames, of_frame, flow_network, config.baseline_s)
    return [_with(background, found.get(t), config) for t, background in of_frame.items()]


def last_with_motion(
    frames: Sequence[Frame],
    background: NDArray[np.float32],
    flow_network: FlowNetwork,
    config: MotionConfig,
) -> NDArray[np.float32]:
    """The same for the last of some frames of a stream, from those before it alone."""
    if config.weight == 0:
        return background
    last = len(frames) - 1
    found = motion_between(frames, {last: background}, flow_network, config.baseline_s)
    return _with(background, found.get(last), config)


def partners(frames: Sequence[Frame], t: int, baseline_s: float) -> list[int]:
    """Places of the frames that frame `t` is compared with.

    The one closest to the baseline before it and that after, if half of it lies between.
    """
    found = []
    for sign in (-1, 1):
        ways = [sign * (other.stamp_ns - frames[t].stamp_ns) / 1e9 for other in frames]
        far = [(abs(way - baseline_s), o) for o, way in enumerate(ways) if way >= baseline_s / 2]
        if far:
            found.append(min(far)[1])
    return found


def motion_between(
    frames: Sequence[Frame],
    backgrounds: Mapping[int, NDArray[np.float32]],
    flow_network: FlowNetwork,
    baseline_s: float,
) -> dict[int, NDArray[np.float32]]:
    """What motion says of some frames of a clip.

    Of a frame's `partners`, the one that it moves more against counts.

    Args:
        frames: in order, of one size.
        backgrounds: of the frames that are asked for, by their place in `frames`: (H, W),
            probability that a pixel belongs to no object.
        flow_network: of images no larger than what is compared, a block of frames at once.

    Returns:
        By place in `frames`, (h, w) float32, log-odds of an object; nothing for a frame that no
        other is far enough away from.
    """
    others = {t: partners(frames, t, baseline_s) for t in backgrounds}
    asked = sorted(t for t, found in others.items() if found)
    flows: dict[tuple[int, int], NDArray[np.float32]] = {}
    evidence = {}
    for start in range(0, len(asked), _BLOCK):
        block = asked[start : start + _BLOCK]
        pairs = dict.fromkeys(p for t in block for o in others[t] for p in ((t, o), (o, t)))
        missing = [pair for pair in pairs if pair not in flows]
        images = {t: _smaller(frames[t].image) for pair in missing for t in pair}
        first, second = ([images[pair[end]] for pair in missing] for end in (0, 1))
        flows.update(zip(missing, flow_network.flow(first, second), strict=True))
        for t in block:
            background = resized(backgrounds[t], flows[t, others[t][0]].shape)
            residuals = [plane_residual(flows[t, o], flows[o, t], background) for o in others[t]]
            evidence[t] = motion_evidence(np.fmax.reduce(residuals))
        # The rest was the last that its frames are asked of.
        flows = {pair: flow.copy() for pair, flow in flows.items() if max(pair) > block[-1]}
    return evidence


def add_evidence(
    background: NDArray[np.floating], evidence: NDArray[np.floating]
) -> NDArray[np.float32]:
    """(H, W) float32, probability of no object, after log-odds of an object were added to it.

    What the network is sure of counts as 0.001 or 0.999 where there is evidence.
    """
    sure = np.clip(background.astype(np.float32), _SURE, 1 - _SURE)
    log_odds = np.log1p(-sure) - np.log(sure) + evidence.astype(np.float32)
    return np.where(evidence == 0, background, 1 / (1 + np.exp(log_odds))).astype(np.float32)


def resized(values: NDArray[np.floating], size: tuple[int, ...]) -> NDArray[np.float32]:
    """A map of another size, (height, width, ...)."""
    if values.shape == size[:2]:
        return values.astype(np.float32, copy=False)
    shrinks = size[0] < values.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(
        cv2.resize(values.astype(np.float32), (size[1], size[0]), interpolation=interpolation),
        np.float32,
    )


def _with(
    background: NDArray[np.float32], evidence: NDArray[np.float32] | None, config: MotionConfig
) -> NDArray[np.float32]:
    if evidence is None:
        return background
    return add_evidence(background, config.weight * resized(evidence, background.shape))


def _smaller(image: Image) -> Image:
    height, width = image.shape[:2]
    factor = _SHORT_SIDE / min(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(factor * width)), max(1, round(factor * height)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
