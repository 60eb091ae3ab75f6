"""Scores with a memory: a mask counts for more where it follows one of the frame before.

Not in the paper, whose terms compare unions of masks. A network is often as sure of a mask that it
proposes in one frame alone as of an object; the object it proposes again in the next frame, where
the flow says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.structures import Proposals


def warped_iou(
    before: Proposals, after: Proposals, flow: NDArray[np.floating]
) -> NDArray[np.float64]:
    """IoU of the masks of one frame, moved by the flow, with those of the next.

    Every pixel of a mask moves to the nearest pixel that its flow points to, at the border to the
    last one inside.

    Args:
        before: N candidates of frame t.
        after: N' candidates of frame t + 1.
        flow: (H, W, 2), pixels (x, y), measured from frame t to t + 1.

    Returns:
        (N, N') float64.
    """
    first = mask_ops.decode_all(before.rles, before.size)
    second = mask_ops.decode_all(after.rles, after.size)
    height, width = before.size
    rows, columns = np.nonzero(first.any(axis=0))
    move = flow[rows, columns]
    to_column = np.clip(np.rint(columns + move[:, 0]), 0, width - 1).astype(np.intp)
    to_row = np.clip(np.rint(rows + move[:, 1]), 0, height - 1).astype(np.intp)
    held = first[:, rows, columns].astype(np.float32)  # (N, P)
    met = second[:, to_row, to_column].astype(np.float32)  # (N', P)
    shared = (held @ met.T).astype(np.float64)  # (N, N')
    areas = held.sum(axis=1)[:, None] + mask_ops.areas(after.rles)[None, :]
    iou: NDArray[np.float64] = shared / np.maximum(areas - shared, 1.0)
    return np.minimum(iou, 1.0)  # pixels that the flow crowds together count more than once


def propagated_scores(
    scores: NDArray[np.floating],
    scores_before: NDArray[np.floating],
    iou: NDArray[np.float64],
    memory: float,
) -> NDArray[np.float64]:
    """(1 - memory) s_i + memory max_j IoU_ji r_j, r_j being what this gave a frame before.

    Args:
        scores: (N',) of the network.
        scores_before: (N,) r of the frame before.
        iou: (N, N') of `moved_iou`.
        memory: in [0, 1).

    Returns:
        (N',) float64, r of this frame.
    """
    carried = (iou * scores_before[:, None]).max(axis=0, initial=0.0)
    followed: NDArray[np.float64] = (1 - memory) * scores.astype(np.float64) + memory * carried
    return followed
