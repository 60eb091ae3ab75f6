"""ROS image messages to arrays: every encoding by value, and broken data."""

from __future__ import annotations

import struct
import zlib
from array import array
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from support.recordings import compressed_message, image_message, noise_frames

from gbopt_ros.io.sources.images import (
    SUPPORTED_ENCODINGS,
    UndecodableImage,
    decode_image,
    depth_from_message,
    encode_image,
    image_fields,
    image_from_compressed_message,
    image_from_message,
    read_image,
)
from gbopt_ros.structures import GboptError

RGB = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], np.uint8)
ALPHA = np.full((2, 2, 1), 7, np.uint8)


@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("8UC3", RGB[..., ::-1]),
        ("rgba8", np.concatenate([RGB, ALPHA], axis=2)),
        ("bgra8", np.concatenate([RGB[..., ::-1], ALPHA], axis=2)),
        ("8UC4", np.concatenate([RGB[..., ::-1], ALPHA], axis=2)),
        ("rgb16", RGB.astype(np.uint16) * 257),
        ("bgr16", RGB[..., ::-1].astype(np.uint16) * 257),
    ],
)
def test_image_from_message_gives_the_same_rgb_for_colour_encodings(
    encoding: str, pixels: np.ndarray
) -> None:
    image = image_from_message(image_message(np.ascontiguousarray(pixels), encoding))
    np.testing.assert_array_equal(image, RGB)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert image.flags.c_contiguous


@pytest.mark.parametrize("is_bigendian", [0, 1])
@pytest.mark.parametrize(
    ("encoding", "stored"),
    [
        ("16UC1", np.array([[0, 1, 1500], [65535, 2000, 0]], "<u2")),
        ("mono16", np.array([[0, 1, 1500], [65535, 2000, 0]], "<u2")),
        ("32FC1", np.array([[np.nan, 0.001, 1.5], [65.535, 2.0, np.inf]], "<f4")),
        ("32FC1", np.array([[-1.0, 0.001, 1.5], [65.535, 2.0, 3e38]], "<f4")),
    ],
)
def test_depth_from_message_is_metres_and_nan_where_nothing_was_measured(
    encoding: str, stored: np.ndarray, is_bigendian: int
) -> None:
    if is_bigendian:
        stored = stored.astype(stored.dtype.newbyteorder(">"))
    padded = np.pad(stored, ((0, 0), (0, 2)))
    message = SimpleNamespace(
        height=2, width=3, encoding=encoding, is_bigendian=is_bigendian,
        step=padded.strides[0], data=array("B", padded.tobytes()),
    )  # fmt: skip
    depth = depth_from_message(message)
    expected = np.array([[np.nan, 0.001, 1.5], [65.535, 2.0, np.nan]], np.float32)
    np.testing.assert_allclose(depth, expected)
    assert depth.dtype == np.float32


def test_depth_from_message_refuses_colour_and_data_that_do_not_fit() -> None:
    with pytest.raises(GboptError, match="expected encoding 16UC1, mono16, 32FC1, got 'rgb8'"):
        depth_from_message(image_message(RGB, "rgb8"))
    message = SimpleNamespace(
        height=2, width=3, encoding="16UC1", is_bigendian=0, step=6, data=array("B", bytes(11))
    )
    with pytest.raises(UndecodableImage, match="11 bytes of data: expected a step of at least 6"):
        depth_from_message(message)
    with pytest.raises(UndecodableImage, match="3x2 pixels are more than 5"):
        depth_from_message(message, max_pixels=5)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_image_from_message_makes_grey_three_equal_channels(encoding: str) -> None:
    grey = np.array([[0, 1, 254], [255, 128, 7]], np.uint8)
    image = image_from_message(image_message(grey, encoding))
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
def test_image_from_message_divides_mono16_by_257_and_rounds(byte_order: str) -> None:
    values = np.array([[0, 128, 129, 257, 65535, 65406, 65407]], byte_order)
    message = image_message(values, "mono16", is_bigendian=int(byte_order[0] == ">"))
    assert image_from_message(message)[0, :, 0].tolist() == [0, 0, 1, 1, 255, 254, 255]


