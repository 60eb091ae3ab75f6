"""Outlines drawn anew: closer to the object, disjoint, and only where the image tells."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import OutlineConfig
from gbopt_ros.selection import outlines, redraw_outlines, with_outlines
from gbopt_ros.structures import Frame, FrameEnergy, FrameSelection, Selection

GUIDED, NETWORK = OutlineConfig(method="guided"), OutlineConfig(method="network")


def selected(image: NDArray[np.uint8], masks: NDArray[np.bool_]) -> FrameSelection:
    rles, s = mask_ops.encode_all(masks), len(masks)
    return FrameSelection(
        frame=Frame(image, stamp_ns=0, index=0),
        indices=tuple(range(s)),
        rles=rles,
        boxes=mask_ops.boxes_xyxy(rles),
        scores=np.linspace(0.9, 0.5, s).astype(np.float32),
        margins=np.zeros(s),
        confidences=np.full(s, 0.5, np.float32),
        energy=FrameEnergy(0.0, 0.0, 0.0),
    )


def redrawn(image: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rles = redraw_outlines(selected(image, masks), GUIDED).rles
    return mask_ops.decode_all(rles, image.shape[:2])


def scene(
    height: int, width: int, *discs: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Coloured discs (x, y, radius) on a grey table with noise, and their true masks."""
    rng = np.random.default_rng(0)
    image = rng.normal((110, 105, 100), 6, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    truth = np.stack([(x - cx) ** 2 + (y - cy) ** 2 <= r * r for cx, cy, r in discs])
    for mask, colour in zip(truth, [(190, 40, 30), (30, 60, 190), (40, 160, 60)], strict=False):
        image[mask] = rng.normal(colour, 6, (np.count_nonzero(mask), 3))
    return np.clip(image, 0, 255).astype(np.uint8), truth


def iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float(np.count_nonzero(first & second) / np.count_nonzero(first | second))


def grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    kernel = np.ones((2 * abs(pixels) + 1,) * 2, np.uint8)
    change = cv2.dilate if pixels > 0 else cv2.erode
    return change(mask.astype(np.uint8), kernel) > 0


@pytest.mark.parametrize("change", [-3, -2, 2])
@pytest.mark.parametrize(("size", "radius"), [((120, 160), 30), ((480, 640), 150)])
def test_redraw_outlines_moves_the_outline_to_the_edge(
    change: int, size: tuple[int, int], radius: int
) -> None:
    change *= radius // 30  # the working size of the second is a third of its own
    image, truth = scene(*size, (size[1] // 2, size[0] // 2, radius))
    wrong = grown(truth[0], change)
    drawn = redrawn(image, wrong[None])[0]
    assert iou(wrong, truth[0]) < 0.91
    assert iou(drawn, truth[0]) > 0.975


def test_redraw_outlines_moves_a_shifted_mask_onto_the_object() -> None:
    image, truth = scene(120, 160, (80, 60, 30))
    wrong = np.roll(truth, 2, axis=2)
    drawn = redrawn(image, wrong)[0]
    assert np.array_equal(drawn, truth[0])


def test_redraw_outlines_leaves_out_specks_of_the_colours_of_an_object() -> None:
    image, truth = scene(240, 320, (160, 120, 45))
    rng = np.random.default_rng(1)
    for angle, distance in zip(rng.uniform(0, 6.28, 40), rng.uniform(47, 52, 40), strict=True):
        y, x = int(120 + distance * np.sin(angle)), int(160 + distance * np.cos(angle))
        image[y, x] = (190, 40, 30)
    drawn = redrawn(image, truth)[0]
    assert cv2.connectedComponents(drawn.astype(np.uint8))[0] == 2  # background and one piece
    assert iou(drawn, truth[0]) > 0.98


def test_redraw_outlines_bounds_the_time_of_a_long_thin_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    areas = []
    apply = outlines.apply_guided_filter

    def measured(fitted: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
        areas.append((fitted[..., 0].size, image[..., 0].size))
        return apply(fitted, image)

    monkeypatch.setattr(outlines, "apply_guided_filter", measured)
    image, _ = scene(1080, 1920, (960, 540, 300))
    lines = np.zeros((1, 1080, 1920), np.uint8)
    cv2.line(lines[0], (0, 0), (1919, 1079), 1, 24)
    redrawn(image, lines > 0)
    assert len(areas) == 1 and areas[0] < (100**2, 200**2)


def test_redraw_outlines_makes_boxes_tight_and_keeps_all_else() -> None:
    image, truth = scene(120, 160, (50, 60, 25), (110, 60, 20))
    frame = selected(image, np.stack([grown(m, -2) for m in truth]))
    drawn = redraw_outlines(frame, GUIDED)
    assert np.allclose(drawn.boxes, mask_ops.boxes_xyxy(mask_ops.encode_all(truth)), atol=1)
    for name in ("frame", "indices", "energy"):
        assert getattr(drawn, name) is getattr(frame, name)
    for name in ("scores", "margins", "confidences"):
        assert np.array_equal(getattr(drawn, name), getattr(frame, name))


def test_redraw_outlines_keeps_outlines_of_the_network() -> None:
    image, truth = scene(120, 160, (80, 60, 30))
    frame = selected(image, np.roll(truth, 2, axis=2))
    assert redraw_outlines(frame, NETWORK) is frame


def test_redraw_outlines_of_no_mask_is_no_work() -> None:
    frame = selected(np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8), bool))
    assert redraw_outlines(frame, GUIDED) is frame


@pytest.mark.parametrize(
    "image",
    [np.zeros((60, 80, 3), np.uint8), np.full((60, 80, 3), 255, np.uint8)],
    ids=["black", "overexposed"],
)
def test_redraw_outlines_keeps_masks_in_an_image_without_contrast(image: NDArray[np.uint8]) -> None:
    mask = np.zeros((1, 60, 80), bool)
    mask[0, 20:40, 30:50] = True
    frame = selected(image, mask)
    assert redraw_outlines(frame, GUIDED).rles == frame.rles


def test_redraw_outlines_keeps_masks_too_small_or_as_large_as_the_image() -> None:
    image, _ = scene(60, 80, (40, 30, 20))
    masks = np.zeros((2, 60, 80), bool)
    masks[0, 5:8, 5:8] = True
    masks[1] = ~masks[0]
    frame = selected(image, masks)
    assert redraw_outlines(frame, GUIDED).rles == frame.rles


def test_redraw_outlines_keeps_the_pixels_of_touching_objects_apart() -> None:
    image, truth = scene(120, 160, (55, 60, 25), (104, 60, 24))
    masks = truth.copy()
    masks[0, :, 78:82], masks[1, :, 78:82] = False, False  # nobody's
    drawn = redrawn(image, masks)
    assert not (drawn[0] & drawn[1]).any()
    assert not (drawn[0] & masks[1]).any() and not (drawn[1] & masks[0]).any()
    assert iou(drawn[0], truth[0]) > 0.97 and iou(drawn[1], truth[1]) > 0.97


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_redraw_outlines_of_random_masks_is_disjoint_and_deterministic(
    seed: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (rng.integers(8, 60), rng.integers(8, 60), 3)).astype(np.uint8)
    image = cv2.blur(image, (int(rng.integers(1, 9)),) * 2)
    labels = np.zeros(image.shape[:2], np.uint8)
    for value in range(1, count + 1):
        centre = tuple(int(rng.integers(0, n)) for n in image.shape[1::-1])
        axes = tuple(int(rng.integers(1, 20)) for _ in range(2))
        cv2.ellipse(labels, centre, axes, float(rng.integers(0, 180)), 0, 360, value, -1)
    masks = np.stack([m for v in range(1, count + 1) if (m := labels == v).any()])
    frame = selected(image, masks)
    drawn = redraw_outlines(frame, GUIDED)
    after = mask_ops.decode_all(drawn.rles, image.shape[:2])
    assert after.sum(axis=0).max() <= 1
    for i, mask in enumerate(masks):
        assert not (after[i] & (masks.any(axis=0) & ~mask)).any()
        assert iou(after[i], mask) >= 0.5
    assert redraw_outlines(frame, GUIDED).rles == drawn.rles


def test_with_outlines_redraws_every_frame_of_a_selection() -> None:
    image, truth = scene(120, 160, (80, 60, 30))
    frames = tuple(selected(image, np.roll(truth, by, axis=2)) for by in (0, 2))
    selection = Selection(
        clip_id=3, frames=frames, energy=1.0, lower_bound=1.0, optimal=True, flow_runs=2,
        model_version="v",
    )  # fmt: skip
    drawn = with_outlines(selection, GUIDED)
    assert [f.rles for f in drawn.frames] == [redraw_outlines(f, GUIDED).rles for f in frames]
    assert (drawn.clip_id, drawn.energy, drawn.flow_runs) == (3, 1.0, 2)
