"""Small recordings for the tests of sources."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from gbopt_ros.io.sources.images import COMPRESSED_TYPE, IMAGE_TYPE
from gbopt_ros.io.sources.rosbag_storage import TYPESTORE
from gbopt_ros.structures import Frame, Rle

PERIOD_NS = 33_000_000
START_NS = 1_700_000_000_000_000_000


def noise_frames(
    count: int, size: tuple[int, int] = (24, 32), *, start_ns: int = START_NS, seed: int = 0
) -> list[Frame]:
    """Frames of (height, width) noise at PERIOD_NS."""
    rng = np.random.default_rng(seed)
    return [
        Frame(
            rng.integers(0, 256, (*size, 3), dtype=np.uint8), start_ns + i * PERIOD_NS, i, "camera"
        )
        for i in range(count)
    ]


def disc_picture(t: int) -> np.ndarray:
    """A bright disc that moves over a dark textured table, (96, 128, 3)."""
    rng = np.random.default_rng(0)
    image = rng.integers(30, 70, (96, 128, 3), dtype=np.uint8)
    cv2.circle(image, (40 + 3 * t, 48), 16, (220, 180, 60), -1)
    return image


def disc_frames(count: int) -> list[Frame]:
    """The moving disc at 10 Hz."""
    return [Frame(disc_picture(t), 10**18 + 10**8 * t, t, "camera") for t in range(count)]


def assert_same_frames(got: Iterable[Frame], expected: Sequence[Frame]) -> None:
    """Images, stamps, indices and frame ids are equal."""
    got = list(got)
    assert [f.stamp_ns for f in got] == [f.stamp_ns for f in expected]
    assert [f.index for f in got] == [f.index for f in expected]
    assert [f.frame_id for f in got] == [f.frame_id for f in expected]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a.image, b.image)


def header(stamp_ns: int, frame_id: str = "camera") -> Any:
    time = TYPESTORE.types["builtin_interfaces/msg/Time"](
        sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9
    )
    return TYPESTORE.types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


def image_message(
    pixels: np.ndarray, encoding: str, stamp_ns: int = START_NS, **fields: Any
) -> Any:
    """A sensor_msgs/Image of (H, W) or (H, W, C) pixels without row padding."""
    values: dict[str, Any] = {
        "header": header(stamp_ns),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "encoding": encoding,
        "is_bigendian": 0,
        "step": pixels.nbytes // pixels.shape[0],
        "data": np.frombuffer(pixels.tobytes(), np.uint8),
    }
    return TYPESTORE.types[IMAGE_TYPE](**{**values, **fields})


def compressed_message(data: bytes, kind: str = "jpeg", stamp_ns: int = START_NS) -> Any:
    return TYPESTORE.types[COMPRESSED_TYPE](
        header=header(stamp_ns), format=kind, data=np.frombuffer(data, np.uint8)
    )


def string_message(text: str) -> Any:
    return TYPESTORE.types["std_msgs/msg/String"](data=text)


def write_messages(
    out: Path,
    topics: dict[str, tuple[str, Sequence[tuple[int, Any]]]],
    *,
    storage: str = "mcap",
    compression: CompressionMode = CompressionMode.NONE,
) -> Path:
    """A rosbag2 folder of any messages: topic -> (type, [(log time, message or CDR bytes)])."""
    with_storage = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[storage]
    writer = Writer(out, version=9, storage_plugin=with_storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        for topic, (kind, messages) in topics.items():
            connection = writer.add_connection(topic, kind, typestore=TYPESTORE)
            for time, message in messages:
                data = message if isinstance(message, bytes) else None
                writer.write(
                    connection,
                    time,
                    TYPESTORE.serialize_cdr(message, kind) if data is None else data,
                )
    return out


def storage_file(bag: Path) -> Path:
    """The one storage file of a bag folder."""
    (file,) = (f for f in bag.iterdir() if f.name != "metadata.yaml")
    return file


def write_video(path: Path, frames: Sequence[Frame], fourcc: str, fps: float = 25.0) -> Path:
    height, width = frames[0].size
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*fourcc), fps, (width, height))
    for frame in frames:
        writer.write(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def write_images(folder: Path, frames: Iterable[Frame], suffix: str = ".png") -> Path:
    """A folder of 0.png, 1.png ... 10.png, without leading zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame in frames:
        cv2.imwrite(
            str(folder / f"{frame.index}{suffix}"), cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        )
    return folder


def write_selection(
    folder: Path,
    recording: str,
    frames: Mapping[int, tuple[np.ndarray, Sequence[Rle]]],
    track_ids: Mapping[int, Sequence[int]] | None = None,
    cuts: Sequence[int] = (),
) -> Path:
    """A folder as `gbopt replay` writes it: frame index -> image (BGR) and selected masks.

    Args:
        track_ids: of the masks, by frame index; None leaves them out, as early versions did.
        cuts: indices of frames after a cut.
    """
    (folder / "frames").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, (image, rles) in frames.items():
        name, (height, width) = f"{index:06d}.png", image.shape[:2]
        cv2.imwrite(str(folder / "frames" / name), image)
        images.append(
            {"id": index + 1, "file_name": name, "height": height, "width": width,
             "frame_index": index, "stamp_ns": index, "clip_id": 0, "after_cut": index in cuts}
        )  # fmt: skip
        annotations += [
            {"image_id": index + 1, "segmentation": rle, "score": 0.5, "confidence": 0.7}
            | ({"track_id": track_ids[index][i]} if track_ids is not None else {})
            for i, rle in enumerate(rles)
        ]
    content = {"info": {"recording": recording}, "images": images, "annotations": annotations}
    (folder / "selected.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
