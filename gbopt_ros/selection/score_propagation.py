"""Score propagation: a mask takes over part of the score of the mask that it follows.

Not in the paper, whose terms compare unions of masks. A network may score a false mask as high as
an object. The object is proposed again in the next frame, where the flow points; the false mask
often is not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.structures import Proposals


def warped_iou(
    before: Proposals, after: Proposals, flow: NDArray[np.floating]
) -> NDArray[np.float64]:
    """IoU of the masks of one frame, moved by the flow, with the masks of the next.

    Every pixel moves to the nearest pixel that its flow points to, within the image.

    Args:
        before: N candidates of frame t.
        after: N' candidates of frame t + 1.
        flow: (H, W, 2), pixels (x, y), from frame t to t + 1.

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
    moved = first[:, rows, columns].astype(np.float32)  # (N, P)
    target = second[:, to_row, to_column].astype(np.float32)  # (N', P)
    shared = (moved @ target.T).astype(np.float64)  # (N, N')
    areas = moved.sum(axis=1)[:, None] + mask_ops.areas(after.rles)[None, :]
    iou: NDArray[np.float64] = shared / np.maximum(areas - shared, 1.0)
    return np.minimum(iou, 1.0)  # pixels that the flow crowds together count more than once


def propagated_scores(
    scores: NDArray[np.floating],
    scores_before: NDArray[np.floating],
    iou: NDArray[np.float64],
    share: float,
) -> NDArray[np.float64]:
    """r_i = (1 - share) s_i + share max_j IoU_ji r'_j, r' being the r of the frame before.

    Args:
        scores: (N',) s, network scores.
        scores_before: (N,) r'.
        iou: (N, N') of `warped_iou`.
        share: `selection.score_propagation`, in [0, 1).

    Returns:
        (N',) float64, r.
    """
    carried = (iou * scores_before[:, None]).max(axis=0, initial=0.0)
    propagated: NDArray[np.float64] = (1 - share) * scores.astype(np.float64) + share * carried
    return propagated
