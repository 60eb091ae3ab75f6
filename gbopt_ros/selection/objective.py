"""The objective of Eq. 2, one function an equation.

    Eq. 3    `background_loss`, L_I          Eq. 13   `background_evidence`
    Eq. 4    `flow_loss`, L_F                Eq. 14   `empty_background_loss`
    Eq. 5    `regularization_losses`, L_p    App. C   `inside_flow_loss`, `outside_flow_loss`

Symbols: `background` is Bg(I_t), `foreground` the binary image Fg(Delta_t) of the selected masks,
`flow` is F_t and `synthetic` its synthetic counterpart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.structures import BoolMask, Rle

# Evidence is rounded to this grid so that its sums are exact in float64, whatever their order:
# equal combinations then have equal losses, to the last bit. Good for images up to 4K.
_GRID = 2.0**26


def on_grid(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The nearest values whose sums are exact."""
    rounded: NDArray[np.float64] = np.round(np.asarray(values, np.float64) * _GRID) / _GRID
    return rounded


def background_evidence(background: NDArray[np.floating], epsilon: float) -> NDArray[np.float64]:
    """What selecting a pixel adds to its cross-entropy: log Bg(x) - log(1 - Bg(x)) (Eq. 13).

    Args:
        background: (...,) probabilities.
        epsilon: they are clipped to [epsilon, 1 - epsilon].

    Returns:
        (...,) float64, nats, on a grid that makes sums exact.
    """
    bg = _probabilities(background)
    limit = np.log((1 - epsilon) / epsilon)
    with np.errstate(divide="ignore"):
        evidence = np.log(bg / (1 - bg))
    return on_grid(np.clip(evidence.astype(np.float64), -limit, limit))


def _probabilities(background: NDArray[np.floating]) -> NDArray[np.float32]:
    """(...,) float32 in [0, 1]; sums of a network's outputs may lie a rounding error beyond."""
    return np.clip(background.astype(np.float32, copy=False), 0, 1)


def empty_background_loss(background: NDArray[np.floating], epsilon: float) -> float:
    """L_I, summed over the pixels, of selecting nothing: Eq. 14 over the whole image."""
    logarithm = _probabilities(background)
    with np.errstate(divide="ignore"):
        np.log(logarithm, out=logarithm)
    # Floats of Python: with those of NumPy all would be computed in float64.
    np.clip(logarithm, math.log(epsilon), math.log1p(-epsilon), out=logarithm)
    return -float(logarithm.sum(dtype=np.float64))


def background_loss(
    foreground: BoolMask, background: NDArray[np.floating], epsilon: float
) -> float:
    """L_I = CE(Bg, 1 - Fg) (Eq. 3), mean over the pixels.

    The paper does not say whether the cross-entropy is summed or averaged. Only with the mean do
    its weights (1, 1, 0.5) suit every image size.
    """
    evidence = background_evidence(background, epsilon)
    total = empty_background_loss(background, epsilon) + float(evidence[foreground].sum())
    return total / foreground.size


def flow_residual(
    flow: NDArray[np.floating], synthetic: NDArray[np.floating]
) -> NDArray[np.float64]:
    """|F_t(x) - F'_t(x)|_1 (Eq. 4), (...,) float64, pixels; inputs are (..., 2)."""
    difference = flow.astype(np.float64) - synthetic.astype(np.float64)
    residual: NDArray[np.float64] = np.abs(difference).sum(axis=-1)
    return residual


def flow_loss(
    foreground: BoolMask, flow: NDArray[np.floating], synthetic: NDArray[np.floating]
) -> float:
    """L_F = mean over pixels of |F_t - F'_t|_1 (Eq. 4), pixels.

    Args:
        foreground: (H, W), the union of the masks of frame t.
        flow: (H, W, 2), F_t.
        synthetic: (H, W, 2), the flow network's output on the composites.
    """
    return outside_flow_loss(foreground, flow) + inside_flow_loss(foreground, flow, synthetic)


def inside_flow_loss(
    foreground: BoolMask, flow: NDArray[np.floating], synthetic: NDArray[np.floating]
) -> float:
    """The part of L_F on the masks of frame t, where F'_t = g(I'_t, I'_t+1) (App. C)."""
    there = np.ascontiguousarray(foreground).view(np.uint8)
    found, other = np.asarray(flow, np.float32), np.asarray(synthetic, np.float32)
    return float(cv2.norm(found, other, cv2.NORM_L1, there)) / foreground.size


def outside_flow_loss(foreground: BoolMask, flow: NDArray[np.floating]) -> float:
    """The part of L_F outside the masks of frame t, where F'_t is the mean of F_t (App. C).

    It depends on Delta_t alone and needs no flow network, so it bounds L_F from below.
    """
    outside = np.ascontiguousarray(~foreground).view(np.uint8)
    values = np.asarray(flow, np.float32)
    residual = cv2.absdiff(values, cv2.mean(values, outside))
    return float(cv2.norm(residual, cv2.NORM_L1, outside)) / foreground.size


def regularization_losses(first: Sequence[Rle], second: Sequence[Rle]) -> NDArray[np.float64]:
    """L_p = -IoU of the binary images of two frames; 0 where both are empty (Eq. 5).

    Args:
        first: K unions of masks of frame t.
        second: K' unions of masks of frame t + 1.

    Returns:
        (K, K') float64, L_p of every pair.
    """
    areas = mask_ops.areas(first)[:, None] + mask_ops.areas(second)[None, :]
    return np.where(areas > 0, -mask_ops.iou_matrix(first, second), 0.0)


def score_prior(
    scores: NDArray[np.floating], size: tuple[int, int], neutral_score: float, weight: float
) -> NDArray[np.float64]:
    """What selecting each mask adds to L_I, summed over the pixels, for its network score.

    Not in the paper, which disregards the scores. L_I does not tell one mask of two objects from
    two masks of one each. The prior does: every mask counts once, whatever its size. On the scale
    of L_I, which is a mean, it adds weight * (neutral_score - score).

    Args:
        scores: (N,) in [0, 1].
        size: (height, width) of the image.
        neutral_score: a mask with this score is neither favoured nor disfavoured.
        weight: 0 is the paper.

    Returns:
        (N,) float64, nats.
    """
    return weight * size[0] * size[1] * (neutral_score - np.asarray(scores, np.float64))
