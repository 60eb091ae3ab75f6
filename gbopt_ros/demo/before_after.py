"""The same recording before and after learning: what was selected, and what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gbopt_ros.config import TrackConfig
from gbopt_ros.evaluation.report_content import FoundMask, FramePair, SelectionNumbers
from gbopt_ros.evaluation.tracks import ScoredMasks, link_tracks
from gbopt_ros.io.json_file import Fields
from gbopt_ros.io.overlay import OVERLAY_FPS, OverlayWriter, draw_masks
from gbopt_ros.io.selection_format import SelectedFrame, read_selection
from gbopt_ros.io.sources import open_source
from gbopt_ros.io.sources.images import read_image
from gbopt_ros.masks import boxes_xyxy, iou_matrix
from gbopt_ros.structures import Image, Rle
from gbopt_ros.tracks import TrackLinker

MATCH_IOU = 0.5  # smallest IoU of two masks of the same object
_PAIRS = 6  # frames in the report that are shown before and after
_SHOWN = 12  # new masks in the report
_CROP = 320  # width of their pictures, pixels
_CONTEXT = 2.0  # their size, in sizes of the mask
_MIN_CROP = 96  # and their smallest size, pixels of the frame
_BAR = 28  # height of the bar above the overlay, pixels


@dataclass(frozen=True)
class Replay:
    """The masks that one network selects in the recording, read from disk.

    Attributes:
        frames: by frame index, in the order of the recording.
        clips: entries of `run.json`: `clip_id`, `frames`, `energy`, `optimal`.
    """

    frames: Mapping[int, SelectedFrame] = field(repr=False)
    clips: Sequence[Mapping[str, Any]] = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> Replay:
        """Raises GboptError if the folder is no complete replay."""
        frames = {frame.frame_index: frame for frame in read_selection(folder)}
        clips = [
            {name: clip.integer(name) for name in ("clip_id", "frames")}
            | {"energy": clip.number("energy"), "optimal": clip.flag("optimal")}
            for clip in Fields.read(folder / "run.json").objects("clips")
        ]
        return cls(frames, clips)

    @property
    def masks(self) -> int:
        """Number of masks."""
        return sum(len(frame.rles) for frame in self.frames.values())

    @property
    def numbers(self) -> SelectionNumbers:
        """What the charts of the report show."""
        return SelectionNumbers(
            confidences=tuple(c for frame in self.frames.values() for c in frame.confidences),
            masks=tuple(len(frame.rles) for frame in self.frames.values()),
            energies=tuple((clip["energy"], clip["optimal"]) for clip in self.clips),
        )


@dataclass(frozen=True)
class Unmatched:
    """A mask of one replay that has no counterpart in another."""

    frame_index: int
    stamp_ns: int
    rle: Rle = field(repr=False)
    confidence: float


def unmatched(replay: Replay, other: Replay, iou: float = MATCH_IOU) -> list[Unmatched]:
    """The masks of a replay without a counterpart in the other, the most confident one first.

    A counterpart is a mask of the same frame with at least this IoU.
    """
    found = []
    for index, frame in replay.frames.items():
        others = other.frames[index].rles if index in other.frames else ()
        best = iou_matrix(frame.rles, others).max(axis=1, initial=0.0)  # (S,)
        found += [
            Unmatched(index, frame.stamp_ns, frame.rles[i], frame.confidences[i])
            for i in np.flatnonzero(best < iou)
        ]
    return sorted(found, key=lambda mask: -mask.confidence)


def most_confident_of_tracks(found: Sequence[Unmatched]) -> list[tuple[Unmatched, int]]:
    """The most confident mask of each track with the track's number of masks, best first.

    An object that stays in view is new in many frames; it is shown once.
    """
    frames, by_place = list[ScoredMasks](), dict[tuple[int, str], Unmatched]()
    ordered = sorted(found, key=lambda mask: mask.frame_index)
    for place, (_, group) in enumerate(groupby(ordered, lambda mask: mask.frame_index)):
        masks = list(group)
        rles, confidences = [m.rle for m in masks], [m.confidence for m in masks]
        frames.append(ScoredMasks(masks[0].stamp_ns, rles, confidences))
        by_place |= {(place, mask.rle["counts"]): mask for mask in masks}
    best = []
    for track in link_tracks(frames, TrackConfig(max_tracks=254)):
        masks = [by_place[place, rle["counts"]] for place, rle in track.rles.items()]
        best.append((max(masks, key=lambda mask: mask.confidence), len(masks)))
    return sorted(best, key=lambda pair: -pair[0].confidence)


def picture_found(after: Replay, found: Sequence[Unmatched]) -> tuple[FoundMask, ...]:
    """The first new masks, each in its surroundings."""
    pictures = []
    for mask, count in most_confident_of_tracks(found)[:_SHOWN]:
        image = draw_masks(_image(after, mask.frame_index), [mask.rle], alpha=0.35)
        caption = f"frame {mask.frame_index}, confidence {mask.confidence:.2f}"
        if count > 1:
            caption += f", new in {count} frames"
        pictures.append(FoundMask(caption, crop_around(image, boxes_xyxy([mask.rle])[0])))
    return tuple(pictures)


def crop_around(image: Image, box: Sequence[float] | np.ndarray) -> Image:
    """The surroundings of a box in the image's own proportions, `_CROP` pixels wide.

    Args:
        image: (H, W, 3) uint8.
        box: xyxy pixels.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (float(v) for v in box)
    share = max(_CONTEXT * (x1 - x0) / width, _CONTEXT * (y1 - y0) / height, _MIN_CROP / width)
    crop_width, crop_height = (round(min(1.0, share) * side) for side in (width, height))
    left = int(np.clip((x0 + x1 - crop_width) / 2, 0, width - crop_width))
    top = int(np.clip((y0 + y1 - crop_height) / 2, 0, height - crop_height))
    crop = image[top : top + crop_height, left : left + crop_width]
    size = (_CROP, max(1, round(_CROP * height / width)))
    method = cv2.INTER_AREA if crop_width > _CROP else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(crop, size, interpolation=method), np.uint8)


