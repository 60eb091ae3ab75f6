"""The selection format, written and read: the output folder of `gbopt replay`.

OUT/selected.json   a COCO dataset of the selected masks
OUT/frames/         one JPEG a frame, named by its index in the recording
OUT/overlay.mp4     the masks drawn on the frames
OUT/run.json        configuration, versions, seconds, counts, energies
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from gbopt_ros import masks as mask_ops
from gbopt_ros.io.datasets.coco import CATEGORY
from gbopt_ros.io.files import abandon, replacing_folder, unwritable
from gbopt_ros.io.overlay import ColourTracker, OverlayWriter, draw_masks
from gbopt_ros.io.sources.images import encode_image
from gbopt_ros.masks import is_consistent
from gbopt_ros.structures import FrameSelection, GboptError, Rle, Selection

SELECTION_NAME = "selected.json"
_JPEG_QUALITY = 95
_OVERLAY_SIDE = 640  # longest side of the overlay, pixels
_PACKAGES = ("gbopt_ros", "torch", "torchvision", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class SelectedFrame:
    """A frame with its selected masks, read from disk or about to enter the training set.

    Attributes:
        image_path: an image file; its bytes are copied as they are.
        size: (height, width) in pixels.
        rles, scores, confidences: one entry a mask.
        model_version: version of the network that proposed the masks, "" if it is not known.
    """

    recording: str
    clip_id: int
    frame_index: int
    stamp_ns: int
    image_path: Path
    size: tuple[int, int]
    rles: tuple[Rle, ...]
    scores: tuple[float, ...]
    confidences: tuple[float, ...]
    model_version: str = ""


class SelectionWriter:
    """Writes `selected.json`, `frames/`, `overlay.mp4` and `run.json`, clip by clip.

    A context manager. Entries go to disk at once, so memory does not grow with the recording.
    The folder appears when `finish` has been called; after a failure nothing is left.

    Args:
        out: must not exist, or be an empty folder.
        recording: name of the recording.
        frames_per_second: speed of the overlay.
        overlay: whether to write `overlay.mp4`.

    Raises:
        GboptError: on entering, `out` holds something; later, it cannot be written.

    Attributes:
        frames, masks: what was written so far.
    """

    def __init__(
        self, out: Path, recording: str, frames_per_second: float = 10.0, *, overlay: bool = True
    ) -> None:
        self._out, self._recording, self._fps = out, recording, frames_per_second
        self._draws = overlay
        self._overlay: OverlayWriter | None = None
        self._colours = ColourTracker()
        self._clips: list[dict[str, Any]] = []
        self._last_index = -1
        self._started = time.time()
        self.frames = self.masks = 0

    def __enter__(self) -> SelectionWriter:
        with ExitStack() as files:
            self._folder = files.enter_context(replacing_folder(self._out))
            (self._folder / "frames").mkdir(parents=True)
            self._parts = {
                name: files.enter_context(self._part(name).open("w", encoding="utf-8"))
                for name in ("images", "annotations")
            }
            self._files = files.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        abandon(self._files)  # after `finish` it is empty

    def add(self, selection: Selection) -> None:
        """Write a clip. Frames that an earlier clip held already keep its decision."""
        with self._writing():
            for frame in selection.frames:
                if frame.frame.index > self._last_index:
                    self._add_frame(selection, frame)
                    self._last_index = frame.frame.index
        names = ("clip_id", "energy", "lower_bound", "optimal", "flow_runs", "model_version")
        facts = {name: getattr(selection, name) for name in names}
        self._clips.append(facts | {"frames": len(selection), "masks": selection.mask_count})

    def finish(self, **facts: Any) -> None:
        """Complete the files and give the folder its name.

        Args:
            facts: added to `run.json`.
        """
        with self._writing():
            self._join_parts()
            run = json.dumps(self._run(facts), indent=2)
            (self._folder / "run.json").write_text(run, encoding="utf-8")
            self._files.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Errors name `out`, not the temporary folder."""
        try:
            yield
        except OSError as error:
            raise unwritable(self._out, error) from error
        except GboptError as error:
            raise GboptError(str(error).replace(str(self._folder), str(self._out))) from error

    def _part(self, name: str) -> Path:
        """Entries of `selected.json`, one a line, before they are joined."""
        return self._folder / f"{name}.part"

    def _add_frame(self, selection: Selection, selected: FrameSelection) -> None:
        frame = selected.frame
        name = f"{frame.index:06d}.jpg"
        height, width = frame.size
        jpeg = encode_image(frame.image, "jpeg", _JPEG_QUALITY)
        (self._folder / "frames" / name).write_bytes(jpeg.tobytes())
        self.frames += 1
        image = {
            "id": self.frames,
            "file_name": name,
            "height": height,
            "width": width,
            "frame_index": frame.index,
            "stamp_ns": frame.stamp_ns,
            "frame_id": frame.frame_id,
            "clip_id": selection.clip_id,
            "model_version": selection.model_version,
            "energy": vars(selected.energy),
        }
        _append(self._parts["images"], image, first=self.frames == 1)
        for i in range(len(selected.rles)):
            self.masks += 1
            entry = self._annotation(selected, i)
            _append(self._parts["annotations"], entry, first=self.masks == 1)
        if self._draws:
            self._draw(selected)

    def _draw(self, selected: FrameSelection) -> None:
        """Add a frame to the overlay."""
        frame = selected.frame
        height, width = frame.size
        if self._overlay is None:
            # Encoding is the slowest part of a replay of large images.
            scale = min(1.0, _OVERLAY_SIDE / max(height, width))
            size = (round(height * scale), round(width * scale))
            overlay = OverlayWriter(self._folder / "overlay.mp4", self._fps, size)
            self._overlay = self._files.enter_context(overlay)
        labels = [f"{c:.2f}" for c in selected.confidences]
        colours = self._colours.colours(selected.rles)
        self._overlay.write(draw_masks(frame.image, selected.rles, labels, colours=colours))

    def _annotation(self, selected: FrameSelection, i: int) -> dict[str, Any]:
        x0, y0, x1, y1 = (float(v) for v in selected.boxes[i])
        return {
            "id": self.masks,
            "image_id": self.frames,
            "category_id": CATEGORY["id"],
            "iscrowd": 0,
            "segmentation": selected.rles[i],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": int(mask_ops.areas([selected.rles[i]])[0]),
            "score": float(selected.scores[i]),
            "confidence": float(selected.confidences[i]),
            "margin": float(selected.margins[i]),
            "proposal": selected.indices[i],
        }

    def _join_parts(self) -> None:
        """Assemble `selected.json` from the entries on disk, without reading them into memory."""
        info = {"description": "masks selected by gbopt_ros", "recording": self._recording}
        with (self._folder / SELECTION_NAME).open("w", encoding="utf-8") as target:
            target.write(f'{{"info": {json.dumps(info)}, "categories": [{json.dumps(CATEGORY)}]')
            for name, part in self._parts.items():
                part.close()
                target.write(f',\n"{name}": [')
                with self._part(name).open(encoding="utf-8") as entries:
                    shutil.copyfileobj(entries, target)
                target.write("]")
                self._part(name).unlink()
            target.write("}\n")

    def _run(self, facts: dict[str, Any]) -> dict[str, Any]:
        return {
            "recording": self._recording,
            "started": self._started,
            "wall_seconds": time.time() - self._started,
            "counts": {
                "clips": len(self._clips),
                "frames": self.frames,
                "masks": self.masks,
                "flow_runs": sum(clip["flow_runs"] for clip in self._clips),
            },
            "peak_memory_bytes": peak_memory(),
            "versions": versions(),
            "clips": self._clips,
        } | facts


