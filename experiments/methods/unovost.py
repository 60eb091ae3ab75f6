"""UnOVOST: Luiten, Zulfikar, Leibe, "Unsupervised Offline Video Object Segmentation and Tracking"
(WACV 2020), the winner of the DAVIS 2019 unsupervised challenge.

Constants are those of the authors' public code (`configs/unovost.yaml`, `tracker/`):

- Of proposals with a mask IoU of 0.2 or more, the one with the better score stays (`overlap: 0.2`).
- Masks of consecutive frames are linked to tracklets one to one, for the largest sum of flow-warped
  IoUs, where the IoU is above 0.05 (`opt_flow: 0.05`, `optimization: hungarian`).
- Tracklets have the mean embedding of their masks. The distance of two is that of their embeddings,
  divided by the largest of the clip.
- Each tracklet follows the nearest one that ended before it. If that one was followed by the second
  nearest already, it follows the second nearest. That makes a forest of hypotheses.
- The forest is cut into paths, best first: of the paths from one root, the one with the largest
  0.9 cover + 0.1 similarity becomes a track, and leaves the others without their common beginning.
  Cover is the length as a share of the clip, similarity the best of two tracklets of the path.
- The 20 best tracks stay, as many as DAVIS allows.

Where we depart:

- Proposals and embeddings are those of our Mask R-CNN: features of its pyramid, averaged under the
  mask, in place of a re-identification network.
- Masks are warped by backward flow, which leaves no holes.
- The code weights the scores of a track's tracklets by running lengths. Here a track's score is the
  sum of the scores of its masks, divided by the length of the clip to lie in [0, 1]. All masks of a
  track have that score.
- Shared pixels go to the better track; the code paints the worse one over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from experiments.methods.contract import Inputs, without_overlap
from experiments.methods.features import pyramids
from gbopt_ros import masks as mask_ops
from gbopt_ros.structures import BoolMask, Proposals

MAX_OVERLAP = 0.2
MIN_LINK_IOU = 0.05
COVER_WEIGHT, SIMILARITY_WEIGHT = 0.9, 0.1
MAX_TRACKS = 20


@dataclass
class Tracklet:
    """Masks of consecutive frames that flow links.

    Attributes:
        start: its first frame.
        masks: index of its mask in each of its frames.
        embedding: (D,) mean of its masks.
        parent: the tracklet that it follows, None for a root.
    """

    start: int
    masks: list[int]
    embedding: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    parent: int | None = None

    @property
    def end(self) -> int:
        """Its last frame."""
        return self.start + len(self.masks) - 1


Path = tuple[int, ...]
"""Indices of tracklets, in the order of time."""


class UnOvost:
    """UnOVOST on the proposals of the inputs."""

    label = "UnOVOST (features: the network's own pyramid)"

    def masks(self, inputs: Inputs) -> list[Proposals]:
        """T times the masks of tracks; raises GboptError as `features.require_torchvision`."""
        kept = [best_of_overlapping(found) for found in inputs.proposals]
        masks = [mask_ops.decode_all(found.rles, found.size) for found in kept]
        embeddings = [
            pyramid.means(found)
            for pyramid, found in zip(pyramids(inputs.network, inputs.images), masks, strict=True)
        ]
        tracklets = link(masks, inputs.backward_flows)
        for each in tracklets:
            frames = enumerate(each.masks, each.start)
            each.embedding = np.mean([embeddings[t][i] for t, i in frames], axis=0)
        distances = normalised_distances(tracklets)
        grow_forest(tracklets, distances)
        paths = cut(paths_of(tracklets), tracklets, distances, len(masks))
        scores = [track_scores(path, tracklets, kept) for path in paths]
        best = sorted(range(len(paths)), key=lambda track: -scores[track])[:MAX_TRACKS]
        chosen: list[list[tuple[int, float]]] = [[] for _ in masks]  # mask and score, by frame
        for track in best:
            for t, i in links_of(paths[track], tracklets):
                chosen[t].append((i, scores[track]))
        return [
            without_overlap(
                found[[i for i, _ in of_frame]], np.array([score for _, score in of_frame])
            )
            for found, of_frame in zip(masks, chosen, strict=True)
        ]


class UnOvostPlus(UnOvost):
    """UnOVOST on the masks that our method selects, which the caller gives as the proposals."""

    label = "UnOVOST+ (of the masks selected by ours)"


def best_of_overlapping(proposals: Proposals) -> Proposals:
    """Greedy non-maximum suppression of masks by their IoU."""
    ious = mask_ops.iou_matrix(proposals.rles, proposals.rles)
    kept: list[int] = []
    for i in range(len(proposals)):
        if not np.any(ious[i, kept] >= MAX_OVERLAP):
            kept.append(i)
    rles = tuple(proposals.rles[i] for i in kept)
    return Proposals(proposals.size, rles, proposals.scores[kept], proposals.boxes[kept])


def warp(masks: NDArray[np.bool_], backward: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N, H, W) masks of a frame as the next one sees them: mask(x + flow(x)), nearest pixel.

    Args:
        backward: (H, W, 2) pixels, from the next frame to this one.
    """
    height, width = backward.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + backward[..., 0], y + backward[..., 1]

    def of_one(mask: BoolMask) -> BoolMask:
        return cv2.remap(mask.astype(np.uint8), x, y, cv2.INTER_NEAREST).astype(bool)

    return np.array([of_one(mask) for mask in masks], bool).reshape(-1, height, width)


