"""The plane residual: what departs from the motion of the surroundings, and what is unknown."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from gbopt_ros.perception.plane_residual import motion_evidence, plane_residual

HOMOGRAPHY = np.array([[1.02, 0.01, 3.0], [-0.015, 0.99, -2.0], [1e-5, -2e-5, 1.0]])


def plane_flow(size: tuple[int, int], homography: NDArray[np.float64]) -> NDArray[np.float32]:
    """The flow of a plane that moves by a homography."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    here = np.stack([columns, rows], axis=-1)
    there = cv2.perspectiveTransform(here.reshape(-1, 1, 2), homography).reshape(here.shape)
    return (there - here).astype(np.float32)


def test_plane_residual_measures_what_departs_from_the_plane() -> None:
    size = (120, 160)
    flow, back = (plane_flow(size, h) for h in (HOMOGRAPHY, np.linalg.inv(HOMOGRAPHY)))
    thing = slice(40, 70), slice(60, 100)
    flow[thing] += (3.0, -4.0)  # pixels
    arrived = slice(30, 70), slice(60, 110)  # where the thing may be in the other frame
    back[arrived] -= (3.0, -4.0)
    residual = plane_residual(flow, back, np.full(size, 0.95))
    inside = residual[45:65, 65:95]
    np.testing.assert_allclose(inside, 1000 * 5 / 120, atol=1.5)  # the plane's flow varies a little
    outside = residual[80:110, 20:140]
    np.testing.assert_allclose(outside, 0, atol=0.1)


def test_plane_residual_of_hidden_pixels_is_unknown() -> None:
    size = (120, 160)
    shift = np.array([[1.0, 0, 30], [0, 1, 0], [0, 0, 1]])
    flow, back = plane_flow(size, shift), plane_flow(size, np.linalg.inv(shift))
    back[50:60, 50:60] += 2.0  # leads elsewhere
    flow[90:110, 40:80] += 4.0  # something stands out
    back[94:114, 74:114] -= 4.0
    residual = plane_residual(flow, back, np.ones(size))
    assert np.all(np.isnan(residual[:, 131:]))  # moved out of the image
    assert np.all(np.isnan(residual[51:59, 21:29]))
    np.testing.assert_allclose(residual[:40, :120], 0, atol=1e-2)


def test_plane_residual_without_sure_background_is_unknown() -> None:
    flow = plane_flow((48, 64), HOMOGRAPHY)
    assert np.all(np.isnan(plane_residual(flow, -flow, np.full((48, 64), 0.5))))


def test_plane_residual_of_surroundings_that_are_no_plane_is_unknown() -> None:
    """Three bands that slide past each other: no homography fits more than one."""
    flow = np.zeros((120, 160, 2), np.float32)
    flow[:, 53:106, 1], flow[:, 106:, 1] = 8.0, -8.0
    assert np.all(np.isnan(plane_residual(flow, -flow, np.ones((120, 160)))))


def test_plane_residual_does_not_depend_on_the_resolution() -> None:
    found = []
    for scale in (1, 2):
        size = (120 * scale, 160 * scale)
        flow = np.zeros((*size, 2), np.float32)
        flow[: size[0] // 4, : size[1] // 4] = 6.0 * scale
        found.append(plane_residual(flow, -flow, np.ones(size))[5 * scale, 5 * scale])
    assert found[0] == pytest.approx(1000 * np.hypot(6, 6) / 120, rel=1e-3)
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_plane_residual_of_a_camera_at_rest_knows_only_what_moves() -> None:
    flow = np.zeros((120, 160, 2), np.float32)
    assert np.all(np.isnan(plane_residual(flow, -flow, np.ones((120, 160)))))
    flow[:30, :40] = 4.0
    residual = plane_residual(flow, -flow, np.ones((120, 160)))
    np.testing.assert_allclose(residual[5:25, 5:35], 1000 * np.hypot(4, 4) / 120, rtol=1e-3)
    assert np.all(np.isnan(residual[40:]))


def test_plane_residual_of_a_bare_plane_is_unknown() -> None:
    flow, back = (plane_flow((120, 160), h) for h in (HOMOGRAPHY, np.linalg.inv(HOMOGRAPHY)))
    assert np.all(np.isnan(plane_residual(flow, back, np.ones((120, 160)))))


def test_plane_residual_does_not_extrapolate_the_plane() -> None:
    background = np.zeros((120, 160))
    background[:60, :80] = 1
    flow, back = (plane_flow((120, 160), h) for h in (HOMOGRAPHY, np.linalg.inv(HOMOGRAPHY)))
    flow[10:40, 10:40] += 4
    back[5:50, 10:50] -= 4
    residual = plane_residual(flow, back, background)
    assert np.all(np.isnan(residual[70:, 90:]))
    assert np.isfinite(residual[5:58, 52:76]).all()
    background[:60, 24:] = 0  # too little
    assert np.all(np.isnan(plane_residual(flow, back, background)))


def test_motion_evidence_grows_with_the_residual() -> None:
    evidence = motion_evidence(np.array([[0.0, 1.0, 5.0, 50.0, np.nan]]))[0]
    assert np.all(np.diff(evidence[:4]) > 0)
    assert evidence[0] < -1.5
    assert evidence[3] > 1.5
    assert evidence[4] == 0


def test_plane_residual_does_not_depend_on_where_memory_lies() -> None:
    size = (48, 64)
    rng = np.random.default_rng(0)
    flow, back = rng.normal((2, 1), 0.06, (2, *size, 2)).astype(np.float32)
    back *= -1
    first = plane_residual(flow, back, np.full(size, 0.95))
    assert np.isfinite(first[0, :8]).all()
    kept = []
    for number in range(100):  # blocks of other sizes move the next ones by multiples of 16 bytes
        kept.append(np.empty(4 * size[0] * size[1] + 16 * int(rng.integers(1, 9)), np.uint8))
        found = plane_residual(flow, back, np.full(size, 0.95))
        np.testing.assert_array_equal(found, first, err_msg=f"call {number}")
