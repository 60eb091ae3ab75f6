"""ROS image messages to arrays and back, without ROS.

Messages may come from rclpy (`data` is an `array.array`) or from the rosbags library (`data` is a
NumPy array): only their attributes are read.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.BmpImagePlugin import BmpImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from rosbags.image import message_to_cvimage

from gbopt_ros.io.limits import MAX_ELONGATION, MAX_PIXELS
from gbopt_ros.structures import GboptError, Image

IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = (IMAGE_TYPE, COMPRESSED_TYPE)
COMPRESSIONS = ("jpeg", "png")
# By themselves, not by `Image.open`: its own limit warns of images that `max_pixels` allows.
_FORMATS = (
    JpegImageFile, PngImageFile, BmpImageFile, TiffImageFile, WebPImageFile, PpmImageFile,
    Jpeg2KImageFile,
)  # fmt: skip
_MAX_PIXEL_BYTES = 16  # of a file, more than any of these formats needs for a pixel
_TIFF = (b"II*\0", b"MM\0*")

# Bytes that one pixel takes of a row.
_PIXEL_BYTES = {
    **dict.fromkeys(("mono8", "8UC1", "nv12", "nv21"), 1),
    **dict.fromkeys((f"bayer_{p}8" for p in ("rggb", "bggr", "gbrg", "grbg")), 1),
    **dict.fromkeys(("yuv422", "uyvy", "yuv422_yuy2", "yuyv"), 2),
    **dict.fromkeys(("rgb8", "bgr8", "8UC3"), 3),
    **dict.fromkeys(("rgba8", "bgra8", "8UC4"), 4),
    "mono16": 2,
    **dict.fromkeys((f"bayer_{p}16" for p in ("rggb", "bggr", "gbrg", "grbg")), 2),
    **dict.fromkeys(("rgb16", "bgr16"), 6),
    **dict.fromkeys(("rgba16", "bgra16"), 8),
}
# OpenCV's names state no colour order; it is BGR.
_SYNONYMS = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8"}
# Formats of image_transport: it compresses a Bayer pattern as a grey image, or makes it grey before
# and adds `mono8`.
_MOSAIC = re.compile(r"(bayer_(?:rggb|bggr|gbrg|grbg))(?:8|16); *\w+ compressed *(?:bayer_\w+)?")
# As TIFF it compresses RGB as if it were BGR; its subscriber knows.
_SWAPPED = re.compile(r"rgba?(?:8|16); *tiff compressed *")
_DEPTH = ("16UC1", "16SC1", "32FC1", "64FC1")
_DEPTH_TYPES = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
_MAX_DEPTH_M = 10_000.0  # beyond is no measurement

SUPPORTED_ENCODINGS = tuple(_PIXEL_BYTES)


class UndecodableImage(GboptError):
    """The data of one image are broken; its neighbours may be sound."""


@dataclass(frozen=True)
class _Pixels:
    """The attributes that rosbags-image reads; `data` has no row padding."""

    encoding: str
    height: int
    width: int
    data: NDArray[np.uint8]
    is_bigendian: int = 0


def image_from_message(message: Any, max_pixels: int = MAX_PIXELS) -> Image:
    """Convert a `sensor_msgs/Image`.

    Row padding (`step`) and `is_bigendian` are honoured. 16-bit values become round(v / 257):
    they are taken to use all bits, as cv_bridge does, so the 12 bits of some cameras must be the
    upper ones. Bayer patterns are demosaiced, YUV is converted.

    Args:
        max_pixels: an image with more is refused.

    Returns:
        (H, W, 3) uint8, RGB, writable.

    Raises:
        UndecodableImage: the data do not fit height, width and step, the image is too large, or
            none of its 16-bit values uses the upper 4 bits.
        GboptError: a depth image or an unknown encoding.
    """
    encoding = message.encoding
    if encoding in _DEPTH:
        raise GboptError(f"encoding {encoding!r} is depth, not colour: name a colour image topic")
    if encoding not in _PIXEL_BYTES:
        raise GboptError(
            f"unknown image encoding {encoding!r}: supported are {', '.join(SUPPORTED_ENCODINGS)}"
        )
    check_pixels(message.width, message.height, max_pixels)
    rows = _unpadded_rows(message, _PIXEL_BYTES[encoding])
    if encoding.endswith("16"):
        values = rows.view(">u2" if message.is_bigendian else "<u2").astype(np.uint32)
        _check_upper_bits(values)
        rows = ((values + 128) // 257).astype(np.uint8)
        encoding = encoding.removesuffix("16") + "8"
    return _rgb(_Pixels(_SYNONYMS.get(encoding, encoding), len(rows), message.width, rows))


def _check_upper_bits(values: NDArray[Any]) -> None:
    """Raise UndecodableImage for 16-bit values that would all be black or nearly so."""
    largest = int(values.max())
    if 0 < largest < 4096:
        raise UndecodableImage(
            f"16 bits a channel with no value above {largest}: 12 bits or fewer in the lower part, "
            "or a depth image; let the camera use the upper bits, or multiply 12 bits by 16 before"
        )


def _rgb(pixels: Any) -> Image:
    """The image of `_Pixels`, as `image_from_message` gives it."""
    try:
        image = message_to_cvimage(pixels, "rgb8")
    except cv2.error as error:
        raise UndecodableImage(
            f"{pixels.encoding} image cannot be converted: {error.err}"
        ) from error
    return np.require(image, np.uint8, ["C", "W", "O"])


def _unpadded_rows(message: Any, pixel_bytes: int) -> NDArray[np.uint8]:
    """(rows, bytes of a row without padding) uint8."""
    height, width, step = message.height, message.width, message.step
    row_bytes = width * pixel_bytes
    # NV12 and NV21: the chroma rows follow the luma rows, half as many.
    rows = height * 3 // 2 if message.encoding in ("nv12", "nv21") else height
    data = np.frombuffer(message.data, np.uint8)
    if height < 1 or width < 1 or step < row_bytes or data.size < rows * step:
        raise UndecodableImage(
            f"{width}x{height} {message.encoding} image with step {step} and {data.size} bytes of "
            f"data: expected a step of at least {row_bytes} and {rows} rows"
        )
    return np.ascontiguousarray(data[: rows * step].reshape(rows, step)[:, :row_bytes])


def depth_from_message(message: Any, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """Convert a depth image as of REP 118: 16UC1 or mono16 in millimetres, 32FC1 in metres.

    Args:
        max_pixels: an image with more is refused.

    Returns:
        (H, W) float32, metres along the optical axis; NaN where nothing was measured: the message
        has 0, a negative or no finite number there, or more than 10 km.

    Raises:
        UndecodableImage: the data do not fit height, width and step, or the image is too large.
        GboptError: another encoding.
    """
    kind = _DEPTH_TYPES.get(message.encoding)
    if kind is None:
        raise GboptError(
            f"depth image: expected encoding {', '.join(_DEPTH_TYPES)}, got {message.encoding!r}"
        )
    check_pixels(message.width, message.height, max_pixels)
    stored = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    depth = _unpadded_rows(message, stored.itemsize).view(stored).astype(np.float32)
    if stored.kind == "u":
        depth /= 1000
    depth[~((depth > 0) & (depth < _MAX_DEPTH_M))] = np.nan
    return depth


def image_from_compressed_message(message: Any, max_pixels: int = MAX_PIXELS) -> Image:
    """Convert a `sensor_msgs/CompressedImage`.

    A Bayer pattern that image_transport compressed is demosaiced, and its TIFF files of RGB images,
    which have red and blue exchanged, are read as it does.

    Args:
        max_pixels: as of `decode_image`.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        UndecodableImage: the data are no complete image, or it is too large.
        GboptError: a depth image.
    """
    kind = message.format
    if kind.startswith(_DEPTH) or "compressedDepth" in kind:
        raise GboptError(f"format {kind!r} is depth, not colour: name a colour image topic")
    try:
        image = decode_image(np.frombuffer(message.data, np.uint8), max_pixels)
        if pattern := _MOSAIC.fullmatch(kind):
            height, width = image.shape[:2]
            return _rgb(_Pixels(f"{pattern[1]}8", height, width, image[..., 0].copy()))
        return np.ascontiguousarray(image[..., ::-1]) if _SWAPPED.fullmatch(kind) else image
    except UndecodableImage as error:
        raise UndecodableImage(f"{error} (format {kind!r})") from error


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image:
    """(H, W, 3) uint8, RGB, of an image file, as `decode_image` gives it.

    Raises:
        UndecodableImage: the file cannot be read, is no complete image, or is too large.
    """
    try:
        if path.stat().st_size > _MAX_PIXEL_BYTES * max_pixels:
            raise UndecodableImage(f"the file is too large for an image of {max_pixels} pixels")
        return decode_image(np.fromfile(path, np.uint8), max_pixels)
    except OSError as error:
        raise UndecodableImage(f"{path}: image cannot be read ({error.strerror})") from error
    except UndecodableImage as error:
        raise UndecodableImage(f"{path}: {error}") from error


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise UndecodableImage if an image has more pixels than allowed, or is a mere line."""
    if width * height > max_pixels:
        raise UndecodableImage(
            f"{width}x{height} pixels are more than {max_pixels}; make the image smaller, or raise "
            "clip.max_pixels for a recording or a camera"
        )
    if max(width, height) > MAX_ELONGATION * min(width, height):
        raise UndecodableImage(
            f"{width}x{height} pixels: expected a side at most {MAX_ELONGATION} times the other"
        )