def link(masks: Sequence[NDArray[np.bool_]], backward_flows: NDArray[np.float32]) -> list[Tracklet]:
    """Tracklets in the order of their first frames; every mask is in exactly one.

    Args:
        masks: T arrays (n, H, W).
        backward_flows: (T - 1, H, W, 2) pixels, from each frame but the first to the one before.
    """
    tracklets = [Tracklet(0, [i]) for i in range(len(masks[0]))]
    reaching = list(tracklets)  # the present frame, by the index of their mask there
    for t, backward in enumerate(backward_flows, 1):
        ious = mask_ops.iou_matrix(
            mask_ops.encode_all(warp(masks[t - 1], backward)), mask_ops.encode_all(masks[t])
        )
        pairs = zip(*linear_sum_assignment(ious, maximize=True), strict=True)
        continued = {int(j): reaching[i] for i, j in pairs if ious[i, j] > MIN_LINK_IOU}
        for j, each in continued.items():
            each.masks.append(j)
        new = {j: Tracklet(t, [j]) for j in range(len(masks[t])) if j not in continued}
        tracklets += new.values()
        reaching = [(continued | new)[j] for j in range(len(masks[t]))]
    return tracklets


def normalised_distances(tracklets: Sequence[Tracklet]) -> NDArray[np.float64]:
    """(M, M) Euclidean distances of embeddings, the largest of them 1; all 0 where all agree."""
    if not tracklets:
        return np.zeros((0, 0))
    embeddings = np.array([each.embedding for each in tracklets], np.float64)
    distances = np.linalg.norm(embeddings[:, None] - embeddings[None], axis=2)
    return distances / (distances.max() or 1.0)


def grow_forest(tracklets: Sequence[Tracklet], distances: NDArray[np.float64]) -> None:
    """Set the parent of every tracklet that begins after the end of another one."""
    order = sorted(range(len(tracklets)), key=lambda m: (tracklets[m].start, tracklets[m].end))
    for m in order:
        before = [n for n in order if tracklets[n].end < tracklets[m].start]
        nearest = sorted(before, key=lambda n: distances[m, n])[:2]
        # A continuation of the nearest is a better end of the same hypothesis.
        if len(nearest) == 2 and tracklets[nearest[1]].parent == nearest[0]:
            nearest.reverse()
        tracklets[m].parent = nearest[0] if nearest else None


def paths_of(tracklets: Sequence[Tracklet]) -> list[Path]:
    """The paths of the forest, from its roots to its leaves."""
    inner = {each.parent for each in tracklets}
    paths = []
    for leaf in range(len(tracklets)):
        if leaf not in inner:
            path, m = [leaf], tracklets[leaf].parent
            while m is not None:
                path.append(m)
                m = tracklets[m].parent
            paths.append(tuple(reversed(path)))
    return paths


def cut(
    paths: Sequence[Path],
    tracklets: Sequence[Tracklet],
    distances: NDArray[np.float64],
    frames: int,
) -> list[Path]:
    """Cut a forest into tracks: every tracklet is in exactly one.

    Args:
        paths: from roots to leaves.
        distances: (M, M) normalised.
        frames: length of the clip.
    """

    def worth(path: Path) -> tuple[float, int]:
        cover = sum(len(tracklets[m].masks) for m in path) / frames
        pairs = [1 - distances[m, n] for k, m in enumerate(path) for n in path[k + 1 :]]
        score = COVER_WEIGHT * cover + SIMILARITY_WEIGHT * max(pairs, default=0.0)
        return float(score), tracklets[path[-1]].end  # the later end of equals

    tracks, remaining = [], list(paths)
    while remaining:
        root = remaining[0][0]
        best = max((path for path in remaining if path[0] == root), key=worth)
        tracks.append(best)
        rest = [path[_common(path, best) :] for path in remaining]
        remaining = [path for path in rest if path]
    return tracks


def _common(path: Path, best: Path) -> int:
    """Number of tracklets that two paths begin with in common."""
    same = [m == n for m, n in zip(path, best, strict=False)]
    return same.index(False) if False in same else len(same)


def links_of(path: Path, tracklets: Sequence[Tracklet]) -> list[tuple[int, int]]:
    """Frame and mask of everything that a track holds."""
    return [link for m in path for link in enumerate(tracklets[m].masks, tracklets[m].start)]


def track_scores(
    path: Path, tracklets: Sequence[Tracklet], proposals: Sequence[Proposals]
) -> float:
    """The sum of the scores of a track's masks as a share of the clip."""
    total = sum(float(proposals[t].scores[i]) for t, i in links_of(path, tracklets))
    return total / len(proposals)