def test_image_from_message_keeps_every_8_bit_level_through_16_bits() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = image_from_message(image_message(levels.astype(np.uint16) * 257, "mono16"))
    np.testing.assert_array_equal(image[..., 0], levels)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_image_from_message_demosaics_a_flat_bayer_colour(pattern: str, depth: int) -> None:
    colour = {"r": 200, "g": 100, "b": 50}
    tile = np.array([colour[c] for c in pattern], np.uint8).reshape(2, 2)
    mosaic = np.tile(tile, (8, 8))
    if depth == 16:
        mosaic = mosaic.astype(np.uint16) * 257
    image = image_from_message(image_message(mosaic, f"bayer_{pattern}{depth}"))
    assert image.shape == (16, 16, 3)
    np.testing.assert_array_equal(image[2:-2, 2:-2].reshape(-1, 3), [[200, 100, 50]] * 144)


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")],
)
def test_image_from_message_converts_yuv422_red(encoding: str, order: str) -> None:
    values = {"y": 81, "u": 90, "v": 240}  # BT.601 red
    row = np.array([[values[c] for c in order] * 2], np.uint8).reshape(1, 4, 2)
    image = image_from_message(image_message(np.repeat(row, 2, axis=0), encoding))
    assert image.shape == (2, 4, 3)
    np.testing.assert_allclose(image.reshape(-1, 3), [[255, 0, 0]] * 8, atol=2)


@pytest.mark.parametrize(("encoding", "chroma"), [("nv12", (90, 240)), ("nv21", (240, 90))])
def test_image_from_message_reads_nv12_chroma_rows_below_the_luma(
    encoding: str, chroma: tuple[int, int]
) -> None:
    luma = np.full((4, 6), 81, np.uint8)
    data = np.concatenate([luma, np.tile(np.array(chroma, np.uint8), (2, 3))])
    message = image_message(luma, encoding, data=data.reshape(-1))
    image = image_from_message(message)
    assert image.shape == (4, 6, 3)
    np.testing.assert_allclose(image.reshape(-1, 3), [[255, 0, 0]] * 24, atol=2)


def test_image_from_message_drops_row_padding() -> None:
    padded = np.full((2, 11), 99, np.uint8)
    padded[:, :6] = RGB.reshape(2, 6)
    message = image_message(RGB, "rgb8", step=11, data=padded.reshape(-1))
    np.testing.assert_array_equal(image_from_message(message), RGB)


def test_image_from_message_accepts_array_array_of_rclpy() -> None:
    fields = image_fields(RGB)
    fields["data"] = array("B", fields["data"].tobytes())
    np.testing.assert_array_equal(image_from_message(SimpleNamespace(**fields)), RGB)


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_image_from_message_refuses_depth(encoding: str) -> None:
    with pytest.raises(GboptError, match=f"{encoding}.*depth, not colour") as caught:
        image_from_message(image_message(np.zeros((2, 2), np.uint16), encoding))
    assert not isinstance(caught.value, UndecodableImage)


def test_image_from_message_names_unknown_and_supported_encodings() -> None:
    with pytest.raises(GboptError, match="unknown image encoding 'hsv8'") as caught:
        image_from_message(image_message(RGB, "hsv8"))
    assert all(encoding in str(caught.value) for encoding in SUPPORTED_ENCODINGS)


@pytest.mark.parametrize(
    "fields",
    [
        {"step": 5},
        {"height": 3},
        {"height": 0},
        {"width": 0},
        {"data": np.zeros(0, np.uint8)},
    ],
)
def test_image_from_message_refuses_data_that_do_not_fit(fields: dict[str, object]) -> None:
    with pytest.raises(UndecodableImage):
        image_from_message(image_message(RGB, "rgb8", **fields))


def test_image_from_message_refuses_yuv422_of_an_odd_width() -> None:
    with pytest.raises(UndecodableImage, match="cannot be converted"):
        image_from_message(image_message(np.zeros((2, 3, 2), np.uint8), "yuv422"))


