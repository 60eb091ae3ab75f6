"""A replay as a recording of Rerun: its frames, masks, confidences and energies on one time line.

    camera            the frames, as JPEG
    camera/masks      the masks as a segmentation image; its ids are those of the tracks
    confidence/ID     confidence of the mask of a track, 0 to 1
    energy/TERM       energy terms of a frame

The time lines are `time` (capture time) and `frame` (index in the recording).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gbopt_ros import masks as mask_ops
from gbopt_ros.io.files import replacing
from gbopt_ros.io.json_file import Fields
from gbopt_ros.io.selection_format import SELECTION_NAME, SelectedFrame, read_selection
from gbopt_ros.structures import GboptError

_LARGEST_ID = 2**16 - 1  # of a segmentation image


def load_rerun() -> Any:
    """The module `rerun`. Raises GboptError if the extra `rerun` is not installed."""
    try:
        import rerun  # an optional extra
    except ImportError as error:
        raise GboptError(
            f"a recording of Rerun needs rerun-sdk ({error}); pip install 'gbopt_ros[rerun]'"
        ) from error
    return rerun


def check_new(path: Path) -> None:
    """Raise GboptError unless a recording can be written: Rerun, a folder for it, no such file."""
    load_rerun()
    if path.exists() or not path.parent.is_dir():
        why = "it exists" if path.exists() else f"there is no folder {path.parent}"
        raise GboptError(f"{path}: cannot be written, {why}; name a new file")


def write_rerun(folder: Path, path: Path) -> int:
    """Write a replay as a recording of Rerun.

    Args:
        folder: output of `gbopt replay`, with its frames.
        path: `.rrd` file to write.

    Returns:
        Number of frames.

    Raises:
        GboptError: Rerun is not installed, `folder` is no such output, or `path` cannot be written.
    """
    rerun, count = load_rerun(), 0
    images = Fields.read(folder / SELECTION_NAME).objects("images")
    with replacing(path, RuntimeError) as aside:
        recording = rerun.RecordingStream("gbopt_ros", recording_id=folder.resolve().name)
        recording.save(aside)
        for frame, image in zip(read_selection(folder), images, strict=True):
            recording.set_time("frame", sequence=frame.frame_index)
            recording.set_time("time", timestamp=np.datetime64(frame.stamp_ns, "ns"))
            _log(rerun, recording, frame)
            if "energy" in image:
                energy = image.object("energy")
                for term in energy.content:
                    recording.log(f"energy/{term}", rerun.Scalars(energy.number(term)))
            count += 1
        recording.flush()
        recording.disconnect()
    return count


def _log(rerun: Any, recording: Any, frame: SelectedFrame) -> None:
    tracks = [track or 0 for track in frame.track_ids]
    # Without tracks, or with more than an image can tell, the places of the masks.
    known = all(0 < track <= _LARGEST_ID for track in tracks)
    ids = tracks if known else [*range(1, len(frame.rles) + 1)]
    jpeg = frame.image_path.read_bytes()
    recording.log("camera", rerun.EncodedImage(contents=jpeg, media_type="image/jpeg"))
    labels = np.zeros(frame.size, np.uint16)
    for value, rle in zip(ids, frame.rles, strict=True):
        labels[mask_ops.decode(rle)] = value
    recording.log("camera/masks", rerun.SegmentationImage(labels))
    for value, confidence in zip(ids, frame.confidences, strict=True):
        recording.log(f"confidence/{value}", rerun.Scalars(confidence))