def picture_pairs(before: Replay, after: Replay | None) -> tuple[FramePair, ...]:
    """Evenly spaced frames with the masks of both replays; a mask keeps its colour."""
    indices = list(before.frames)
    chosen = np.linspace(0, len(indices) - 1, min(_PAIRS, len(indices)))
    pairs = []
    for index in sorted({indices[round(place)] for place in chosen}):
        image, linker = _image(before, index), TrackLinker(MATCH_IOU)
        drawn, counts = [], []
        for turn, replay in enumerate((before, after)):
            if replay is None:
                continue
            frame = replay.frames[index]
            labels = [f"{confidence:.2f}" for confidence in frame.confidences]
            drawn.append(
                draw_masks(image, frame.rles, labels, colours=linker.link(frame.rles, turn))
            )
            counts.append(str(len(frame.rles)))
        caption = f"frame {index}: {' and '.join(counts)} masks"
        pairs.append(FramePair(caption, drawn[0], drawn[1] if after is not None else None))
    return tuple(pairs)


def write_overlay(path: Path, before: Path, after: Path) -> None:
    """Join the overlays of two replays side by side.

    Args:
        before, after: folders of replays of the same frames.
    """
    with OverlayWriter(path, OVERLAY_FPS) as overlay:
        videos = (open_source(folder / "overlay.mp4") for folder in (before, after))
        for first, second in zip(*videos, strict=True):
            titled = (_titled(first.image, "before"), _titled(second.image, "after"))
            overlay.write(np.concatenate(titled, axis=1))


def _titled(image: Image, title: str) -> Image:
    """The image with a word above it."""
    taller = cv2.copyMakeBorder(image, _BAR, 0, 0, 0, cv2.BORDER_CONSTANT, value=(20, 23, 27))
    at, font, white = (8, _BAR - 9), cv2.FONT_HERSHEY_SIMPLEX, (255, 255, 255)
    return np.asarray(cv2.putText(taller, title, at, font, 0.55, white, 1, cv2.LINE_AA), np.uint8)


def _image(replay: Replay, index: int) -> Image:
    return read_image(replay.frames[index].image_path)
