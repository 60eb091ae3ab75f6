"""How others choose training masks among proposals: what `comparison` compares selection with.

Pure functions on proposals. Each method gives every mask a score, and one number, chosen on a
validation recording or from labelled data, says which scores are kept.

- Score threshold: the network's own score.
- Data Distillation (Radosavovic et al. 2018): proposals of several views, merged
  (`test_time_augmentation`), thresholded so that an image has as many masks as a labelled image
  has objects.
- Tracklets, in the manner of UnOVOST (Luiten et al. 2020): proposals are linked from frame to frame
  and judged as tracks. Simplified: one linking stage, colour in place of a learnt embedding.
- Selected using ground truth: the upper bound of all that choose among these proposals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from gbopt_ros import masks as mask_ops
from gbopt_ros.evaluation.mask_quality import PrecisionRecallCurve
from gbopt_ros.structures import BoolMask, Clip, GboptError, Image, Proposals, Rle

Link = tuple[int, int]
"""Frame of the clip and index of the proposal there."""

_LEFT_SHARE = 0.5  # smallest share of its area that a linked proposal has for itself
_LINK_IOU = 0.3  # smallest IoU of a mask and the flow-warped mask of the next frame in a link
_COLOUR_BINS = 4  # bins of each channel


def best_threshold(curve: PrecisionRecallCurve) -> float:
    """The threshold with the highest F1, the highest one of equally good ones.

    Raises:
        GboptError: no proposal of the curve is right.
    """
    total = curve.precision + curve.recall
    if not total.any():
        raise GboptError("no proposal on the validation recording is right: nothing to choose by")
    f1 = 2 * curve.precision * curve.recall / np.where(total > 0, total, 1)
    return float(curve.thresholds[f1.argmax()])


def expected_number_threshold(scores: Sequence[NDArray[np.floating]], objects: float) -> float:
    """The threshold that keeps as many masks as expected, or the nearest number that ties allow.

    Args:
        scores: of the proposals of each frame.
        objects: expected number of objects of a frame.
    """
    joined = np.sort(np.concatenate([np.zeros(0), *scores]))[::-1]
    if not len(joined):
        return np.inf
    thresholds, counts = np.unique(-joined, return_counts=True)
    kept = np.concatenate([[0], np.cumsum(counts)])
    nearest = int(np.abs(kept - objects * len(scores)).argmin())
    return float(-thresholds[nearest - 1]) if nearest else np.inf


def above(proposals: Proposals, threshold: float) -> Proposals:
    """The proposals with at least this score."""
    n = int(np.count_nonzero(proposals.scores >= threshold))
    return Proposals(proposals.size, proposals.rles[:n], proposals.scores[:n], proposals.boxes[:n])


def agreeing_with(proposals: Proposals, instances: Sequence[Rle], iou: float = 0.5) -> Proposals:
    """The proposals of the one-to-one matching with the largest sum of IoUs (Hungarian method).

    Pairs below `iou` count nothing and are left out.
    """
    chosen = [i for i, _ in closest_pairs(proposals.rles, instances, iou)]
    return Proposals(
        proposals.size,
        tuple(proposals.rles[i] for i in chosen),
        proposals.scores[chosen],
        proposals.boxes[chosen],
    )


def closest_pairs(
    masks: Sequence[Rle], instances: Sequence[Rle], iou: float = 0.5
) -> list[tuple[int, int]]:
    """Mask and instance of the one-to-one matching that `agreeing_with` chooses by."""
    overlap = mask_ops.iou_matrix(masks, instances)  # (N, M)
    overlap[overlap < iou] = 0.0
    pairs = zip(*linear_sum_assignment(overlap, maximize=True), strict=True)
    return sorted((int(i), int(j)) for i, j in pairs if overlap[i, j] > 0)


def tracklets(
    clip: Clip, proposals: Sequence[Proposals], flows: Sequence[NDArray[np.float32]]
) -> list[Proposals]:
    """The masks of every frame with the score of their track, no two of which share a pixel.

    A track's score is the mean of its proposals' scores times its length, as a share of the clip.

    Args:
        clip: T frames.
        proposals: T times the proposals of a frame.
        flows: T - 1 arrays (H, W, 2), pixels, from each frame to the next.
    """
    decoded = [mask_ops.decode_all(p.rles, p.size) for p in proposals]
    kept = [for_itself(masks) for masks in decoded]  # best score first, as proposals are
    masks = [m[k] for m, k in zip(decoded, kept, strict=True)]
    scores = [p.scores[k] for p, k in zip(proposals, kept, strict=True)]
    colours = [
        np.array([colour_histogram(frame.image, mask) for mask in found])
        for frame, found in zip(clip.frames, masks, strict=True)
    ]
    track_scores = [np.zeros(len(found)) for found in masks]
    for track in link(masks, colours, flows):
        mean = float(np.mean([scores[t][i] for t, i in track]))
        for t, i in track:
            track_scores[t][i] = mean * len(track) / len(clip)
    return [_exclusive(found, values) for found, values in zip(masks, track_scores, strict=True)]


def for_itself(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The (N, H, W) masks that keep half of their area when those before them have taken theirs."""
    taken = np.zeros(masks.shape[1:], bool)
    kept = []
    for i, mask in enumerate(masks):
        if np.count_nonzero(mask & ~taken) > _LEFT_SHARE * np.count_nonzero(mask):
            kept.append(i)
            taken |= mask
    return np.array(kept, np.int64)


