"""Appendix C: composites on a photograph."""

from __future__ import annotations

import numpy as np

from gbopt_ros.selection.synthesis import background_photograph, composite


def test_composite_shows_the_masks_on_the_photograph() -> None:
    image = np.full((2, 2, 3), 7, np.uint8)
    photograph = background_photograph((2, 2), 0)
    foreground = np.array([[True, False], [False, False]])
    made = composite(image, foreground, photograph)
    assert (made[0, 0] == 7).all()
    np.testing.assert_array_equal(made[~foreground], photograph[~foreground])


def test_background_photograph_is_seeded_and_textured() -> None:
    first, again = background_photograph((60, 80), 3), background_photograph((60, 80), 3)
    np.testing.assert_array_equal(first, again)
    assert (first != background_photograph((60, 80), 4)).any()
    assert first.std() > 20
    assert np.abs(np.diff(first.astype(int), axis=1)).mean() > 2
