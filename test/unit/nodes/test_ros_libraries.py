"""Libraries of an installed ROS: the same results with them and without."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from sensor_msgs.msg import Image as ImageMessage

from gbopt_ros.io.sources.images import UndecodableImage, image_from_message
from gbopt_ros.nodes import ros_libraries
from gbopt_ros.nodes.ros_libraries import colour_image, cv_bridge, library

needs_cv_bridge = pytest.mark.skipif(
    cv_bridge() is None, reason="cv_bridge comes with an installed ROS, for NumPy 1"
)
decoders = pytest.mark.parametrize(
    "decode", [image_from_message, pytest.param(colour_image, marks=needs_cv_bridge)]
)


def image_message(encoding: str, channels: int, padding: int = 0) -> Any:
    rows = np.random.default_rng(0).integers(0, 256, (5, 7 * channels + padding), np.uint8)
    return ImageMessage(
        height=5, width=7, encoding=encoding, step=rows.shape[1], data=rows.tobytes()
    )


@decoders
@pytest.mark.parametrize(
    ("encoding", "order"), [("rgb8", [0, 1, 2]), ("bgra8", [2, 1, 0]), ("mono8", [0, 0, 0])]
)
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_colour_image_has_the_pixels_of_the_message(
    decode: Any, encoding: str, order: list[int], padding: int
) -> None:
    channels = {"rgb8": 3, "bgra8": 4, "mono8": 1}[encoding]
    message = image_message(encoding, channels, padding)
    rows = np.frombuffer(message.data, np.uint8).reshape(5, -1)[:, : 7 * channels]
    image = decode(message)
    np.testing.assert_array_equal(image, rows.reshape(5, 7, channels)[..., order])
    assert image.flags.writeable and image.flags.c_contiguous


@decoders
def test_colour_image_refuses_data_that_do_not_fit(decode: Any) -> None:
    message = image_message("rgb8", 3)
    message.height = 6
    with pytest.raises(UndecodableImage, match="7x6 rgb8 image"):
        decode(message)
    message.height, message.step = 5, 18
    with pytest.raises(UndecodableImage, match="7x5 rgb8 image with step 18"):
        decode(message)
    message.height = 2**31
    with pytest.raises(UndecodableImage, match="pixels are more than"):
        decode(message)


@pytest.mark.parametrize(("width", "step"), [(7, 22), (8, 21)])
def test_colour_image_does_not_ask_cv_bridge_where_it_reads_wrong_pixels(
    monkeypatch: pytest.MonkeyPatch, width: int, step: int
) -> None:
    """It shears rows with padding of a part of a pixel, and narrows an image of short rows."""

    class Bridge:
        def imgmsg_to_cv2(self, message: Any, encoding: str) -> None:
            pytest.fail("it is asked")

    monkeypatch.setattr(ros_libraries, "cv_bridge", Bridge)
    message = image_message("rgb8", 3, padding=step - 21)
    message.width = width
    if step < 3 * width:
        with pytest.raises(UndecodableImage, match="8x5 rgb8 image with step 21"):
            colour_image(message)
    else:
        np.testing.assert_array_equal(colour_image(message), image_from_message(message))


@pytest.mark.parametrize("error", [ImportError, AttributeError("_ARRAY_API not found"), None])
def test_cv_bridge_that_does_not_work_is_not_used(
    monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    """Missing, failing when it is imported, or when it is used."""

    class Finder:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name == "cv_bridge" and error is not None:
                raise error

    monkeypatch.setattr(np, "__version__", "1.26.4")
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    if error is None:
        monkeypatch.setitem(sys.modules, "cv_bridge", ModuleType("cv_bridge"))  # no CvBridge in it
    monkeypatch.setattr(ros_libraries, "cv_bridge", cv_bridge.__wrapped__)
    assert cv_bridge.__wrapped__() is None
    assert (library("cv_bridge") is None) == (error is not None)
    assert colour_image(image_message("rgb8", 3)).shape == (5, 7, 3)


def test_cv_bridge_is_not_tried_with_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "__version__", "2.1.0")
    monkeypatch.setattr(ros_libraries, "library", lambda name: pytest.fail("it may crash"))
    assert cv_bridge.__wrapped__() is None
