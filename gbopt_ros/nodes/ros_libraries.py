"""Libraries of an installed ROS that the nodes use where they work, which is decided here.

Without them the nodes give the same results: they are compiled for one Python and one NumPy, and in
another environment they are missing, or fail when they are imported or first used.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from sensor_msgs.msg import Image as ImageMessage

from gbopt_ros.io.limits import MAX_PIXELS
from gbopt_ros.io.sources.images import check_pixels, image_from_message
from gbopt_ros.structures import Image

# Bytes of a pixel in the encodings of which cv_bridge makes the same pixels, bit for bit; it scales
# 16 bits otherwise.
_BY_CV_BRIDGE = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}


def library(name: str) -> Any:
    """A module that an installed ROS may have; None if it is missing or cannot be imported."""
    try:
        return import_module(name)
    except Exception:  # compiled for another NumPy it raises AttributeError, among others
        return None


@cache
def cv_bridge() -> Any:
    """A `CvBridge` that converts images; None where there is none."""
    if int(np.__version__.partition(".")[0]) >= 2:
        return None  # it is compiled for NumPy 1, and then crashes rather than raises
    module = library("cv_bridge")
    try:
        bridge = module.CvBridge()
        bridge.imgmsg_to_cv2(ImageMessage(height=1, width=1, encoding="bgr8", step=3, data=[0] * 3))
    except Exception:
        return None
    return bridge


def colour_image(message: Any, max_pixels: int = MAX_PIXELS) -> Image:
    """As `image_from_message`, by cv_bridge where it works."""
    bridge, pixel_bytes = cv_bridge(), _BY_CV_BRIDGE.get(message.encoding)
    if bridge is None or pixel_bytes is None or not _is_whole(message, pixel_bytes):
        return image_from_message(message, max_pixels)
    check_pixels(message.width, message.height, max_pixels)
    return np.require(bridge.imgmsg_to_cv2(message, "rgb8"), np.uint8, ["C", "W", "O"])


def _is_whole(message: Any, pixel_bytes: int) -> bool:
    """Whether cv_bridge reads a message right.

    It takes rows that are too short for narrower ones, and padding for whole pixels.
    """
    height, step = message.height, message.step
    fits = height > 0 and 0 < message.width * pixel_bytes <= step
    return fits and step % pixel_bytes == 0 and height * step <= len(message.data)
