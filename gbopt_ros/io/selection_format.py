"""Selected masks on disk, written and read: what `gbopt replay` leaves behind.

OUT/selected.json   a COCO dataset of the selected masks
OUT/frames/         one JPEG a frame, named by its index in the recording
OUT/overlay.mp4     the masks drawn on the frames
OUT/run.json        configuration, versions, seconds, counts, energies
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import cv2

from gbopt_ros import masks as mask_ops
from gbopt_ros.io.datasets.coco import CATEGORY
from gbopt_ros.io.overlay import ColourTracker, OverlayWriter, draw_masks
from gbopt_ros.masks import is_consistent
from gbopt_ros.structures import FrameSelection, GboptError, Rle, Selection

_JPEG_QUALITY = 95
_OVERLAY_SIDE = 640  # the overlay is scaled down to it, pixels
_PACKAGES = ("gbopt_ros", "torch", "torchvision", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class SelectedFrame:
    """A frame of a selection, as it enters the training set.

    Attributes:
        image_path: an image file; its bytes are copied as they are.
        size: (height, width).
        rles, scores, confidences: one entry an instance.
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


class ReplayWriter:
    """Writes `selected.json`, `frames/`, `overlay.mp4` and `run.json`, clip by clip.

    A context manager. Everything goes into a folder beside `out` that takes its name when
    `finish` has been called; after a failure nothing is left. Memory does not grow with the
    recording: entries go to disk at once.

    Args:
        out: must not exist, or be an empty folder.
        recording: name of the recording.
        frames_per_second: of the overlay.

    Raises:
        GboptError: `out` exists already, or cannot be written.
    """

    def __init__(self, out: Path, recording: str, frames_per_second: float = 10.0) -> None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise GboptError(f"{out}: exists already; choose another --out or remove it")
        self._out, self._recording, self._fps = out, recording, frames_per_second
        with self._writing():
            out.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
            try:
                self._folder.chmod(0o755)
                (self._folder / "frames").mkdir()
                self._images = (self._folder / "images.part").open("w", encoding="utf-8")
                self._annotations = (self._folder / "annotations.part").open("w", encoding="utf-8")
            except OSError:
                shutil.rmtree(self._folder, ignore_errors=True)
                raise
        self._overlay: OverlayWriter | None = None
        self._colours = ColourTracker()
        self._clips: list[dict[str, Any]] = []
        self._last_index = -1
        self._started = time.time()
        self.frames = self.masks = self.flow_runs = 0

    def __enter__(self) -> ReplayWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for part in (self._images, self._annotations):
            with suppress(OSError):  # on a full disk closing fails too
                part.close()
        if self._overlay is not None:
            self._overlay.__exit__(kind, error, trace)
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, selection: Selection) -> None:
        """Write a clip. Frames that an earlier clip held already keep its decision.

        Raises:
            GboptError: the disk is full or the folder is gone.
        """
        with self._writing():
            for frame in selection.frames:
                if frame.frame.index > self._last_index:
                    self._add_frame(selection, frame)
                    self._last_index = frame.frame.index
        self.flow_runs += selection.flow_runs
        self._clips.append(
            {
                "clip_id": selection.clip_id,
                "frames": len(selection),
                "masks": selection.mask_count,
                "energy": selection.energy,
                "lower_bound": selection.lower_bound,
                "optimal": selection.optimal,
                "flow_runs": selection.flow_runs,
                "model_version": selection.model_version,
            }
        )

    def finish(self, **facts: Any) -> None:
        """Complete the files and give the folder its name.

        Args:
            facts: added to `run.json`.

        Raises:
            GboptError: as `add`.
        """
        with self._writing():
            if self._overlay is not None:
                self._overlay.__exit__(None, None, None)
                self._overlay = None
            self._join_parts()
            (self._folder / "run.json").write_text(
                json.dumps(self._run(facts), indent=2), encoding="utf-8"
            )
            if self._out.is_dir():
                self._out.rmdir()
            os.replace(self._folder, self._out)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Failures are told of `out`, the name that the user knows."""
        try:
            yield
        except OSError as error:
            raise GboptError(f"{self._out}: cannot be written ({error.strerror})") from error
        except GboptError as error:
            raise GboptError(str(error).replace(str(self._folder), str(self._out))) from error

    def _add_frame(self, selection: Selection, selected: FrameSelection) -> None:
        frame = selected.frame
        name = f"{frame.index:06d}.jpg"
        height, width = frame.size
        encoded = cv2.imencode(
            ".jpg",
            cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR),
            [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY],
        )[1]
        (self._folder / "frames" / name).write_bytes(encoded.tobytes())
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
            "energy": vars(selected.energy),
        }
        _append(self._images, image, first=self.frames == 1)
        for i, rle in enumerate(selected.rles):
            self.masks += 1
            _append(self._annotations, self._annotation(selected, i, rle), first=self.masks == 1)
        if self._overlay is None:
            # Encoding is the slowest part of a replay of large images.
            scale = min(1.0, _OVERLAY_SIDE / max(height, width))
            size = (round(height * scale), round(width * scale))
            self._overlay = OverlayWriter(self._folder / "overlay.mp4", self._fps, size)
            self._overlay.__enter__()
        labels = [f"{c:.2f}" for c in selected.confidences]
        colours = self._colours.colours(selected.rles)
        self._overlay.write(draw_masks(frame.image, selected.rles, labels, colours=colours))

    def _annotation(self, selected: FrameSelection, i: int, rle: Rle) -> dict[str, Any]:
        x0, y0, x1, y1 = (float(v) for v in selected.boxes[i])
        return {
            "id": self.masks,
            "image_id": self.frames,
            "category_id": CATEGORY["id"],
            "iscrowd": 0,
            "segmentation": rle,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": int(mask_ops.areas([rle])[0]),
            "score": float(selected.scores[i]),
            "confidence": float(selected.confidences[i]),
            "margin": float(selected.margins[i]),
            "proposal": selected.indices[i],
        }

    def _join_parts(self) -> None:
        """Assemble `selected.json` from the entries on disk, without reading them into memory."""
        self._images.close()
        self._annotations.close()
        info = {"description": "masks selected by gbopt_ros", "recording": self._recording}
        with (self._folder / "selected.json").open("w", encoding="utf-8") as target:
            target.write(f'{{"info": {json.dumps(info)}, "categories": [{json.dumps(CATEGORY)}]')
            for name in ("images", "annotations"):
                part = self._folder / f"{name}.part"
                target.write(f',\n"{name}": [')
                with part.open(encoding="utf-8") as entries:
                    shutil.copyfileobj(entries, target)
                target.write("]")
                part.unlink()
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
                "flow_runs": self.flow_runs,
            },
            "peak_memory_bytes": peak_memory(),
            "versions": versions(),
            "clips": self._clips,
        } | facts


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
