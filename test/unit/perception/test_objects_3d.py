"""Points and boxes in space: small arrays by hand, and the simulator's depth camera."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from gbopt_ros.masks import decode_all
from gbopt_ros.perception.objects_3d import (
    Box,
    Intrinsics,
    bounding_box,
    extended_down,
    locate,
    object_pixels,
    points_of,
    surface_near,
    transformed,
)
from gbopt_ros.structures import GboptError

CAMERA = Intrinsics((48, 64), (50.0, 40.0), (31.5, 23.5))


def test_points_of_a_pinhole_camera() -> None:
    depth = np.full((48, 64), 2.0, np.float32)
    points = points_of(np.array([0, 40]), np.array([10, 63]), depth, CAMERA.rays())
    expected = [[2 * (10 - 31.5) / 50, 2 * -23.5 / 40, 2], [2 * 31.5 / 50, 2 * 16.5 / 40, 2]]
    np.testing.assert_allclose(points, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("plumb_bob", (-0.12, 0.05, 1e-3, -2e-3, 0.01)),
        ("rational_polynomial", (0.2, -0.1, 1e-3, 1e-3, 0.02, 0.1, -0.05, 0.01)),
        ("equidistant", (0.02, -0.01, 0.003, -0.001)),
    ],
)
def test_rays_undo_distortion(model: str, distortion: tuple[float, ...]) -> None:
    """Points in space, projected by OpenCV, lie on the rays of their pixels."""
    camera = replace(CAMERA, model=model, distortion=distortion)
    rays = camera.rays()
    rows, columns = np.array([3, 24, 44]), np.array([5, 30, 60])
    points = np.column_stack([rays[rows, columns], np.ones(3)]).astype(np.float64)
    matrix = np.array([[50.0, 0, 31.5], [0, 40.0, 23.5], [0, 0, 1]])
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    pixels, _ = project(points[:, None], np.zeros(3), np.zeros(3), matrix, np.array(distortion))
    np.testing.assert_allclose(pixels[:, 0], np.column_stack([columns, rows]), atol=0.01)
    assert not np.allclose(rays, CAMERA.rays(), atol=1e-3)


def test_rays_of_a_wide_lens_come_back_to_their_pixels() -> None:
    """The left camera of EuRoC, at 640x480."""
    distortion = (-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05, 0.0)
    matrix = np.array([[390.3, 0, 312.5], [0, 389.3, 248.4], [0, 0, 1]])
    camera = Intrinsics((480, 640), (390.3, 389.3), (312.5, 248.4), distortion, "plumb_bob")
    corners = camera.rays()[[0, 0, 479, 479], [0, 639, 0, 639]].astype(np.float64)
    points = np.column_stack([corners, np.ones(4)])[:, None]
    pixels, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, np.array(distortion))
    np.testing.assert_allclose(pixels[:, 0], [[0, 0], [639, 0], [0, 479], [639, 479]], atol=1e-3)


def test_rays_of_a_fisheye_without_coefficients_are_equidistant() -> None:
    """Pixels at r from the centre show what is at the angle r / f; at 90 degrees nothing does."""
    camera = Intrinsics((3, 241), (50.0, 50.0), (120.0, 1.0), (0.0, 0.0, 0.0, 0.0), "equidistant")
    rays = camera.rays()[1]
    angles = (np.arange(241) - 120) / 50
    seen = np.abs(angles) < np.pi / 2
    np.testing.assert_allclose(rays[seen, 0], np.tan(angles[seen]), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(rays[seen, 1], 0, atol=1e-6)
    assert np.isnan(rays[~seen]).all()


def test_rays_are_nan_where_the_distortion_model_reaches_none() -> None:
    """With k1 = -0.3 no ray comes farther from the centre than 0.703 focal lengths, at 1.054."""
    camera = Intrinsics((3, 201), (100.0, 100.0), (100.0, 1.0), (-0.3, 0, 0, 0, 0), "plumb_bob")
    rays = camera.rays()[1]
    distance = np.abs(np.arange(201) - 100)
    assert np.isfinite(rays[distance <= 70]).all()
    assert np.isnan(rays[distance >= 71]).all()
    assert np.nanmax(rays[:, 0]) < 1.054


def test_locate_leaves_out_depth_without_a_ray() -> None:
    rays = CAMERA.rays()
    rays[:, :32] = np.nan
    masks, depth = np.ones((1, 48, 64), bool), np.ones((48, 64), np.float32)
    (found,) = locate(
        masks, np.zeros((48, 64, 3), np.uint8), depth, rays, np.eye(4), border=0, on_surface=False
    )
    assert len(found.points) == 48 * 32
    assert np.isfinite(found.points).all()
    assert np.isfinite(found.box.centre).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"focal": (0.0, 0.0)}, "is the camera calibrated"),
        ({"centre": (float("nan"), 1.0)}, "finite"),
        ({"size": (0, 0)}, "size above 0"),
        ({"model": "kannala", "distortion": (0.1,)}, "unknown distortion model 'kannala'"),
    ],
)
def test_intrinsics_refuse_what_is_no_camera(changes: dict[str, object], words: str) -> None:
    with pytest.raises(GboptError, match=words):
        replace(CAMERA, **changes)


def test_rays_refuse_coefficients_that_do_not_fit_the_model() -> None:
    camera = replace(CAMERA, model="plumb_bob", distortion=(0.1, 0.1, 0.1))
    with pytest.raises(GboptError, match="3 coefficients do not fit"):
        camera.rays()


@pytest.mark.parametrize(("other", "mixture"), [(3.0, 1.9), (0.4, 0.7)])
def test_object_pixels_leave_out_what_is_not_of_the_object(other: float, mixture: float) -> None:
    """An object at 1 m; its mask is 2 pixels too wide, with a hole, behind it or before it."""
    depth = np.full((40, 40), other, np.float32)
    depth[10:30, 10:30] = 1.0
    depth[18:22, 18:22] = other  # the hole
    depth[10, 10:30] = mixture  # along an edge
    depth[25, 12:20] = np.nan
    mask = np.zeros((40, 40), bool)
    mask[8:32, 8:32] = True
    expected = depth == 1.0
    rows, columns = object_pixels(mask, depth, border=2)
    got = np.zeros_like(mask)
    got[rows, columns] = True
    np.testing.assert_array_equal(got, expected)


def test_object_pixels_take_one_of_two_halves() -> None:
    """As many pixels at 1 m as at 2 m: none is at the mean of both, 1.5 m."""
    depth = np.repeat(np.array([[1.0], [2.0]], np.float32), 10, axis=0).repeat(20, axis=1)
    rows, _ = object_pixels(np.ones((20, 20), bool), depth, border=0)
    assert len(rows) == 200
    assert rows.max() == 9


def test_object_pixels_leave_out_a_border_that_leads_away_in_small_steps() -> None:
    """Depth cameras mix object and background at an edge; each step alone is no gap (2 cm)."""
    depth = np.ones((30, 30), np.float32)
    depth[:, :4] = [1.072, 1.054, 1.036, 1.018]
    rows, columns = object_pixels(np.ones((30, 30), bool), depth, border=4)
    assert len(rows) == 30 * 27
    assert columns.min() == 3


def test_object_pixels_keep_a_handle_and_a_thin_object() -> None:
    """Depth that changes without a gap is of the object; a mask narrower than its border counts."""
    depth = np.tile(np.linspace(0.5, 0.8, 60, dtype=np.float32), (20, 1))
    mask = np.ones((20, 60), bool)
    assert len(object_pixels(mask, depth, border=2)[0]) == mask.sum()
    mask[1:] = False
    assert len(object_pixels(mask, depth, border=2)[0]) == 60
    assert len(object_pixels(np.zeros_like(mask), depth, border=2)[0]) == 0
    assert len(object_pixels(mask, np.full_like(depth, np.nan), border=2)[0]) == 0


def test_bounding_box_of_a_turned_cuboid() -> None:
    rng = np.random.default_rng(0)
    local = rng.uniform(-0.5, 0.5, (4000, 3)) * [0.2, 0.1, 0.3]
    yaw = np.radians(30)
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    points = (local @ turn.T + [1.0, -2.0, 0.5]).astype(np.float32)
    points[:20] += 5  # stray points
    box = bounding_box(points)
    np.testing.assert_allclose(box.centre, (1.0, -2.0, 0.5), atol=0.003)
    np.testing.assert_allclose(box.size, (0.2, 0.1, 0.3), atol=0.01)
    assert np.degrees(box.yaw) == pytest.approx(30, abs=1.6)


def test_bounding_box_is_upright_where_turning_gains_nothing() -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 12)] * 3), -1).reshape(-1, 3)
    assert bounding_box(grid.astype(np.float32)).yaw == 0.0
    scattered = np.random.default_rng(0).uniform(0, 1, (300, 3)) * [0.2, 0.1, 0.1]
    box = bounding_box(scattered.astype(np.float32))  # 87 degrees would be 1 % smaller
    assert box.yaw == 0.0 and box.size[0] > 0.19 and box.size[1] < 0.11
    one = bounding_box(np.array([[1, 2, 3]], np.float32))
    assert one == Box((1.0, 2.0, 3.0), (0.0, 0.0, 0.0), 0.0)


def test_box_is_extended_down_to_the_table_and_not_to_the_floor() -> None:
    box = Box((0.0, 0.0, 0.9), (0.1, 0.1, 0.1), 0.3)
    table = np.column_stack([np.linspace(-0.1, 0.1, 40), np.zeros(40), np.full(40, 0.8)])
    floor = np.column_stack([np.full(100, 1.5), np.zeros(100), np.zeros(100)])
    surface = surface_near(box, np.concatenate([table, floor]).astype(np.float32))
    assert surface == pytest.approx(0.8)
    down = extended_down(box, surface)
    assert down.centre == pytest.approx((0.0, 0.0, 0.875))
    assert down.size == pytest.approx((0.1, 0.1, 0.15))
    assert down.yaw == box.yaw
    assert extended_down(box, 0.87) is box  # a neighbour is higher than the bottom
    assert surface_near(box, floor.astype(np.float32)) is None


def test_locate_leaves_out_objects_without_depth() -> None:
    depth = np.full((48, 64), np.nan, np.float32)
    depth[10:30, 10:30] = 1.0
    masks = np.zeros((2, 48, 64), bool)
    masks[0, :, 40:] = True
    masks[1, 12:28, 12:28] = True
    image = np.arange(48 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(48, 64, 3)
    pose = np.eye(4)
    pose[:3, 3] = 1, 2, 3
    (found,) = locate(masks, image, depth, CAMERA.rays(), pose, border=2, on_surface=False)
    assert found.index == 1
    assert len(found.points) == 256
    np.testing.assert_array_equal(found.colours, image[12:28, 12:28].reshape(-1, 3))
    np.testing.assert_allclose(found.points[:, 2], 4.0)
    expected = transformed(points_of(*np.nonzero(masks[1]), depth, CAMERA.rays()), pose)
    np.testing.assert_allclose(found.points, expected)


def test_locate_gives_the_same_box_far_from_the_origin_of_the_map() -> None:
    """The coordinates of UTM zones, where float32 numbers are up to 0.25 m apart."""
    depth = np.ones((48, 64), np.float32)
    mask = np.zeros((1, 48, 64), bool)
    mask[0, 12:28, 12:28] = True
    near, far = np.eye(4), np.eye(4)
    far[:3, 3] = 500_000, 4_000_000, 100
    boxes = [
        locate(mask, np.zeros((48, 64, 3), np.uint8), depth, CAMERA.rays(), pose,
               border=2, on_surface=False)[0].box
        for pose in (near, far)
    ]  # fmt: skip
    np.testing.assert_allclose(boxes[1].size, boxes[0].size, atol=1e-6)
    np.testing.assert_allclose(boxes[1].centre, far[:3, 3] + boxes[0].centre, atol=1e-6, rtol=0)


def test_centres_of_a_simulated_recording_are_within_1_cm() -> None:
    """Cans, capsules, balls and boxes by a moving depth camera, with noise and holes in depth."""
    pytest.importorskip("pybullet", reason="rendering needs the extra `sim` (pybullet)")
    from gbopt_ros.simulation.depth_camera import HOLES, render_rgbd
    from gbopt_ros.simulation.scene import Scene
    from gbopt_ros.simulation.simulator import Simulator

    sim, errors = Simulator(), []
    for seed in (20, 29):
        rng = np.random.default_rng(seed)
        scene = Scene(sim, rng, seen=True, settle_s=1.5)
        cameras = [
            replace(scene.camera, pitch=55.0, distance=0.55, yaw=20.0 * step) for step in range(3)
        ]
        for frame in render_rgbd(sim, scene, cameras, rng):
            assert np.isnan(frame.depth).mean() == pytest.approx(HOLES, abs=0.02)
            objects = locate(
                decode_all([shown.rle for shown in frame.objects], frame.depth.shape),
                frame.image, frame.depth, cameras[0].intrinsics().rays(), frame.pose,
                border=2, on_surface=True,
            )  # fmt: skip
            centres = {each.index: each.box.centre for each in objects}
            for index, shown in enumerate(frame.objects):
                if not shown.name.isdigit():  # a primitive: its centre of mass is its middle
                    errors.append(np.linalg.norm(np.subtract(centres[index], shown.centre)))
    assert len(errors) >= 20
    assert max(errors) < 0.01
    assert float(np.median(errors)) < 0.006
