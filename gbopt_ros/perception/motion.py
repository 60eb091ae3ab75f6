"""Motion as a second source of the background probability, beside the network. Not in the paper.

The background network judges single images, so a print on a table looks like an object to it. But
a print moves as the table does, and an object does not. Frames about half a second apart are
compared, and the log-odds of an object from motion are added to those of the network.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros.config import MotionConfig
from gbopt_ros.perception.plane_residual import motion_evidence, plane_residual
from gbopt_ros.structures import FlowNetwork, Frame, Image

_SHORT_SIDE = 240  # pixels, maximum size of the compared images: the evidence was fitted there
_EVIDENCE_SIDE = 160  # the same for the evidence, which is smoother than the images
_BLOCK = 16  # frames whose flow is in memory at once
_SURE = 1e-3  # smallest distance of a probability from 0 and 1


def clip_with_motion(
    frames: Sequence[Frame],
    backgrounds: Sequence[NDArray[np.float32]],
    flow_network: FlowNetwork,
    config: MotionConfig,
) -> list[NDArray[np.float32]]:
    """The background probability of all frames of a clip, from the network and from motion.

    Args:
        frames: T frames of one size.
        backgrounds: T arrays (H, W), the network's probability that a pixel belongs to no object.
        flow_network: called for at most two pairs a frame, mostly one.

    Returns:
        T arrays (H, W) float32; those of the network where `weight` is 0.

    Raises:
        ValueError: there is not one background a frame.
    """
    if config.weight == 0:
        return list(backgrounds)
    if len(frames) != len(backgrounds):
        raise ValueError(f"expected {len(frames)} backgrounds, one a frame, got {len(backgrounds)}")
    found = motion_between(frames, dict(enumerate(backgrounds)), flow_network, config.baseline_s)
    return [_combined(background, found.get(t), config) for t, background in enumerate(backgrounds)]


def frame_with_motion(
    frames: Sequence[Frame],
    t: int,
    background: NDArray[np.float32],
    flow_network: FlowNetwork,
    config: MotionConfig,
) -> NDArray[np.float32]:
    """The background probability of one frame of a clip, which is compared with another of them.

    Args:
        frames: those of the clip that have come.
        t: index of the frame that `background` (H, W) belongs to.
    """
    if config.weight == 0:
        return background
    found = motion_between(frames, {t: background}, flow_network, config.baseline_s)
    return _combined(background, found.get(t), config)


def has_partner(frames: Sequence[Frame], t: int, baseline_s: float) -> bool:
    """Whether frame t has one of `partners` among the frames that have come."""
    ends = (abs(frames[end].stamp_ns - frames[t].stamp_ns) / 1e9 for end in (0, -1))
    return max(ends) >= baseline_s / 2


def partners(frames: Sequence[Frame], baseline_s: float) -> dict[int, int]:
    """The frame that each frame is compared with, by their indices.

    It is a frame whose distance is closest to the baseline, if that is at least half of it. Two
    frames are each other's partners where they can be: one pair of flows then serves both.
    """
    found: dict[int, int] = {}
    stamps, baseline_ns = [frame.stamp_ns for frame in frames], round(1e9 * baseline_s)
    for t, stamp in enumerate(stamps):
        if t in found:
            continue
        # On each side it is the last frame before the baseline or the first one after it.
        after = [bisect(stamps, stamp - baseline_ns), bisect(stamps, stamp + baseline_ns)]
        near = [i for place in after for i in (place - 1, place) if 0 <= i < len(stamps)]
        ways = [(abs(stamps[i] - stamp) / 1e9, i) for i in near]
        far = [
            (abs(way - baseline_s), other in found, other < t, other)
            for way, other in ways
            if way >= baseline_s / 2
        ]
        if far:
            found[t] = min(far)[-1]
            found.setdefault(found[t], t)
    return found


def motion_between(
    frames: Sequence[Frame],
    backgrounds: Mapping[int, NDArray[np.float32]],
    flow_network: FlowNetwork,
    baseline_s: float,
) -> dict[int, NDArray[np.float32]]:
    """Evidence of objects from motion, for some frames of a clip.

    Args:
        frames: frames in order, of one size.
        backgrounds: (H, W), probability that a pixel belongs to no object, by the index of the
            frame in `frames`; these frames are asked for.
        flow_network: called on blocks of frames whose shorter side is at most 240 pixels.

    Returns:
        (h, w) float32, log-odds of an object, by the same indices, with a shorter side of at most
        160 pixels; frames without one of `partners` are left out.
    """
    others = partners(frames, baseline_s)
    asked = sorted(t for t in backgrounds if t in others)
    flows: dict[tuple[int, int], NDArray[np.float32]] = {}
    evidence = {}
    for start in range(0, len(asked), _BLOCK):
        block = [(t, others[t]) for t in asked[start : start + _BLOCK]]
        pairs = dict.fromkeys(pair for t, o in block for pair in ((t, o), (o, t)))
        missing = [pair for pair in pairs if pair not in flows]
        images = {t: _smaller(frames[t].image) for t in {t for pair in missing for t in pair}}
        first, second = ([images[pair[end]] for pair in missing] for end in (0, 1))
        found = flow_network.flow(first, second) if missing else ()
        flows.update(zip(missing, map(_coarser, found), strict=True))
        for t, o in block:
            background = resized(backgrounds[t], flows[t, o].shape)
            evidence[t] = motion_evidence(plane_residual(flows[t, o], flows[o, t], background))
        # Later blocks need only pairs that reach beyond this one.
        flows = {pair: flow for pair, flow in flows.items() if max(pair) > block[-1][0]}
    return evidence


def add_evidence(
    background: NDArray[np.floating], evidence: NDArray[np.floating]
) -> NDArray[np.float32]:
    """(H, W) float32, probability of no object after log-odds of an object are added to it.

    Where there is evidence, the probability is limited to 0.001 to 0.999 first.
    """
    background = background.astype(np.float32, copy=False)
    evidence = evidence.astype(np.float32, copy=False)
    sure = np.clip(background, _SURE, 1 - _SURE)
    combined = cv2.exp(evidence)  # Bayes' rule: sure / (sure + (1 - sure) exp(evidence))
    combined *= 1 - sure
    combined += sure
    np.divide(sure, combined, out=combined)
    cv2.copyTo(background, (evidence == 0).view(np.uint8), combined)  # NumPy is slow
    return np.asarray(combined)


def resized(values: NDArray[np.floating], size: tuple[int, ...]) -> NDArray[np.float32]:
    """A smooth map at another size (height, width, ...), by bilinear interpolation."""
    return np.asarray(cv2.resize(values.astype(np.float32, copy=False), size[1::-1]), np.float32)


def _combined(
    background: NDArray[np.float32], evidence: NDArray[np.float32] | None, config: MotionConfig
) -> NDArray[np.float32]:
    if evidence is None:
        return background
    return add_evidence(background, resized(config.weight * evidence, background.shape))


def _smaller(image: Image) -> Image:
    size = _size(image.shape, _SHORT_SIDE)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _coarser(flow: NDArray[np.floating]) -> NDArray[np.float32]:
    """A flow at the size of the evidence, in its pixels."""
    size = _size(flow.shape, _EVIDENCE_SIDE)
    coarse = cv2.resize(flow.astype(np.float32, copy=False), size)
    height, width = flow.shape[:2]  # their ratios differ slightly: sides are rounded
    factors = np.array([size[0] / width, size[1] / height], np.float32)
    return np.asarray(coarse * np.tile(factors, (size[0], 1)))  # a row: NumPy is slow on pairs


def _size(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """(width, height) if the shorter side is to be at most `side` pixels."""
    factor = min(1.0, side / min(shape[:2]))
    return max(1, round(factor * shape[1])), max(1, round(factor * shape[0]))
