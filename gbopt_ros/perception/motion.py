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
from gbopt_ros.perception.parallax import motion_evidence, residual_motion
from gbopt_ros.structures import FlowNetwork, Frame, Image

_SHORT_SIDE = 240  # pixels, of the images that are compared at most: the evidence was fitted there
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


def recent(frames: Sequence[Frame], baseline_s: float) -> list[Frame]:
    """Those that frames to come may be compared with, without those that lie too far back."""
    newest = frames[-1].stamp_ns if frames else 0
    near = [t for t, f in enumerate(frames) if newest - f.stamp_ns < baseline_s * 1e9]
    return list(frames[max(0, min(near, default=0) - 1) :])


def motion_between(
    frames: Sequence[Frame],
    backgrounds: Mapping[int, NDArray[np.float32]],
    flow_network: FlowNetwork,
    baseline_s: float,
) -> dict[int, NDArray[np.float32]]:
    """What motion says of some frames of a clip.

    A frame is compared with those that come closest to `baseline_s` before and after it, at least
    half of it; the larger motion counts.

    Args:
        frames: in order, of one size.
        backgrounds: of the frames that are asked for, by their place in `frames`: (H, W),
            probability that a pixel belongs to no object.
        flow_network: called once, with no image larger than what is compared.

    Returns:
        By place in `frames`, (h, w) float32, log-odds of an object; nothing for a frame that no
        other is far enough away from.
    """
    partners = {t: _partners(frames, t, baseline_s) for t in backgrounds}
    pairs = [(t, other) for t, others in partners.items() for other in others]
    both_ways = list(dict.fromkeys([*pairs, *((b, a) for a, b in pairs)]))
    if not both_ways:
        return {}
    images = {t: _smaller(frames[t].image) for t in {t for pair in both_ways for t in pair}}
    first, second = ([images[pair[end]] for pair in both_ways] for end in (0, 1))
    flows = dict(zip(both_ways, flow_network.flow(first, second), strict=True))
    found = {}
    for t, others in partners.items():
        if others:
            background = resized(backgrounds[t], images[t].shape[:2])
            residuals = [residual_motion(flows[t, o], flows[o, t], background) for o in others]
            found[t] = motion_evidence(np.fmax.reduce(residuals))
    return found


def add_evidence(
    background: NDArray[np.floating], evidence: NDArray[np.floating]
) -> NDArray[np.float32]:
    """(H, W) float32, probability of no object, after log-odds of an object were added to it."""
    sure = np.clip(background.astype(np.float32), _SURE, 1 - _SURE)
    log_odds = np.log1p(-sure) - np.log(sure) + evidence.astype(np.float32)
    probability: NDArray[np.float32] = 1 / (1 + np.exp(log_odds))
    return probability


def resized(values: NDArray[np.floating], size: tuple[int, ...]) -> NDArray[np.float32]:
    """A map of another size, (height, width)."""
    if values.shape == size:
        return values.astype(np.float32, copy=False)
    shrinks = size[0] < values.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(values.astype(np.float32), size[::-1], interpolation=interpolation)
    return np.asarray(resized, np.float32)


def _with(
    background: NDArray[np.float32], evidence: NDArray[np.float32] | None, config: MotionConfig
) -> NDArray[np.float32]:
    if evidence is None:
        return background
    return add_evidence(background, config.weight * resized(evidence, background.shape))


def _partners(frames: Sequence[Frame], t: int, baseline_s: float) -> list[int]:
    """The frame closest to the baseline before and that after, if half of it lies between."""
    found = []
    for sign in (-1, 1):
        ways = [sign * (other.stamp_ns - frames[t].stamp_ns) / 1e9 for other in frames]
        far = [(abs(way - baseline_s), o) for o, way in enumerate(ways) if way >= baseline_s / 2]
        if far:
            found.append(min(far)[1])
    return found


def _smaller(image: Image) -> Image:
    height, width = image.shape[:2]
    factor = _SHORT_SIDE / min(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(factor * width)), max(1, round(factor * height)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