def colour_histogram(image: Image, mask: BoolMask) -> NDArray[np.float64]:
    """(B,) shares of the pixels of a mask, all zero where it has none."""
    levels = image[mask].astype(np.int64) * _COLOUR_BINS // 256  # (P, 3)
    bins = levels @ np.array([_COLOUR_BINS**2, _COLOUR_BINS, 1])
    return np.bincount(bins, minlength=_COLOUR_BINS**3) / max(1, len(bins))


def warp_back(mask: BoolMask, flow: NDArray[np.float32]) -> BoolMask:
    """A mask of the next frame as this one sees it: mask(x + flow(x)), nearest pixel."""
    height, width = mask.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    warped = cv2.remap(mask.astype(np.uint8), x + flow[..., 0], y + flow[..., 1], cv2.INTER_NEAREST)
    return warped.astype(bool)


def link(
    masks: Sequence[NDArray[np.bool_]],
    colours: Sequence[NDArray[np.float64]],
    flows: Sequence[NDArray[np.float32]],
) -> list[list[Link]]:
    """Tracks: every mask is in exactly one.

    Consecutive frames are linked one to one, with the largest sum of flow-warped IoU times the
    intersection of colour histograms.

    Args:
        masks: T arrays (n, H, W).
        colours: T arrays (n, B).
        flows: T - 1 arrays (H, W, 2), pixels.
    """
    tracks: list[list[Link]] = [[(0, i)] for i in range(len(masks[0]))]
    ending = list(tracks)  # that reach the present frame, by the index of their mask there
    for t, flow in enumerate(flows):
        warped = np.array([warp_back(mask, flow) for mask in masks[t + 1]])
        overlap = mask_ops.iou_matrix(
            mask_ops.encode_all(masks[t]),
            mask_ops.encode_all(warped.reshape(-1, *flow.shape[:2]).astype(bool)),
        )
        affinity = np.zeros_like(overlap)
        for i, j in np.argwhere(overlap >= _LINK_IOU):
            affinity[i, j] = overlap[i, j] * np.minimum(colours[t][i], colours[t + 1][j]).sum()
        partner = {
            int(j): int(i)
            for i, j in zip(*linear_sum_assignment(affinity, maximize=True), strict=True)
            if affinity[i, j] > 0
        }
        reached = []
        for j in range(len(masks[t + 1])):
            if j in partner:
                track = ending[partner[j]]
            else:
                track = []
                tracks.append(track)
            track.append((t + 1, j))
            reached.append(track)
        ending = reached
    return tracks


def _exclusive(masks: NDArray[np.bool_], scores: NDArray[np.float64]) -> Proposals:
    """Masks best score first, each shared pixel given to the best; those with none left go."""
    size = (masks.shape[1], masks.shape[2])
    order = np.argsort(-scores, kind="stable")
    exclusive = mask_ops.make_exclusive(masks[order], scores[order])
    visible = exclusive.any(axis=(1, 2))
    rles = mask_ops.encode_all(exclusive[visible])
    return Proposals(
        size, rles, scores[order][visible].astype(np.float32), mask_ops.boxes_xyxy(rles)
    )


def objects_an_image(instances: Mapping[int, Sequence[Rle]]) -> float:
    """The mean number of instances of a labelled image."""
    return float(np.mean([len(rles) for rles in instances.values()]))
