"""ROS messages to the vocabulary of the package and back."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from gbopt_ros.masks import encode_all
from gbopt_ros.nodes.messages import (
    Stamped,
    VersionedProposals,
    decode_map,
    decode_proposals,
    encode_map,
    encode_proposals,
    label_image,
    make_header,
    make_time,
    segmask,
    stamp_ns,
)
from gbopt_ros.structures import Calibration, GboptError, Proposals


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
