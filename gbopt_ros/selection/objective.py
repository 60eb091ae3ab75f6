"""The objective of Eq. 2, one function an equation.

Symbols: `background` is Bg(I_t), `foreground` the binary image Fg(Delta_t) of the selected masks,
`flow` F_t and `synthetic` its synthetic counterpart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.masks import Atoms
from gbopt_ros.structures import BoolMask

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
    bg = background.astype(np.float32, copy=False)  # what networks give, and several times faster
    limit = np.log((1 - epsilon) / epsilon)
    with np.errstate(divide="ignore"):
        evidence = np.log(bg / (1 - bg))
    return on_grid(np.clip(evidence.astype(np.float64), -limit, limit))


def empty_background_loss(background: NDArray[np.floating], epsilon: float) -> float:
    """L_I, summed over the pixels, of selecting nothing: Eq. 14 over the whole image."""
    with np.errstate(divide="ignore"):
        logarithm = np.log(background.astype(np.float32, copy=False))
    clipped = np.clip(logarithm, np.log(epsilon), np.log1p(-epsilon), out=logarithm)
    return -float(clipped.sum(dtype=np.float64))


def background_loss(
    foreground: BoolMask, background: NDArray[np.floating], epsilon: float, reduction: str
) -> float:
    """L_I = CE(Bg, 1 - Fg) (Eq. 3).

    The paper does not say whether the cross-entropy is summed or averaged; only the mean makes
    its weights (1, 1, 0.5) independent of the image size, so `reduction` is "mean" by default
    and "sum" on request.
    """
    evidence = background_evidence(background, epsilon)
    total = empty_background_loss(background, epsilon) + float(evidence[foreground].sum())
    return total / foreground.size if reduction == "mean" else total


def flow_residual(
    flow: NDArray[np.floating], synthetic: NDArray[np.floating]
) -> NDArray[np.float64]:
    """|F_t(x) - F'_t(x)|_1 (Eq. 4), (...,) float64, pixels; inputs are (..., 2)."""
    difference = flow.astype(np.float64) - synthetic.astype(np.float64)
    residual: NDArray[np.float64] = np.abs(difference).sum(axis=-1)
    return residual


def outside_flow_loss(foreground: BoolMask, flow: NDArray[np.floating]) -> float:
    """The part of L_F outside the masks of frame t, where F'_t is the mean of F_t (App. C).

    It depends on Delta_t alone and needs no flow network, so it bounds L_F from below.
    """
    outside = flow[~foreground]  # (P, 2)
    if len(outside) == 0:
        return 0.0
    mean = outside.mean(axis=0, dtype=np.float64)
    return float(flow_residual(outside, mean).sum()) / foreground.size


def outside_flow_losses(
    decomposed: Atoms, selected: NDArray[np.bool_], flow: NDArray[np.floating]
) -> NDArray[np.float64]:
    """`outside_flow_loss` of many combinations of one frame at once.

    The sum over the outside is that over the image less that over the masks. Of the image only
    the values between the lowest and the highest mean need a pass for each combination; on the
    masks the sums over the atoms do.

    Args:
        decomposed: the atoms of the frame's candidates.
        selected: (K, A) bool, the atoms of each combination.
        flow: (H, W, 2), F_t.

    Returns:
        (K,) float64, pixels.
    """
    losses = np.zeros(len(selected))
    outside = flow.shape[0] * flow.shape[1] - selected @ decomposed.areas  # (K,) pixels
    for channel in (flow[..., 0], flow[..., 1]):
        values = np.ascontiguousarray(channel, np.float32).ravel()
        covered = decomposed.covered(np.ascontiguousarray(channel, np.float32))
        total = values.sum(dtype=np.float64) - selected @ decomposed.sums(covered)
        means = (total / np.maximum(outside, 1)).astype(np.float32)  # (K,)
        inside = np.array([decomposed.sums(np.abs(covered - mean)) for mean in means])  # (K, A)
        losses += _absolute_deviations(values, means) - (selected * inside).sum(axis=1)
    losses[outside == 0] = 0.0
    mean: NDArray[np.float64] = np.maximum(losses, 0.0) / (flow.shape[0] * flow.shape[1])
    return mean


def _absolute_deviations(
    values: NDArray[np.float32], centres: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(K,) the sum of |value - centre| over all (P,) values, for each of (K,) centres."""
    below, above = values[values < centres.min()], values[values > centres.max()]
    between = values[(values >= centres.min()) & (values <= centres.max())]
    rest = np.array([np.abs(between - centre).sum(dtype=np.float64) for centre in centres])
    linear = centres.astype(np.float64) * (len(below) - len(above))
    deviations: NDArray[np.float64] = (
        rest + linear + above.sum(dtype=np.float64) - below.sum(dtype=np.float64)
    )
    return deviations


def inside_flow_loss(
    foreground: BoolMask, flow: NDArray[np.floating], synthetic: NDArray[np.floating]
) -> float:
    """The part of L_F on the masks of frame t, where F'_t = g(I'_t, I'_t+1) (App. C)."""
    pixels = np.flatnonzero(foreground)
    residual = flow.reshape(-1, 2).take(pixels, axis=0) - synthetic.reshape(-1, 2).take(
        pixels, axis=0
    )
    return float(np.abs(residual).sum(dtype=np.float64)) / foreground.size


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


def regularization_loss(intersection: int, union: int) -> float:
    """L_p = -IoU of the binary images of two frames; 0 when both are empty (Eq. 5).

    Args:
        intersection: pixels selected in both frames.
        union: pixels selected in either frame.
    """
    return -intersection / union if union else 0.0


def score_prior(
    scores: NDArray[np.floating], areas: NDArray[np.integer], neutral_score: float, weight: float
) -> NDArray[np.float64]:
    """What selecting each mask adds to L_I, summed over the pixels, for its network score.

    Not in the paper, which asks the network for masks and disregards how sure it is of them. Each
    pixel of a mask is taken to lie on an object with the odds of the mask's score over those of a
    neutral score: weight * area * (logit(neutral) - logit(score)).

    Args:
        scores: (N,) in [0, 1].
        areas: (N,) pixels.
        neutral_score: a mask with this score is neither favoured nor disfavoured.
        weight: 0 is the paper.

    Returns:
        (N,) float64, nats.
    """
    s = np.clip(scores.astype(np.float64), 1e-3, 1 - 1e-3)
    logit = np.log(s) - np.log1p(-s)
    neutral = np.log(neutral_score) - np.log1p(-neutral_score)
    prior: NDArray[np.float64] = weight * areas * (neutral - logit)
    return prior
