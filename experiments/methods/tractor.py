"""TWB: Bergmann, Meinhardt, Leal-Taixe, "Tracking Without Bells and Whistles" (ICCV 2019).

The box head of the detector tracks: boxes of the last frame, moved by the camera's motion, are
regressed on this frame and scored again. Detections that no track covers begin new tracks.

Constants of the paper and of the authors' configuration of 2019:

- A detection is left out where it overlaps a better one or a track by an IoU above 0.3; of two
  tracks that overlap by more than 0.6, the one with the better score goes on.
- Camera motion is a rotation and a shift, by maximisation of the enhanced correlation coefficient
  (ECC, Evangelidis and Psarakis 2008) with at most 100 iterations, or until it gains under 1e-5.
- A lost track is found again for 10 frames, by a detection that overlaps its box by an IoU of 0.2
  and looks alike. A track's appearance is the mean of its last 10.

Scores count from 0.1, in place of 0.5, as in Du et al. (App. D.2.3), whose Table 1 this row is of.

Where we depart:

- Boxes, scores and masks are those of our Mask R-CNN: the mask head segments the tracked boxes. It
  needs torchvision's heads (`features.require_torchvision`).
- Appearance is the mean of the network's pyramid under the mask, in place of a re-identification
  network, and alike is a cosine similarity of 0.9: on two YCB-Video scenes, one object had 0.96 or
  more with itself five frames later, and two objects had 0.83 or less.
- Where ECC does not converge, such as on images without texture, the camera counts as still.
- A mask has the score of its box in its frame; shared pixels go to the better mask.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou, nms

from experiments.methods.contract import Inputs, without_overlap
from experiments.methods.features import Pyramid, masks_in, pyramids, regress
from gbopt_ros.models.detection import DetectionNetwork
from gbopt_ros.structures import Image, Proposals

MIN_SCORE = 0.1
DETECTION_NMS, TRACK_NMS = 0.3, 0.6
PATIENCE = 10  # frames
REID_IOU = 0.2
MIN_SIMILARITY = 0.9
APPEARANCES = 10
ECC_ITERATIONS, ECC_EPSILON = 100, 1e-5

Boxes = NDArray[np.float32]
"""(N, 4) float32, xyxy pixels."""


@dataclass(eq=False)
class Track:
    """One tracked object.

    Attributes:
        box: (4,) xyxy pixels in the present frame, as regressed, or carried along while lost.
        score: of the box head.
        missed: number of frames since it was lost.
        looks: the last appearances, (D,) each.
    """

    box: Boxes
    score: float
    missed: int = 0
    looks: deque[NDArray[np.float32]] = field(default_factory=lambda: deque(maxlen=APPEARANCES))

    def see(self, box: Boxes, score: float, look: NDArray[np.float32]) -> None:
        """Take a detection of it in the present frame."""
        self.box, self.score, self.missed = box, score, 0
        self.looks.append(look)


class Tractor:
    """Tracktor++ with our own heads."""

    label = "TWB (re-identification by the network's own pyramid)"

    def masks(self, inputs: Inputs) -> list[Proposals]:
        """T times the masks of what is tracked; raises GboptError as `require_torchvision`."""
        tracker = Tracker(inputs.network)
        before: Image | None = None
        found = []
        for image, pyramid, proposals in zip(
            inputs.images, pyramids(inputs.network, inputs.images), inputs.proposals, strict=True
        ):
            if before is not None:
                tracker.move(camera_motion(before, image))
            found.append(tracker.step(pyramid, proposals))
            before = image
        return found


class Tracker:
    """The tracks of a clip up to the present frame.

    Attributes:
        active, lost: tracks.
    """

    def __init__(self, network: DetectionNetwork) -> None:
        self._network = network
        self.active: list[Track] = []
        self.lost: list[Track] = []

    def move(self, motion: NDArray[np.float32]) -> None:
        """Carry all boxes along with the camera.

        Args:
            motion: (2, 3) affine map of pixels of the last frame to this one.
        """
        for track in (*self.active, *self.lost):
            corners = np.append(track.box.reshape(2, 2), np.ones((2, 1), np.float32), axis=1)
            track.box = (corners @ motion.T).reshape(4).astype(np.float32)

    def step(self, pyramid: Pyramid, proposals: Proposals) -> Proposals:
        """Take the next frame; returns the masks of the active tracks."""
        self._follow(pyramid)
        boxes, scores = uncovered(proposals, boxes_of(self.active))
        masks = masks_in(self._network, pyramid, np.concatenate([boxes_of(self.active), boxes]))
        looks = pyramid.means(masks)
        followed = len(self.active)
        for track, look in zip(self.active, looks[:followed], strict=True):
            track.looks.append(look)
        recognised = recognise(self.lost, boxes, looks[followed:])
        self.lost = [track for track in self.lost if track not in recognised.values()]
        for i, (box, score) in enumerate(zip(boxes, scores, strict=True)):
            track = recognised.get(i) or Track(box, float(score))
            track.see(box, float(score), looks[followed + i])
            self.active.append(track)
        for track in self.lost:
            track.missed += 1
        self.lost = [track for track in self.lost if track.missed <= PATIENCE]
        return without_overlap(masks, np.array([track.score for track in self.active]))

    def _follow(self, pyramid: Pyramid) -> None:
        """Regress the boxes of the active tracks; those that fail are lost where they were."""
        boxes, scores = regress(self._network, pyramid, boxes_of(self.active))
        sides = boxes[:, 2:] - boxes[:, :2]
        good = np.flatnonzero((scores > MIN_SCORE) & (sides > 0).all(axis=1))
        kept = good[_nms(boxes[good], scores[good], TRACK_NMS)]
        self.lost += [track for i, track in enumerate(self.active) if i not in kept]
        self.active = [self.active[i] for i in kept]
        for i, track in zip(kept, self.active, strict=True):
            track.box, track.score = boxes[i], float(scores[i])


def boxes_of(tracks: Sequence[Track]) -> Boxes:
    """(N, 4) the boxes of tracks."""
    return np.array([track.box for track in tracks], np.float32).reshape(-1, 4)


def uncovered(proposals: Proposals, tracked: Boxes) -> tuple[Boxes, NDArray[np.float32]]:
    """Boxes and scores of the detections that overlap neither a track nor a better detection."""
    sure = proposals.scores > MIN_SCORE
    boxes, scores = proposals.boxes[sure], proposals.scores[sure]
    free = ~(_iou(boxes, tracked) > DETECTION_NMS).any(axis=1)
    boxes, scores = boxes[free], scores[free]
    kept = _nms(boxes, scores, DETECTION_NMS)
    return boxes[kept], scores[kept]


def recognise(lost: Sequence[Track], boxes: Boxes, looks: NDArray[np.float32]) -> dict[int, Track]:
    """The lost tracks that detections continue, by the index of the detection.

    Args:
        boxes: (N, 4) of the detections.
        looks: (N, D) their appearances.
    """
    if not lost or len(boxes) == 0:
        return {}
    known = _unit(np.array([np.mean(track.looks, axis=0) for track in lost]))
    similarity = known @ _unit(looks).T  # (lost, N)
    similarity[_iou(boxes_of(lost), boxes) < REID_IOU] = 0.0
    pairs = zip(*linear_sum_assignment(similarity, maximize=True), strict=True)
    return {int(n): lost[m] for m, n in pairs if similarity[m, n] >= MIN_SIMILARITY}


def camera_motion(first: Image, second: Image) -> NDArray[np.float32]:
    """(2, 3) rotation and shift of the pixels of one image to the next; identity where unknown."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ECC_ITERATIONS, ECC_EPSILON)
    still = np.eye(2, 3, dtype=np.float32)
    try:
        _, motion = cv2.findTransformECC(*grey, still.copy(), cv2.MOTION_EUCLIDEAN, criteria)
    except cv2.error:
        return still
    return np.asarray(motion, np.float32)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _iou(first: Boxes, second: Boxes) -> NDArray[np.float32]:
    return box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()


def _nms(boxes: Boxes, scores: NDArray[np.float32], iou: float) -> NDArray[np.int64]:
    return nms(torch.from_numpy(boxes), torch.from_numpy(scores), iou).numpy()
