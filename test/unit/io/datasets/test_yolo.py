"""YOLO's polygons: no pixel of a mask is lost, and lines that are no polygon are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gbopt_ros.io.datasets.yolo import format_labels, mask_to_polygon, read_labels
from gbopt_ros.masks import decode, encode
from gbopt_ros.structures import GboptError


def test_mask_to_polygon_runs_inside_the_pixels_of_a_square() -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:3, 4:7] = True
    corners = {(4.25, 1.25), (4.25, 2.75), (6.75, 2.75), (6.75, 1.25)}
    assert {tuple(point) for point in mask_to_polygon(encode(mask))} == corners
    assert mask_to_polygon(encode(np.zeros((6, 8), bool))).shape == (0, 2)


def test_labels_keep_every_pixel_of_parts_holes_and_single_pixels(tmp_path: Path) -> None:
    ring = np.zeros((9, 12), bool)
    ring[1:8, 1:8] = True
    ring[3:6, 3:6] = False
    ring[4, 4] = ring[0, 11] = True
    noise = np.random.default_rng(0).random((20, 9, 12)) < 0.5
    masks = [ring, *noise]
    (tmp_path / "a.txt").write_text(format_labels([encode(mask) for mask in masks]))
    read = read_labels(tmp_path / "a.txt", (9, 12))
    assert all(np.array_equal(decode(rle), m) for rle, m in zip(read, masks, strict=True))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.1 0.1 0.2 0.2", "line 2: expected a class and a polygon, got 4"),
        ("0 0.1 0.1 0.2 nan 0.3 0.3", "line 2: a polygon reaches beyond"),
        ("0 0.1 0.1 0.2 1e30 0.3 0.3", "line 2: a polygon reaches beyond"),
        ("0 a b c d e f", "line 2: could not convert"),
        ("0 0.1 0.1 0.2 0.2 0.3", "line 2: expected a class and a polygon, got 5"),
    ],
)
def test_read_labels_refuses_lines_that_are_no_polygon(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"\n{line}\n")
    with pytest.raises(GboptError, match=message):
        read_labels(path, (10, 10))
    with pytest.raises(GboptError, match="cannot be read"):
        read_labels(tmp_path / "b.txt", (10, 10))


def test_format_labels_has_no_line_for_a_mask_without_pixels() -> None:
    """Ultralytics refuses a label file with a line without a polygon."""
    empty, full = encode(np.zeros((4, 4), bool)), encode(np.ones((4, 4), bool))
    assert format_labels([empty, full]) == format_labels([full])
    assert format_labels([empty]) == ""
