"""What a person is shown, what was decided, and how it is taken back."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gbopt_ros.io.overlay import draw_masks
from gbopt_ros.io.sources.images import encode_image, read_image
from gbopt_ros.learning.data.verdicts import StoredFrame, StoredMask, Verdict
from gbopt_ros.learning.store.store import Store
from gbopt_ros.masks import areas, boxes_xyxy
from gbopt_ros.structures import GboptError, Image, Rle

ORDERS = ("unsure", "newest")
VIEWS = ("mask", "plain", "zoom")
_ID_DIGITS = 24  # of the SHA-256 that names a mask on the page
_QUALITY = 90  # of a JPEG file
_MARGIN = 0.6  # around the box of a mask in the close-up, as a share of its longer side
_MIN_ZOOM = 64  # longer side of the close-up, pixels
_COLOUR, _OTHERS = 1, 0  # indices of `overlay.colour`


@dataclass(frozen=True)
class Question:
    """A mask that a person is asked about."""

    frame: StoredFrame
    mask: StoredMask

    @property
    def id(self) -> str:
        """A name for the page; the same mask of equal images has the same."""
        text = f"{self.frame.path.name} {self.mask.rle['counts']}"
        return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]

    def to_dict(self) -> dict[str, Any]:
        height, width = self.frame.size
        share = int(areas([self.mask.rle])[0]) / (height * width)
        return {
            "id": self.id,
            "image": self.frame.path.name,
            "recording": self.frame.recording,
            "clip": self.frame.clip_id,
            "frame": self.frame.frame_index,
            "model": self.frame.model_version,
            "confidence": self.mask.confidence,
            "score": self.mask.score,
            "track": self.mask.track_id,
            "share": share,
        }


class ReviewSession:
    """The verdicts of one person on the masks of a store, the last ones of which can be undone.

    Methods may be called from any thread. All verdicts go through `Store.judge`, so they are on the
    disk when it returns.

    Args:
        store: a store with a training set.

    Raises:
        GboptError: there is none.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._done: list[tuple[Question, Verdict]] = []  # with the verdict before
        with store.existing_training_set():
            pass

    @property
    def root(self) -> Path:
        return self._store.root

    def questions(self, order: str, count: int) -> list[Question]:
        """The masks to ask about next.

        Args:
            order, count: as of `TrainingSet.unjudged`.
        """
        with self._store.existing_training_set() as training_set:
            return [
                question
                for image, counts in training_set.unjudged(order, count)
                for question in _questions(training_set.frames(image), counts)[:1]
            ]

    def progress(self) -> dict[str, int]:
        """Numbers of masks by verdict, and how many verdicts can be taken back."""
        with self._store.existing_training_set() as training_set:
            counts = training_set.verdicts()
        numbers = {verdict.name.lower(): number for verdict, number in counts.items()}
        return numbers | {"undoable": len(self._done)}

    def judge(self, image: str, mask: str, verdict: Verdict) -> None:
        """Decide about a mask, named by its image and its id.

        Raises:
            GboptError: the store has no such mask any more, or cannot be written.
        """
        with self._lock:
            question = self.find(image, mask)
            before = self._store.judge(image, question.mask.rle["counts"], verdict)
            self._done.append((question, before))

    def undo(self) -> Question | None:
        """Take the last verdict back; returns the mask, None where there is nothing to undo.

        Raises:
            GboptError: the mask is gone. Then the verdict before that is the last one.
        """
        with self._lock:
            if not self._done:
                return None
            question, before = self._done.pop()
            self._store.judge(question.frame.path.name, question.mask.rle["counts"], before)
            return question

    def picture(self, image: str, mask: str, view: str) -> bytes:
        """A JPEG file of an image: with the mask, `plain`, or a close-up (`zoom`).

        Other masks of the image are outlined.

        Raises:
            GboptError: there is no such mask, or the image cannot be read.
        """
        question = self.find(image, mask)
        pixels = read_image(question.frame.path)
        if view != "plain":
            others = [m.rle for m in question.frame.selected if m.rle != question.mask.rle]
            pixels = draw_masks(pixels, others, alpha=0.0, colours=[_OTHERS] * len(others))
            alpha = 0.25 if view == "zoom" else 0.5
            pixels = draw_masks(pixels, [question.mask.rle], alpha=alpha, colours=[_COLOUR])
        if view == "zoom":
            pixels = _close_up(pixels, question.mask.rle)
        return encode_image(pixels, "jpeg", _QUALITY).tobytes()

    def find(self, image: str, mask: str) -> Question:
        """A mask by the name of its image and its id. Raises GboptError if it is not there."""
        with self._store.existing_training_set() as training_set:
            frames = training_set.frames(image)
        for question in _questions(frames):
            if question.id == mask:
                return question
        raise GboptError(f"{self.root}: the mask is gone; it was replaced or has left")


def _questions(frames: Sequence[StoredFrame], counts: str | None = None) -> list[Question]:
    """The masks of frames, or those with these run lengths."""
    masks = ((frame, mask) for frame in frames for mask in frame.masks)
    return [Question(f, m) for f, m in masks if counts is None or m.rle["counts"] == counts]


def _close_up(pixels: Image, rle: Rle) -> Image:
    """The surroundings of a mask."""
    x0, y0, x1, y1 = boxes_xyxy([rle])[0]
    side = max((1 + _MARGIN) * max(x1 - x0, y1 - y0), _MIN_ZOOM)
    (left, right), (top, bottom) = (
        np.clip(np.rint([(low + high - side) / 2, (low + high + side) / 2]), 0, size).astype(int)
        for low, high, size in ((x0, x1, pixels.shape[1]), (y0, y1, pixels.shape[0]))
    )
    return np.ascontiguousarray(pixels[top:bottom, left:right])