def test_encode_image_png_is_lossless_and_jpeg_close() -> None:
    image = cv2.GaussianBlur(noise_frames(1, (48, 64))[0].image, (0, 0), 4)
    png = compressed_message(encode_image(image, "png").tobytes(), "png")
    np.testing.assert_array_equal(image_from_compressed_message(png), image)
    jpeg = compressed_message(encode_image(image, "jpeg", 95).tobytes())
    error = image_from_compressed_message(jpeg).astype(int) - image
    assert np.abs(error).mean() < 3


def test_image_from_compressed_message_makes_grey_rgb() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    message = compressed_message(cv2.imencode(".png", grey)[1].tobytes(), "mono8; png compressed")
    np.testing.assert_array_equal(
        image_from_compressed_message(message), np.repeat(grey[..., None], 3, axis=2)
    )


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("target", ["", "bayer_grbg8"])
def test_image_from_compressed_message_demosaics_a_bayer_pattern(target: str, depth: int) -> None:
    """image_transport names the pattern, and compresses the mosaic as a grey image."""
    mosaic = np.tile(np.array([[100, 200], [50, 100]]), (8, 8)).astype(f"u{depth // 8}")
    encoded = cv2.imencode(".png", mosaic * (257 if depth == 16 else 1))[1].tobytes()
    kind = f"bayer_grbg{depth}; png compressed {target}"
    image = image_from_compressed_message(compressed_message(encoded, kind))
    np.testing.assert_array_equal(image[2:-2, 2:-2].reshape(-1, 3), [[200, 100, 50]] * 144)


@pytest.mark.parametrize("encoding", ["rgb8", "rgba8", "bgr8", "bgra8"])
def test_image_from_compressed_message_reads_tiff_of_image_transport(encoding: str) -> None:
    """It hands the pixels of its message to OpenCV, which takes them for BGR."""
    pixels = RGB if encoding.startswith("rgb") else RGB[..., ::-1]
    if "a" in encoding:
        pixels = np.concatenate([pixels, ALPHA], axis=2)
    encoded = cv2.imencode(".tiff", pixels)[1].tobytes()
    message = compressed_message(encoded, f"{encoding}; tiff compressed ")
    np.testing.assert_array_equal(image_from_compressed_message(message), RGB)


@pytest.mark.parametrize(
    "kind", ["bayer_rggb8; png compressed mono8", "bayer_rggb8; png compressed bgr8", "bayer_xyzw8"]
)
def test_image_from_compressed_message_leaves_what_is_no_bayer_pattern_any_more(kind: str) -> None:
    """`mono8`: image_transport without `jpeg_compress_bayer`."""
    message = compressed_message(encode_image(RGB, "png").tobytes(), kind)
    np.testing.assert_array_equal(image_from_compressed_message(message), RGB)


@pytest.mark.parametrize("compression", ["jpeg", "png"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.99])
def test_decode_image_refuses_a_cut_image(compression: str, kept: float) -> None:
    data = encode_image(noise_frames(1)[0].image, compression).tobytes()
    with pytest.raises(UndecodableImage, match=compression):
        image_from_compressed_message(
            compressed_message(data[: int(len(data) * kept)], compression)
        )


def test_decode_image_refuses_a_cut_jpeg_with_a_whole_thumbnail() -> None:
    """OpenCV 4 fills the rest with grey. The thumbnail, in the header, has an end marker, too."""
    image = noise_frames(1)[0].image
    thumbnail = encode_image(image[:8, :8], "jpeg").tobytes()
    whole = encode_image(image, "jpeg").tobytes()
    header = b"\xff\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    data = np.frombuffer(whole[:2] + header + whole[2:], np.uint8)
    np.testing.assert_array_equal(decode_image(data), decode_image(np.frombuffer(whole, np.uint8)))
    with pytest.raises(UndecodableImage, match=f"the JPEG is cut off after {len(data) - 9} bytes"):
        decode_image(data[:-9])


@pytest.mark.parametrize("kind", ["16UC1; compressedDepth png", "32FC1; compressedDepth rvl"])
def test_image_from_compressed_message_refuses_depth(kind: str) -> None:
    with pytest.raises(GboptError, match="depth, not colour") as caught:
        image_from_compressed_message(compressed_message(b"x" * 20, kind))
    assert not isinstance(caught.value, UndecodableImage)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"])
