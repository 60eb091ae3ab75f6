"""Masks that were turned into polygons through the centres of their outer pixels."""

from __future__ import annotations

import numpy as np

from gbopt_ros.learning.data.outlines import outline_forms
from gbopt_ros.masks import decode, encode
from gbopt_ros.structures import BoolMask


def pixels(text: str) -> BoolMask:
    return np.array([[character == "#" for character in row] for row in text.split()])


def forms(mask: BoolMask) -> list[list[str]]:
    """The distinct forms of a mask, and the parts of each as text."""
    found = [
        [" ".join("".join(".#"[int(v)] for v in row) for row in decode(part)) for part in form]
        for form in outline_forms(encode(mask))
    ]
    return [form for number, form in enumerate(found) if form not in found[:number]]


def test_outlines_lose_half_a_pixel_and_fill_or_cut_holes() -> None:
    ring = pixels(
        "......... .#######. .#######. .##...##. .##...##. .##...##. .#######. .#######. ........."
    )
    filled = "......... " + ".######.. " * 6 + "......... ........."
    cut = ("......... .######.. .#....#.. .#....#.. .#....#.. .##..##.. .######.. "
           "......... .........")  # fmt: skip
    assert forms(ring)[:2] == [[filled], [cut]]


def test_parts_come_back_as_one_mask_or_one_each_and_thin_lines_never() -> None:
    parts = pixels("............ .####..###.. .####..###.. .####..###.. .####....... ......#####.")
    both = "............ .###...##... .###...##... .###........ ............ ............"
    left = "............ .###........ .###........ .###........ ............ ............"
    right = "............ .......##... .......##... ............ ............ ............"
    assert forms(parts) == [[both], [right, left]]
    assert forms(pixels("..... .###. .....")) == []