def read_selection(folder: Path) -> Iterator[SelectedFrame]:
    """The frames that a `SelectionWriter` wrote below `folder`.

    Raises:
        GboptError: the folder is not a complete replay output.
    """
    path = folder / SELECTION_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        recording = f"{folder.resolve().name}/{content['info']['recording']}"
        by_image: dict[int, list[dict[str, Any]]] = {}
        for annotation in content["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        frames = [
            _frame(folder, recording, image, by_image.get(image["id"], []))
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


def _frame(
    folder: Path, recording: str, image: dict[str, Any], annotations: list[dict[str, Any]]
) -> SelectedFrame:
    size = (int(image["height"]), int(image["width"]))
    rles = tuple(
        Rle(size=list(a["segmentation"]["size"]), counts=str(a["segmentation"]["counts"]))
        for a in annotations
    )
    name = f"frame {image['frame_index']}"
    for rle in rles:
        if tuple(rle["size"]) != size:
            raise ValueError(f"{name}: mask of size {rle['size']}, expected {size}")
        if not is_consistent(rle):
            raise ValueError(f"{name}: run lengths of a mask do not fill {size}")
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
        model_version=str(image.get("model_version", "")),
    )


def _append(target: TextIO, entry: dict[str, Any], *, first: bool) -> None:
    target.write(("\n" if first else ",\n") + json.dumps(entry))


def peak_memory() -> int:
    """Largest resident size of this process so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