def test_decode_image_asks_the_header_for_the_number_of_pixels(suffix: str) -> None:
    _, encoded = cv2.imencode(suffix, np.zeros((30, 40, 3), np.uint8))
    assert decode_image(encoded.reshape(-1), 1200).shape == (30, 40, 3)
    with pytest.raises(UndecodableImage, match="40x30 pixels are more than 1199; make the image"):
        decode_image(encoded.reshape(-1), 1199)


def test_decode_image_refuses_a_small_file_of_many_pixels() -> None:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)  # 1.2 GB as pixels
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    png += struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 0) + b"IDAT" + b"5\xaf\x06\x1e"
    with pytest.raises(UndecodableImage, match="20000x20000 pixels are more than 64000000"):
        image_from_compressed_message(compressed_message(png, "png"))


@pytest.mark.filterwarnings("error")
def test_decode_image_leaves_the_limit_to_the_caller() -> None:
    """Pillow's own limit is 89 million pixels, with a warning."""
    _, encoded = cv2.imencode(".png", np.zeros((9_500, 9_500), np.uint8))
    with pytest.raises(UndecodableImage, match="9500x9500 pixels are more than 64000000"):
        decode_image(encoded.reshape(-1))


@pytest.mark.parametrize("pixels", [np.zeros((8, 8), np.float32), np.zeros((8, 8, 3), np.float32)])
def test_decode_image_says_what_pixels_it_reads(pixels: np.ndarray) -> None:
    _, encoded = cv2.imencode(".tiff", pixels)
    with pytest.raises(UndecodableImage, match="floating point; convert it to 8 or 16 bits"):
        decode_image(encoded.reshape(-1))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_images_of_12_bits_in_the_lower_part_of_16_are_refused(suffix: str) -> None:
    """And a depth image in millimetres. Upper bits, black and dark 8-bit images are read."""

    def decoded(values: np.ndarray) -> int:
        return int(decode_image(cv2.imencode(suffix, values)[1].reshape(-1)).max())

    values = np.full((8, 8), 100, np.uint16)
    values[3, 4] = 4095
    for low in (values, values // 16):
        with pytest.raises(UndecodableImage, match="multiply 12 bits by 16"):
            decoded(low)
        with pytest.raises(UndecodableImage, match=f"no value above {low.max()}:"):
            image_from_message(image_message(low, "mono16"))
    assert decoded(values * 16) == image_from_message(image_message(values * 16, "mono16")).max()
    assert decoded(values * 16) == 255
    assert decoded(0 * values) == image_from_message(image_message(0 * values, "mono16")).max() == 0
    assert decoded(np.full((8, 8), 15, np.uint8)) == 15


def test_decode_image_takes_the_upper_8_of_16_bits() -> None:
    values = np.array([[0, 255, 256, 4095, 65535]], np.uint16).repeat(5, axis=0)
    image = decode_image(cv2.imencode(".png", values)[1].reshape(-1))
    assert image[0, :, 0].tolist() == [0, 0, 1, 15, 255]


def test_images_that_are_mere_lines_are_refused() -> None:
    line = np.zeros((1, 65, 3), np.uint8)
    with pytest.raises(UndecodableImage, match="65x1 pixels: expected a side at most 64 times"):
        decode_image(cv2.imencode(".png", line)[1].reshape(-1))
    with pytest.raises(UndecodableImage, match="65x1 pixels"):
        image_from_message(image_message(line, "rgb8"))
    with pytest.raises(UndecodableImage, match="more than 5;"):
        image_from_message(image_message(line[:, :6], "rgb8"), 5)
    assert image_from_message(image_message(line[:, :64], "rgb8")).shape == (1, 64, 3)


def test_read_image_does_not_read_a_file_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(16 * 100 + 1)
    with pytest.raises(UndecodableImage, match="too large for an image of 100 pixels"):
        read_image(tmp_path / "a.png", 100)
