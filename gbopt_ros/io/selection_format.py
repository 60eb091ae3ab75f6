"""The selection format, written and read: the output folder of `gbopt replay`.

OUT/selected.json   a COCO dataset of the selected masks
OUT/frames/         one JPEG a frame, named by its index in the recording
OUT/overlay.mp4     the masks drawn on the frames
OUT/run.json        configuration, versions, seconds, counts, energies

Until it is complete, the folder is a hidden temporary one. How a run that was cut goes on from it:
`gbopt_ros.io.selection_progress`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from gbopt_ros import masks as mask_ops
from gbopt_ros.io.datasets.coco import CATEGORY, image_size, segmentation_to_rle
from gbopt_ros.io.files import abandon, path_below, replacing_folder, unwritable
from gbopt_ros.io.journal import unfinished_run
from gbopt_ros.io.json_file import Fields, printable, to_json
from gbopt_ros.io.overlay import OVERLAY_FPS, OverlayWriter, draw_masks
from gbopt_ros.io.selection_progress import (
    PARTS,
    Progress,
    frame_file,
    going_on,
    journal_of,
    note_clip,
    part_file,
    take_over,
    written_frames,
)
from gbopt_ros.io.sources.images import encode_image, read_image
from gbopt_ros.structures import FrameSelection, GboptError, Image, Rle, Selection
from gbopt_ros.tracks import TrackLinker

SELECTION_NAME = "selected.json"
SOURCE_NAME = "source_name"  # key of an image: the name of its file in the recording
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
        track_ids: one a mask, the same in all frames that show an object; None or () if unknown.
        after_cut: whether there is a cut between the frame before and this one.
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
    track_ids: tuple[int | None, ...] = ()
    after_cut: bool = False


class SelectionWriter:
    """Writes `selected.json`, `frames/`, `overlay.mp4` and `run.json`, clip by clip.

    A context manager. Entries go to disk at once, so memory does not grow with the recording.
    The folder appears when `finish` has been called; after a failure nothing is left.

    Args:
        out: must not exist, or be an empty folder.
        recording: name of the recording.
        frames: whether to write `frames/`; without them nothing can be learnt, and no run that was
            cut can go on.
        overlay: whether to write `overlay.mp4`.
        identity: all that decides the result, plain values by name. A run of the same identity can
            go on after this one was killed; None: none can.
        resume: go on with such a run. After a failure, what is done stays for the next one.
        linker: gives the masks their track ids; None: one of the default settings.

    Raises:
        GboptError: on entering, `out` holds something, another process writes it, or the run to go
            on with has another identity or is damaged; later, it cannot be written.

    Attributes:
        clips, frames, masks: number of those written so far, by the run that was cut too.
    """

    def __init__(
        self,
        out: Path,
        recording: str,
        *,
        frames: bool = True,
        overlay: bool = True,
        identity: Mapping[str, Any] | None = None,
        resume: bool = False,
        linker: TrackLinker | None = None,
    ) -> None:
        self._out, self._recording = out, recording
        self._keeps, self._draws = frames, overlay
        self._identity, self._resume = identity, resume
        self._overlay: OverlayWriter | None = None
        self._linker = linker or TrackLinker()
        self._done = Progress()
        self._resumed_clips = 0
        self._started = time.time()

    @property
    def clips(self) -> int:
        return len(self._done.clips)

    @property
    def frames(self) -> int:
        return self._done.frames

    @property
    def masks(self) -> int:
        return self._done.masks

    def __enter__(self) -> SelectionWriter:
        cut = unfinished_run(self._out, self._identity or {}) if self._resume else None
        with ExitStack() as files:
            self._folder = files.enter_context(
                replacing_folder(
                    self._out,
                    unfinished=cut,
                    keep=lambda: self._resume and (cut is not None or self.clips > 0),
                )
            )
            (self._folder / "frames" if self._keeps else self._folder).mkdir(
                parents=True, exist_ok=True
            )
            if cut is not None:
                with going_on(self._out):
                    self._done = take_over(self._folder)
                self._resumed_clips = self.clips
            elif self._identity is not None:
                journal_of(self._folder).begin(self._identity)
            self._parts = {
                name: files.enter_context(part_file(self._folder, name).open("a", encoding="utf-8"))
                for name in PARTS
            }
            self._files = files
            if cut is not None:
                with going_on(self._out):
                    self._catch_up()
            self._files = files.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        abandon(self._files)  # after `finish` it is empty

    def add(self, selection: Selection) -> None:
        """Write a clip. Frames that an earlier clip held already keep its decision."""
        names = ("clip_id", "energy", "lower_bound", "optimal", "flow_runs", "model_version")
        facts = {name: getattr(selection, name) for name in names}
        facts |= {"frames": len(selection), "masks": selection.mask_count}
        with self._writing():
            new = [f for f in selection.frames if f.frame.index > self._done.last_index]
            for frame in new:
                self._add_frame(selection, frame)
                self._done.last_index = frame.frame.index
            # Before the note: an interruption may come between them.
            self._done.clips.append(facts)
            if self._identity is not None:
                for part in self._parts.values():
                    part.flush()
                note_clip(self._folder, self._done, [frame.frame.index for frame in new])

    def finish(self, **facts: Any) -> None:
        """Complete the files and give the folder its name.

        Args:
            facts: added to `run.json`.
        """
        with self._writing():
            for part in self._parts.values():
                part.close()
            parts = {name: part_file(self._folder, name) for name in PARTS}
            join_parts(self._folder / SELECTION_NAME, self._recording, parts)
            run = to_json(self._run(facts), indent=2)
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

    def _catch_up(self) -> None:
        """Link and draw the frames of the run that was cut: a video cannot be continued."""
        for written in written_frames(self._folder):
            ids = self._linker.link(written.rles, written.stamp_ns, after_cut=written.after_cut)
            if self._draws:
                image = read_image(frame_file(self._folder, written.index))
                self._draw(image, written.rles, written.confidences, ids)

    def _add_frame(self, selection: Selection, selected: FrameSelection) -> None:
        frame = selected.frame
        path = frame_file(self._folder, frame.index)
        height, width = frame.size
        if self._keeps:
            jpeg = encode_image(frame.image, "jpeg", _JPEG_QUALITY)
            path.write_bytes(jpeg.tobytes())
        self._done.frames += 1
        image = {
            "id": self.frames,
            "file_name": path.name,
            "height": height,
            "width": width,
            "frame_index": frame.index,
            "stamp_ns": frame.stamp_ns,
            "frame_id": frame.frame_id,
            "clip_id": selection.clip_id,
            "after_cut": selected.after_cut,
            "model_version": selection.model_version,
            "energy": vars(selected.energy),
        }
        if frame.file_name:
            image[SOURCE_NAME] = printable(frame.file_name)
        append_entry(self._parts["images"], image, first=self.frames == 1)
        ids = self._linker.link(selected.rles, frame.stamp_ns, after_cut=selected.after_cut)
        for i, track_id in enumerate(ids):
            self._done.masks += 1
            entry = self._annotation(selected, i) | {"track_id": track_id}
            append_entry(self._parts["annotations"], entry, first=self.masks == 1)
        if self._draws:
            self._draw(frame.image, selected.rles, selected.confidences, ids)

    def _draw(
        self, image: Image, rles: Sequence[Rle], confidences: Iterable[float], ids: Sequence[int]
    ) -> None:
        """Add a frame to the overlay; a track keeps its colour."""
        height, width = image.shape[:2]
        if self._overlay is None:
            # Encoding is the slowest part of a replay of large images.
            scale = min(1.0, _OVERLAY_SIDE / max(height, width))
            size = (round(height * scale), round(width * scale))
            overlay = OverlayWriter(self._folder / "overlay.mp4", OVERLAY_FPS, size)
            self._overlay = self._files.enter_context(overlay)
        labels = [f"{c:.2f}" for c in confidences]
        self._overlay.write(draw_masks(image, rles, labels, colours=ids))

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

    def _run(self, facts: dict[str, Any]) -> dict[str, Any]:
        return {
            "recording": self._recording,
            "started": self._started,
            "wall_seconds": time.time() - self._started,
            "resumed_clips": self._resumed_clips,
            "counts": {
                "clips": self.clips,
                "frames": self.frames,
                "masks": self.masks,
                "flow_runs": sum(clip["flow_runs"] for clip in self._done.clips),
            },
            "peak_memory_bytes": peak_memory(),
            "versions": versions(),
            "clips": self._done.clips,
        } | facts


def read_selection(folder: Path) -> Iterator[SelectedFrame]:
    """The frames that a `SelectionWriter` wrote below `folder`. Their images are not decoded.

    Raises:
        GboptError: the folder is not a complete replay output, or names files outside of it.
    """
    path = folder / SELECTION_NAME
    if not path.exists():
        raise GboptError(
            f"{path}: not found; expected the output of `gbopt replay`. Of a recording, make it "
            "with `gbopt replay RECORDING --out FOLDER`, and name FOLDER"
        )
    try:
        content = Fields.read(path)
        recording = content.object("info").text("recording")
        images = content.objects("images")
        by_image: dict[int, list[Fields]] = {image.integer("id"): [] for image in images}
        for annotation in content.objects("annotations"):
            if annotation.integer("image_id") not in by_image:
                raise GboptError(f"{annotation.where}: 'image_id' is that of no image")
            by_image[annotation.integer("image_id")].append(annotation)
        frames = [
            _frame(folder, recording, image, by_image[image.integer("id")]) for image in images
        ]
        for what, count in (
            ("id", len(by_image)),
            ("frame_index", len({(frame.recording, frame.frame_index) for frame in frames})),
        ):
            if count != len(images):
                raise GboptError(f"{path}: expected a {what!r} of its own for every image")
    except GboptError as error:
        raise GboptError(f"{error}; expected the output of `gbopt replay`") from error
    for frame in frames:
        if not os.path.isfile(frame.image_path):  # a name may be too long
            raise GboptError(f"{frame.image_path}: frame of the replay output is missing")
        yield frame


def _frame(folder: Path, recording: str, image: Fields, annotations: list[Fields]) -> SelectedFrame:
    size = image_size(image)
    name = image.text("recording", default=recording)  # its own where there are several
    return SelectedFrame(
        recording=f"{printable(folder.resolve().name)}/{name}",
        clip_id=image.integer("clip_id", low=0),
        frame_index=image.integer("frame_index", low=0),
        stamp_ns=image.integer("stamp_ns"),
        image_path=path_below(folder / "frames", image.text("file_name")),
        size=size,
        rles=tuple(
            segmentation_to_rle(a.content.get("segmentation"), size, a.where) for a in annotations
        ),
        scores=tuple(a.number("score") for a in annotations),
        confidences=tuple(a.number("confidence", low=0, high=1) for a in annotations),
        model_version=image.text("model_version", default=""),
        track_ids=tuple(a.integer("track_id") if "track_id" in a else None for a in annotations),
        after_cut=image.flag("after_cut", default=False),
    )


def join_parts(path: Path, recording: str, parts: Mapping[str, Path]) -> None:
    """Assemble `selected.json` from its lists on disk, without reading them into memory.

    Args:
        path: file to write.
        recording: name of the recording, or of the folder where images tell their own.
        parts: for `images` and `annotations`, a file of entries of `append_entry`.

    Raises:
        OSError: a file cannot be read or written.
    """
    info = {"description": "masks selected by gbopt_ros", "recording": recording}
    with path.open("w", encoding="utf-8") as target:
        target.write(f'{{"info": {json.dumps(info)}, "categories": [{json.dumps(CATEGORY)}]')
        for name, part in parts.items():
            target.write(f',\n"{name}": [')
            with part.open(encoding="utf-8") as entries:
                shutil.copyfileobj(entries, target)
            target.write("]")
        target.write("}\n")


def append_entry(target: TextIO, entry: Mapping[str, Any], *, first: bool) -> None:
    """Add an entry to a part of `selected.json`."""
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
