"""ROS messages to the vocabulary of the package and back."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from gbopt_ros.masks import decode, encode_all
from gbopt_ros.msg import ClipFrames
from gbopt_ros.nodes.messages import (
    Stamped,
    VersionedProposals,
    clip_status,
    decode_clip,
    decode_map,
    decode_proposals,
    decode_rle,
    encode_map,
    encode_proposals,
    label_image,
    make_header,
    make_time,
    segmask,
    selected_masks,
    stamp_ns,
)
from gbopt_ros.structures import (
    Calibration,
    Frame,
    FrameEnergy,
    FrameSelection,
    GboptError,
    Proposals,
    Selection,
)


def test_make_time_keeps_the_nanoseconds_of_stamp_ns() -> None:
    for nanoseconds in (-1, 0, 1, 10**9 - 1, 1_700_000_000_123_456_789, 2**31 * 10**9 - 1):
        assert stamp_ns(make_time(nanoseconds)) == nanoseconds


def test_make_time_refuses_a_stamp_that_ros_cannot_send() -> None:
    with pytest.raises(GboptError, match="stamp 2147483648000000000 ns does not fit a ROS header"):
        make_time(2**31 * 10**9)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 2), (1, 1), (1, 1, 2)])
def test_encode_map_comes_back_bit_for_bit(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    header = make_header(12, "camera")
    message = encode_map(Stamped(header, values))
    assert message.encoding == ("32FC2" if len(shape) == 3 else "32FC1")
    assert message.step * message.height == len(message.data)
    back = decode_map(message)
    assert back.header == header
    np.testing.assert_array_equal(back.value, values)


def test_decode_map_refuses_other_images() -> None:
    message = encode_map(Stamped(make_header(0, ""), np.zeros((2, 2), np.float32)))
    message.width = 3
    with pytest.raises(GboptError, match="does not fit"):
        decode_map(message)
    message.encoding = "rgb8"
    with pytest.raises(GboptError, match="32FC1 or 32FC2, got 'rgb8'"):
        decode_map(message)
    message = encode_map(Stamped(make_header(0, ""), np.zeros((2, 2), np.float32)))
    message.is_bigendian = 1
    with pytest.raises(GboptError, match="expected little-endian"):
        decode_map(message)


@pytest.mark.parametrize(
    ("stamps", "indices", "last"),
    [((), (), 0), ((5, 5), (0, 1), 5), ((5, 4), (0, 1), 4), ((4, 5), (0,), 5), ((4,), (0,), 5)],
)
def test_decode_clip_refuses_what_is_no_clip(
    stamps: tuple[int, ...], indices: tuple[int, ...], last: int
) -> None:
    message = ClipFrames(
        header=make_header(last, ""), stamps=[*map(make_time, stamps)], frame_indices=indices
    )
    with pytest.raises(GboptError, match="clip: expected"):
        decode_clip(message)


def test_selected_masks_and_clip_status_tell_all_of_a_selection() -> None:
    mask = np.zeros((1, 4, 6), bool)
    mask[:, 1:3, 2:5] = True
    frame = FrameSelection(
        Frame(np.zeros((4, 6, 3), np.uint8), 12, 8, "camera"),
        (5,),
        encode_all(mask),
        np.array([[2, 1, 5, 3]], np.float32),
        np.array([0.75], np.float32),
        np.array([0.125]),
        np.array([0.5], np.float32),
        FrameEnergy(1.0, 2.0, -0.25),
    )
    header = make_header(12, "camera")
    message = selected_masks(header, 3, frame, "v1", [7])
    assert message.header == header
    assert (message.clip_id, message.frame_index, message.model_version) == (3, 8, "v1")
    assert (message.height, message.width) == (4, 6)
    energies = message.background_energy, message.flow_energy, message.regularization_energy
    assert energies == (1.0, 2.0, -0.25)
    (found,) = message.masks
    assert (found.track_id, found.candidate) == (7, 5)
    assert (found.score, found.confidence, found.margin) == (0.75, 0.5, 0.125)
    assert found.box.tolist() == [2, 1, 5, 3]
    np.testing.assert_array_equal(decode(decode_rle(found.mask)), mask[0])

    clip = ClipFrames(header=header, dropped=11)
    status = clip_status(clip, Selection(3, (frame,), 2.75, 2.5, False, 9, "v1"))
    assert (status.header, status.clip_id, status.model_version) == (header, 3, "v1")
    assert (status.frames, status.masks, status.flow_runs) == (1, 1, 9)
    assert (status.energy, status.lower_bound, status.optimal) == (2.75, 2.5, False)
    assert status.dropped_frames == 11


@pytest.mark.parametrize("calibration", [None, Calibration(-1.5, 0.25, 2.0)])
def test_encode_proposals_comes_back_with_the_calibration(calibration: Calibration | None) -> None:
    mask = np.eye(4, 6, dtype=bool)
    proposals = Proposals(
        (4, 6),
        encode_all(np.stack([mask, ~mask])),
        np.array([0.75, 0.5], np.float32),
        np.array([[0, 0, 4, 4], [0, 0, 6, 4]], np.float32),
        calibration,
    )
    header = make_header(12, "camera")
    back = decode_proposals(encode_proposals(Stamped(header, VersionedProposals(proposals, "v1"))))
    assert back.header == header
    assert back.value.version == "v1"
    assert back.value.proposals.calibration == calibration
    assert back.value.proposals.rles == proposals.rles
    np.testing.assert_array_equal(back.value.proposals.scores, proposals.scores)
    np.testing.assert_array_equal(back.value.proposals.boxes, proposals.boxes)


@pytest.mark.parametrize("calibration", [[1.0], [1.0, float("nan"), 2.0]])
def test_decode_proposals_refuses_a_broken_calibration(calibration: list[float]) -> None:
    message = encode_proposals(
        Stamped(
            make_header(0, ""),
            VersionedProposals(
                Proposals((2, 2), (), np.zeros(0, np.float32), np.zeros((0, 4), np.float32)), ""
            ),
        )
    )
    message.calibration = calibration
    with pytest.raises(GboptError, match="proposals cannot be used"):
        decode_proposals(message)


def test_label_image_and_segmask_show_the_masks() -> None:
    masks = np.array([[[1, 0, 0], [1, 0, 0]], [[0, 0, 1], [0, 0, 0]]], bool)
    labels = label_image(make_header(3, "camera"), encode_all(masks), (2, 3))
    assert (labels.encoding, labels.step, labels.is_bigendian) == ("16UC1", 6, 0)
    np.testing.assert_array_equal(
        np.frombuffer(labels.data, "<u2").reshape(2, 3), [[1, 0, 2], [1, 0, 0]]
    )
    shown = segmask(make_header(3, "camera"), encode_all(masks), (2, 3))
    assert (shown.encoding, shown.step) == ("mono8", 3)
    np.testing.assert_array_equal(
        np.frombuffer(shown.data, np.uint8).reshape(2, 3), [[255, 0, 255], [255, 0, 0]]
    )
    empty = segmask(make_header(3, "camera"), (), (2, 3))
    assert not any(empty.data)