def _stated_size(raw: bytes) -> tuple[int, int]:
    """(width, height) in pixels as the header of an image file says; nothing is decoded."""
    for file_of in _FORMATS:
        try:
            with file_of(io.BytesIO(raw)) as image:
                return image.size
        except Exception:  # another format; damaged bytes make the plugins raise anything
            continue
    raise _undecodable(raw)


def _undecodable(raw: bytes) -> UndecodableImage:
    if raw.startswith(_TIFF):
        return UndecodableImage(
            "the TIFF is damaged, or its values have not 8 or 16 bits, as those of floating point; "
            "convert it to 8 or 16 bits a channel"
        )
    return UndecodableImage(f"the {len(raw)} bytes are no complete image of 8 or 16 bits a channel")


def _is_cut_off(jpeg: bytes) -> bool:
    """Whether the end marker is missing. The one of a thumbnail in the header does not count."""
    place = 2
    while jpeg[place : place + 1] == b"\xff" and jpeg[place + 1 : place + 2] != b"\xda":  # the scan
        fills = jpeg[place + 1 : place + 2] == b"\xff"
        place += 1 if fills else 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    reached = jpeg.startswith(b"\xff\xda", place)
    return jpeg.find(b"\xff\xd9", place if reached else 0) < 0


def decode_image(data: NDArray[np.uint8], max_pixels: int = MAX_PIXELS) -> Image:
    """Decode a complete JPEG, PNG, BMP, TIFF, WebP, PPM or JPEG 2000 file held in memory.

    Alpha is dropped, grey becomes RGB. Of 16 bits the upper 8 count, so the 12 bits of some cameras
    must be the upper ones, as PNG's standard has it. The orientation in EXIF data is applied.

    Args:
        max_pixels: an image with more is refused before it is decoded.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        UndecodableImage: no image, one that is cut off, one that is too large, or one of 16 bits
            none of whose values uses the upper 4.
    """
    if data.size == 0:
        raise UndecodableImage("the image is empty (0 bytes)")
    # Some versions of OpenCV fill a cut JPEG with grey and report success.
    raw = data.tobytes()
    check_pixels(*_stated_size(raw), max_pixels)
    if raw.startswith(b"\xff\xd8") and _is_cut_off(raw):
        raise UndecodableImage(f"the JPEG is cut off after {data.size} bytes")
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UndecodableImage(f"the image cannot be decoded: {error.err}") from error
    if image is None:
        raise _undecodable(raw)
    if image.max() < 16:  # so dark that it may be 12 bits
        values = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if values is not None and values.dtype != np.uint8:
            _check_upper_bits(values)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def encode_image(image: Image, compression: str, jpeg_quality: int = 90) -> NDArray[np.uint8]:
    """Encode an (H, W, 3) uint8 RGB image as "jpeg" or "png".

    Returns:
        (bytes,) uint8.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if compression == "jpeg" else []
    suffix = {"jpeg": ".jpg", "png": ".png"}[compression]
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise GboptError(f"an image of {image.shape} cannot be encoded as {compression}")
    return data.reshape(-1)


def image_fields(image: Image) -> dict[str, Any]:
    """The fields of a `sensor_msgs/Image` but the header, for an (H, W, 3) uint8 RGB image.

    `data` is (3 H W,) uint8.
    """
    height, width, channels = image.shape
    return {
        "height": height,
        "width": width,
        "encoding": "rgb8",
        "is_bigendian": 0,
        "step": channels * width,
        "data": np.ascontiguousarray(image).reshape(-1),
    }
