"""Appendix C: composites on a photograph."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from gbopt_ros.config import load_config
from gbopt_ros.perception.flow import DisFlow
from gbopt_ros.selection import make_selector
from gbopt_ros.selection.synthesis import at_composite_size, background_photograph, composite
from gbopt_ros.structures import GboptError


def test_composite_shows_the_masks_on_the_photograph() -> None:
    image = np.full((2, 2, 3), 7, np.uint8)
    photograph = background_photograph((2, 2), 0)
    foreground = np.array([[True, False], [False, False]])
    made = composite(image, foreground, photograph)
    assert (made[0, 0] == 7).all()
    np.testing.assert_array_equal(made[~foreground], photograph[~foreground])


def test_images_are_averaged_and_flows_keep_their_places() -> None:
    stripes = np.zeros((60, 80, 3), np.uint8)
    stripes[:, ::5] = 200  # one of the five columns that each pixel of the small image covers
    assert (at_composite_size(stripes, 12) == 40).all()
    rows, columns = np.mgrid[0:60, 0:80].astype(np.float32)
    small = at_composite_size(np.stack([columns, rows], axis=-1), 12)
    middles = np.mgrid[0:12, 0:16].astype(np.float32) * 5 + 2  # of the 5 x 5 pixels covered
    np.testing.assert_allclose(small, np.stack([middles[1], middles[0]], axis=-1), atol=1e-4)


@pytest.mark.parametrize("side", [0, 60, 100])
def test_what_is_small_enough_keeps_its_size(side: int) -> None:
    values = np.arange(60 * 80, dtype=np.float32).reshape(60, 80)
    np.testing.assert_array_equal(at_composite_size(values, side), values)


def test_background_photograph_is_seeded_and_textured() -> None:
    first, again = background_photograph((60, 80), 3), background_photograph((60, 80), 3)
    np.testing.assert_array_equal(first, again)
    assert (first != background_photograph((60, 80), 4)).any()
    with pytest.raises(ValueError, match="read-only"):  # others have the same
        first[0] = 0
    assert first.std() > 20
    assert np.abs(np.diff(first.astype(int), axis=1)).mean() > 2


def test_background_photograph_of_a_file_is_scaled_to_the_frames(tmp_path: Path) -> None:
    left_red = np.zeros((40, 80, 3), np.uint8)
    left_red[:, :40, 2] = 200  # BGR
    path = tmp_path / "room.png"
    cv2.imwrite(str(path), left_red)
    made = background_photograph((10, 12), 0, str(path))
    assert made.shape == (10, 12, 3)
    assert (made[:, :6] == (200, 0, 0)).all()
    assert (made[:, 6:] == 0).all()


def test_make_selector_reads_the_photograph_at_once(tmp_path: Path) -> None:
    config = load_config(None, [f"selection.photograph={tmp_path / 'missing.jpg'}"])
    with pytest.raises(GboptError, match=r"missing\.jpg: image cannot be read"):
        make_selector(DisFlow(), config)
