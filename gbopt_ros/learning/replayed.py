"""The frames and masks of a replay's output, as a training set takes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gbopt_ros.learning.training_set import SelectedFrame
from gbopt_ros.masks import is_consistent
from gbopt_ros.structures import GboptError, Rle


def read_replay(folder: Path) -> Iterator[SelectedFrame]:
    """The frames of a replay's output: `selected.json` and `frames/`.

    Raises:
        GboptError: the folder is not a complete replay output.
    """
    path = folder / "selected.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        recording = f"{folder.resolve().name}/{content['info']['recording']}"
        by_image: dict[int, list[dict[str, Any]]] = {}
        for annotation in content["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        frames = [
            _replayed(folder, recording, image, by_image.get(image["id"], []))
            for image in content["images"]
        ]
    except FileNotFoundError as error:
        raise GboptError(f"{path}: not found; expected the output of `gbopt replay`") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GboptError(f"{path}: not the output of `gbopt replay` ({error!r})") from error
    for frame in frames:
        if not frame.image_path.is_file():
            raise GboptError(f"{frame.image_path}: frame of the replay output is missing")
        yield frame


def _replayed(
    folder: Path, recording: str, image: dict[str, Any], annotations: list[dict[str, Any]]
) -> SelectedFrame:
    size = (int(image["height"]), int(image["width"]))
    rles = tuple(
        Rle(size=list(a["segmentation"]["size"]), counts=str(a["segmentation"]["counts"]))
        for a in annotations
    )
    for rle in rles:
        if tuple(rle["size"]) != size:
            raise ValueError(f"image {image['id']}: mask of size {rle['size']}, expected {size}")
        if not is_consistent(rle):
            raise ValueError(
                f"frame {image['frame_index']}: run lengths of a mask do not fill {size}"
            )
    return SelectedFrame(
        recording=recording,
        clip_id=int(image["clip_id"]),
        frame_index=int(image["frame_index"]),
        stamp_ns=int(image["stamp_ns"]),
        image_path=folder / "frames" / image["file_name"],
        size=size,
        rles=rles,
        scores=tuple(float(a["score"]) for a in annotations),
        confidences=tuple(float(a["confidence"]) for a in annotations),
    )
