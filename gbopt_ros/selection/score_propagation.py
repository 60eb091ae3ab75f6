"""Score propagation: a mask takes over part of the score of the mask that it follows.

Not in the paper, whose terms compare unions of masks. A network may score a false mask as high as
an object. The object is proposed again in the next frame, where the flow points; the false mask
often is not. After a cut, or between single photographs, no mask is found again: that says nothing
about a mask, and every mask keeps the score of the network.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.selection.atoms import Atoms

# Mean best IoU, weighted by score, below which there is a cut between two frames. Videos have 0.5
# to 0.9, single photographs of the same table 0.15 to 0.55.
_MIN_FOLLOWED = 0.45
_GRID_SIDE = 240  # rows or columns of pixels that stand for all of a larger image


def warped_iou(before: Atoms, after: Atoms, flow: NDArray[np.floating]) -> NDArray[np.float64]:
    """IoU of the masks of one frame, moved by the flow, with the masks of the next.

    Every pixel moves to the nearest pixel that its flow points to, within the image. Images whose
    shorter side is 480 pixels or more are looked at on a coarser grid.

    Args:
        before: atoms of the N candidates of frame t.
        after: atoms of the N' candidates of frame t + 1.
        flow: (H, W, 2), pixels (x, y), from frame t to t + 1.

    Returns:
        (N, N') float64.
    """
    step = max(1, min(before.size) // _GRID_SIDE)
    height, width = grid = before.size[0] // step, before.size[1] // step
    labels, targets = before.labels_at(grid), after.labels_at(grid)
    # Numbers of pixels, row by row: `take` is several times faster than indexing by two arrays.
    places = np.flatnonzero(labels < len(before.areas))
    pixels = labels.ravel().take(places)
    rows, columns = np.divmod(places, width)
    middle = step // 2  # of the square that a pixel of the grid shows, about
    here = (step * rows + middle) * before.size[1] + step * columns + middle
    move = flow.reshape(-1, 2).take(here, axis=0) / step
    to_column = np.clip(np.rint(columns + move[:, 0]), 0, width - 1).astype(np.intp)
    to_row = np.clip(np.rint(rows + move[:, 1]), 0, height - 1).astype(np.intp)
    reached, none = targets.ravel().take(to_row * width + to_column), len(after.areas)
    covered = reached < none
    pairs, count = _counted(pixels[covered].astype(np.int64) * none + reached[covered])
    start, end = np.divmod(pairs, none)
    moved = before.membership[:, start] * (count * float(step**2))
    shared = moved @ after.membership[:, end].T
    areas = (before.membership @ before.areas)[:, None] + after.membership @ after.areas
    iou: NDArray[np.float64] = shared / np.maximum(areas - shared, 1.0)
    return np.minimum(iou, 1.0)  # pixels that the flow crowds together count more than once


def _counted(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers that occur, ascending, and how often; none is negative."""
    largest = int(numbers.max(initial=0))
    if largest > _GRID_SIDE**2:  # ragged masks may have as many atoms as pixels
        return np.unique(numbers, return_counts=True)
    count = np.bincount(numbers)
    occurring = np.flatnonzero(count)
    return occurring, count[occurring]


def is_cut(scores: NDArray[np.floating], iou: NDArray[np.float64]) -> bool:
    """Whether the masks of a frame are not those of the frame before, moved.

    That is so if sum_i s_i max_j IoU_ji < 0.45 sum_i s_i: there is a cut in the video, the frames
    are single photographs, or the camera moved too far.

    Args:
        scores: (N',) s, network scores.
        iou: (N, N') of `warped_iou`; where N = 0, nothing tells.
    """
    if not len(iou):
        return False
    followed = float(scores @ iou.max(axis=0, initial=0.0))
    return followed < _MIN_FOLLOWED * float(scores.sum())


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
