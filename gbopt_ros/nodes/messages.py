"""ROS messages to the package's vocabulary and back.

Each topic between two nodes has a `Codec`: what it carries within a process, and its message
between processes. Headers are passed on unchanged.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, TypeVar

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from gbopt_ros import masks as mask_ops
from gbopt_ros.msg import ClipFrames, ClipStatus, SelectedMask, SelectedMasks
from gbopt_ros.msg import Proposal as ProposalMessage
from gbopt_ros.msg import Proposals as ProposalsMessage
from gbopt_ros.msg import Rle as RleMessage
from gbopt_ros.nodes.ros_libraries import colour_image
from gbopt_ros.structures import (
    Calibration,
    FrameSelection,
    GboptError,
    Image,
    Proposals,
    Rle,
    Selection,
)

T = TypeVar("T")
_NANO = 1_000_000_000


@dataclass(frozen=True)
class Stamped(Generic[T]):
    """A value that belongs to one camera image, with the header of that image."""

    header: Any
    value: T

    @property
    def stamp_ns(self) -> int:
        return stamp_ns(self.header.stamp)


@dataclass(frozen=True)
class VersionedProposals:
    """Candidates, and the version of the network that proposed them."""

    proposals: Proposals
    version: str


@dataclass(frozen=True)
class Codec(Generic[T]):
    """One kind of topic: its payload within a process and its message between processes."""

    message_type: Any
    encode: Callable[[T], Any]
    decode: Callable[[Any], T]


def stamp_ns(stamp: Any) -> int:
    """Nanoseconds of a `builtin_interfaces/Time`."""
    return int(stamp.sec) * _NANO + int(stamp.nanosec)


def make_time(nanoseconds: int) -> Any:
    """`builtin_interfaces/Time` of nanoseconds. Raises GboptError if its `sec` cannot hold them."""
    seconds, rest = divmod(nanoseconds, _NANO)
    if not -(2**31) <= seconds < 2**31:  # rclpy would send other seconds
        raise GboptError(
            f"stamp {nanoseconds} ns does not fit a ROS header (less than 2^31 seconds)"
        )
    return Time(sec=seconds, nanosec=rest)


def make_header(nanoseconds: int, frame_id: str) -> Any:
    return Header(stamp=make_time(nanoseconds), frame_id=frame_id)


def encode_image(image: Stamped[Image]) -> Any:
    """`sensor_msgs/Image` in rgb8."""
    return _image_message(image.header, image.value, "rgb8")


def decode_image(message: Any) -> Stamped[Image]:
    """Raises GboptError if the image is broken or has an unknown encoding."""
    return Stamped(message.header, colour_image(message))


def encode_map(field: Stamped[NDArray[np.float32]]) -> Any:
    """`sensor_msgs/Image` in 32FC1 of an (H, W) array or in 32FC2 of an (H, W, 2) array."""
    encoding = "32FC1" if field.value.ndim == 2 else "32FC2"
    return _image_message(field.header, field.value.astype("<f4", copy=False), encoding)


def decode_map(message: Any) -> Stamped[NDArray[np.float32]]:
    """The reverse of `encode_map`. Raises GboptError for any other image."""
    channels = {"32FC1": 1, "32FC2": 2}.get(message.encoding)
    if channels is None or message.is_bigendian:
        raise GboptError(f"expected little-endian 32FC1 or 32FC2, got {message.encoding!r}")
    shape = (message.height, message.width) + ((channels,) if channels > 1 else ())
    size = len(message.data)
    if message.step != 4 * channels * message.width or size != message.step * message.height:
        raise GboptError(f"{message.encoding} image of {shape} does not fit its {size} bytes")
    values = np.frombuffer(message.data, "<f4")
    if not np.isfinite(values).all():
        raise GboptError(f"{message.encoding} image holds values that are not finite")
    return Stamped(message.header, values.reshape(shape).astype(np.float32, copy=False))


def encode_rle(rle: Rle) -> Any:
    height, width = rle["size"]
    return RleMessage(height=height, width=width, counts=rle["counts"])


def decode_rle(message: Any) -> Rle:
    return Rle(size=[message.height, message.width], counts=message.counts)


def encode_proposals(stamped: Stamped[VersionedProposals]) -> Any:
    """`gbopt_ros/Proposals`."""
    proposals = stamped.value.proposals
    candidates = [
        ProposalMessage(mask=encode_rle(rle), box=box, score=float(score))
        for rle, box, score in zip(
            proposals.rles, proposals.boxes, proposals.scores.tolist(), strict=True
        )
    ]
    return ProposalsMessage(
        header=stamped.header,
        height=proposals.size[0],
        width=proposals.size[1],
        model_version=stamped.value.version,
        calibration=list(vars(proposals.calibration).values()) if proposals.calibration else [],
        proposals=candidates,
    )


def decode_proposals(message: Any) -> Stamped[VersionedProposals]:
    """Raises GboptError if `Proposals` refuses scores, boxes, masks or calibration."""
    candidates, size = message.proposals, (message.height, message.width)
    try:
        rles = tuple(decode_rle(candidate.mask) for candidate in candidates)
        mask_ops.check_rles(rles, size)
        proposals = Proposals(
            size,
            rles,
            np.array([candidate.score for candidate in candidates], np.float32),
            np.array([candidate.box for candidate in candidates], np.float32).reshape(-1, 4),
            Calibration(*message.calibration) if len(message.calibration) else None,
        )
    except (ValueError, TypeError) as error:
        raise GboptError(f"proposals cannot be used: {error}") from error
    return Stamped(message.header, VersionedProposals(proposals, message.model_version))


def decode_clip(message: Any) -> Any:
    """The `ClipFrames` itself. Raises GboptError if it announces no clip."""
    stamps = [stamp_ns(stamp) for stamp in message.stamps]
    is_increasing = all(a < b for a, b in pairwise(stamps))
    if not stamps or stamps[0] < 0 or not is_increasing:
        raise GboptError("clip: expected stamps of 0 or later that increase, at least one")
    if len(message.frame_indices) != len(stamps) or stamp_ns(message.header.stamp) != stamps[-1]:
        raise GboptError(
            "clip: expected an index for every stamp, and the last stamp in the header"
        )
    return message


def _unchanged(message: Any) -> Any:
    return message


IMAGE = Codec(ImageMessage, encode_image, decode_image)
MAP = Codec(ImageMessage, encode_map, decode_map)
PROPOSALS = Codec(ProposalsMessage, encode_proposals, decode_proposals)
CLIPS: Codec[Any] = Codec(ClipFrames, _unchanged, decode_clip)
HEADERS: Codec[Any] = Codec(Header, _unchanged, _unchanged)


def selected_masks(
    header: Any, clip_id: int, selection: FrameSelection, version: str, track_ids: Sequence[int]
) -> Any:
    """`gbopt_ros/SelectedMasks` of one frame; `track_ids` has one for each of the S masks."""
    masks = [
        SelectedMask(
            track_id=track_id,
            candidate=index,
            mask=encode_rle(rle),
            box=box,
            score=score,
            confidence=confidence,
            margin=margin,
        )
        for track_id, index, rle, box, score, confidence, margin in zip(
            track_ids,
            selection.indices,
            selection.rles,
            selection.boxes,
            selection.scores.tolist(),
            selection.confidences.tolist(),
            selection.margins.tolist(),
            strict=True,
        )
    ]
    height, width = selection.frame.size
    return SelectedMasks(
        header=header,
        clip_id=clip_id,
        frame_index=selection.frame.index,
        height=height,
        width=width,
        model_version=version,
        masks=masks,
        background_energy=selection.energy.background,
        flow_energy=selection.energy.flow,
        regularization_energy=selection.energy.regularization,
    )


def clip_status(clip: Any, selection: Selection) -> Any:
    """`gbopt_ros/ClipStatus` of a `ClipFrames` and its selection; the caller adds the times."""
    return ClipStatus(
        header=clip.header,
        clip_id=selection.clip_id,
        model_version=selection.model_version,
        frames=len(selection),
        masks=selection.mask_count,
        energy=selection.energy,
        lower_bound=selection.lower_bound,
        optimal=selection.optimal,
        flow_runs=selection.flow_runs,
        dropped_frames=clip.dropped,
    )


def label_image(header: Any, rles: Sequence[Rle], size: tuple[int, int]) -> Any:
    """`sensor_msgs/Image` in 16UC1: 0 where there is no mask, i + 1 on mask i."""
    labels = np.zeros(size, "<u2")
    for value, rle in enumerate(rles, start=1):
        labels[mask_ops.decode(rle)] = value
    return _image_message(header, labels, "16UC1")


def segmask(header: Any, rles: Sequence[Rle], size: tuple[int, int]) -> Any:
    """`sensor_msgs/Image` in mono8: 255 on every mask, 0 elsewhere."""
    covered = np.asarray(mask_ops.decode_all(rles, size).any(axis=0))
    return _image_message(header, covered.astype(np.uint8) * 255, "mono8")


def _image_message(header: Any, values: NDArray[Any], encoding: str) -> Any:
    """`sensor_msgs/Image` of an (H, W) or (H, W, C) array, little-endian, without row padding."""
    height, width = values.shape[:2]
    # rclpy checks every element of any other type of data.
    data = array("B")
    data.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return ImageMessage(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=values.nbytes // height,
        data=data,
    )
