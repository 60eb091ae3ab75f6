"""From a foreground map to scored masks."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from experiments.methods.foreground import MIN_AREA, enlarged, proposals_of, shrunk
from gbopt_ros.masks import decode_all

SIZE = (20, 40)  # the smallest component has 2 pixels


def test_proposals_of_are_the_components_by_their_mean_foreground() -> None:
    mask, foreground = np.zeros(SIZE, bool), np.zeros(SIZE, np.float32)
    mask[2:6, 2:6], foreground[2:6, 2:6] = True, 0.6
    mask[6:8, 6:8], foreground[6:8, 6:8] = True, 0.9  # touches the first at a corner only
    mask[15, 30] = True  # less than the smallest area
    found = proposals_of(mask, foreground)
    assert MIN_AREA * mask.size == 2
    assert found.scores == pytest.approx([0.9, 0.6])
    first, second = decode_all(found.rles, SIZE)
    assert np.argwhere(first).tolist() == [[6, 6], [6, 7], [7, 6], [7, 7]]
    assert second.sum() == 16 and second[2:6, 2:6].all()
    assert found.boxes.tolist() == [[6, 6, 8, 8], [2, 2, 6, 6]]


def test_proposals_of_nothing_are_none() -> None:
    found = proposals_of(np.zeros(SIZE, bool), np.zeros(SIZE))
    assert len(found) == 0 and found.boxes.shape == (0, 4)


@pytest.mark.parametrize(("longer", "expected"), [(20, (10, 20)), (40, SIZE), (400, SIZE)])
def test_shrunk_never_enlarges_and_enlarged_goes_back(
    longer: int, expected: tuple[int, int]
) -> None:
    (small,) = shrunk([np.full((*SIZE, 3), 7, np.uint8)], longer)
    assert small.shape == (*expected, 3) and (small == 7).all()
    (back,) = enlarged([small[..., 0]], SIZE)
    assert back.shape == SIZE and (back == 7).all()
