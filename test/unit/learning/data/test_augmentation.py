"""Augmentation: image and masks move together, and nothing else about the labels changes."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbopt_ros.config import AugmentConfig
from gbopt_ros.learning.data.augmentation import (
    PADDING_VALUE,
    Example,
    augment,
    copy_paste,
    to_example,
)
from gbopt_ros.masks import encode_all
from gbopt_ros.models.catalogue import IMAGENET_MEAN
from gbopt_ros.structures import LabelledImage

NOTHING = {
    "scale_min": 1.0, "scale_max": 1.0, "copy_paste": 0.0, "flip": 0.0, "colour": 0.0,
    "blur": 0.0, "noise": 0.0,
}  # fmt: skip
COLOURS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 10]], np.uint8)
GROUND = (90, 30, 90)


def only(**changes: float) -> AugmentConfig:
    """Nothing is augmented but this."""
    return AugmentConfig(**(NOTHING | changes))


def painted(
    *boxes: tuple[int, int, int, int], size: tuple[int, int] = (64, 80), first: int = 0
) -> Example:
    """Rectangles (top, left, bottom, right), the i-th in colour `first` + i."""
    image = np.full((*size, 3), GROUND, np.uint8)
    masks = np.zeros((len(boxes), *size), bool)
    for i, (top, left, bottom, right) in enumerate(boxes):
        masks[:i, top:bottom, left:right] = False
        masks[i, top:bottom, left:right] = True
        image[masks[i]] = COLOURS[first + i]
    return Example(image, masks, np.ones(len(masks), bool))


def assert_aligned(example: Example) -> None:
    """Each mask is where its colour is, but for the pixels along its edge and the image's.

    Enlarged up to three times, colours mix within 1.5 pixels of an edge.
    """
    kernel = np.ones((5, 5), np.uint8)
    for colour in COLOURS:
        shown = np.all(example.image == colour, axis=2)
        inside = cv2.erode(shown.astype(np.uint8), kernel).astype(bool)
        overlaps = [int((mask & shown).sum()) for mask in example.masks]
        if max(overlaps, default=0) <= shown.sum() / 2:  # dropped as too small
            assert inside.sum() < AugmentConfig.min_pixels
            continue
        mask = example.masks[int(np.argmax(overlaps))]
        assert not (inside & ~mask).any()
        core = cv2.erode(mask.astype(np.uint8), kernel, borderValue=0).astype(bool)
        assert not (core & ~shown).any()


SCENE = painted((5, 5, 30, 40), (35, 10, 60, 30), (20, 45, 50, 75))


# -------------------------------------------------------------------------------------- geometry


def test_augment_of_zero_strength_changes_nothing() -> None:
    result = augment(SCENE, np.random.default_rng(0), only())
    np.testing.assert_array_equal(result.image, SCENE.image)
    np.testing.assert_array_equal(result.masks, SCENE.masks)


def test_augment_flip_mirrors_image_and_masks() -> None:
    result = augment(SCENE, np.random.default_rng(0), only(flip=1.0))
    np.testing.assert_array_equal(result.image, SCENE.image[:, ::-1])
    np.testing.assert_array_equal(result.masks, SCENE.masks[:, :, ::-1])
    assert result.image.flags.c_contiguous and result.masks.flags.c_contiguous


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), low=st.floats(0.3, 1.0), high=st.floats(1.0, 3.0))
def test_augment_scale_moves_image_and_masks_together(seed: int, low: float, high: float) -> None:
    config = only(scale_min=low, scale_max=high, flip=0.5)
    result = augment(SCENE, np.random.default_rng(seed), config)
    assert result.image.shape == SCENE.image.shape
    assert result.masks.shape[1:] == SCENE.masks.shape[1:]
    assert result.masks.sum(axis=0).max(initial=0) <= 1
    assert_aligned(result)


def test_padding_is_the_mean_that_networks_subtract() -> None:
    np.testing.assert_allclose(PADDING_VALUE, 255 * np.array(IMAGENET_MEAN), atol=0.5)  # RGB


@pytest.mark.parametrize("seed", range(5))
def test_augment_scale_pads_with_the_mean_colour(seed: int) -> None:
    config = only(scale_min=0.5, scale_max=0.5)
    example = painted((10, 10, 50, 60))
    result = augment(example, np.random.default_rng(seed), config)
    assert result.masks.sum() == pytest.approx(example.masks.sum() / 4, rel=0.1)
    padding = np.all(result.image == PADDING_VALUE, axis=2)
    assert padding.sum() == pytest.approx(0.75 * padding.size, rel=0.05)
    rows, columns = np.flatnonzero(~padding.all(axis=1)), np.flatnonzero(~padding.all(axis=0))
    assert rows[-1] - rows[0] + 1 == pytest.approx(32, abs=1)  # the whole image is still there
    assert columns[-1] - columns[0] + 1 == pytest.approx(40, abs=1)


@pytest.mark.parametrize("seed", range(5))
def test_augment_scale_crops_an_enlarged_image(seed: int) -> None:
    config = only(scale_min=2.0, scale_max=2.0)
    example = painted((0, 0, 64, 80))
    result = augment(example, np.random.default_rng(seed), config)
    assert result.masks.all()  # no padding
    dot = painted((28, 36, 36, 44))  # the middle is in every crop of half the side
    result = augment(dot, np.random.default_rng(seed), config)
    assert result.masks.sum() <= 4 * 64 + 16
    assert_aligned(result)


@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0])
def test_augment_enlarges_about_the_corners_of_the_pixels(factor: float) -> None:
    """A crop of an image of one colour has no other, though it may begin at the corner."""
    plain = Example(np.full((6, 7, 3), 200, np.uint8), np.ones((1, 6, 7), bool), np.ones(1, bool))
    for seed in range(20):
        config = only(scale_min=factor, scale_max=factor)
        assert (augment(plain, np.random.default_rng(seed), config).image == 200).all()


def test_augment_drops_small_instances() -> None:
    example = painted((0, 0, 6, 6), (20, 20, 25, 28), (40, 40, 43, 53))  # 36, 40 and 39 pixels
    result = augment(example, np.random.default_rng(0), only())
    np.testing.assert_array_equal(result.masks, example.masks[1:2])


def test_augment_of_an_image_without_instances() -> None:
    empty = Example(SCENE.image, np.zeros((0, 64, 80), bool), np.zeros(0, bool))
    result = augment(empty, np.random.default_rng(0), AugmentConfig())
    assert result.masks.shape == (0, 64, 80)
    assert copy_paste(empty, empty, np.random.default_rng(0)).masks.shape == (0, 64, 80)


def test_to_example_decodes_masks() -> None:
    example = to_example(LabelledImage(SCENE.image, encode_all(SCENE.masks)))
    np.testing.assert_array_equal(example.masks, SCENE.masks)
    assert to_example(LabelledImage(SCENE.image, ())).masks.shape == (0, 64, 80)


# --------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize("change", ["colour", "blur", "noise"])
def test_augment_of_colours_leaves_the_masks(change: str) -> None:
    result = augment(SCENE, np.random.default_rng(1), only(**{change: 1.0}))
    assert result.image.dtype == np.uint8
    assert not np.array_equal(result.image, SCENE.image)
    np.testing.assert_array_equal(result.masks, SCENE.masks)


def test_augment_grey_is_grey() -> None:
    image = augment(SCENE, np.random.default_rng(0), only(colour=1.0, grey=1.0)).image
    np.testing.assert_array_equal(image[..., 0], image[..., 1])
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_augment_colour_of_zero_strength_changes_nothing() -> None:
    config = only(colour=1.0, grey=0.0, brightness=0, contrast=0, saturation=0, hue=0)
    noise = np.random.default_rng(1).integers(0, 256, SCENE.image.shape, np.uint8)
    image = augment(replace(SCENE, image=noise), np.random.default_rng(0), config).image
    np.testing.assert_array_equal(image, noise)


def test_augment_hue_keeps_the_value_of_colours() -> None:
    config = only(colour=1.0, grey=0.0, brightness=0, contrast=0, saturation=0, hue=0.5)
    image = augment(SCENE, np.random.default_rng(0), config).image
    assert np.abs(image.astype(int) - SCENE.image).max() > 20
    value = image.max(axis=2).astype(int)
    assert np.abs(value - SCENE.image.max(axis=2)).max() <= 1


def test_augment_noise_strength() -> None:
    grey = Example(
        np.full((200, 200, 3), 128, np.uint8), np.zeros((0, 200, 200), bool), np.zeros(0, bool)
    )
    for seed in range(5):
        image = augment(grey, np.random.default_rng(seed), only(noise=1.0)).image
        assert 1.5 < image[..., 0].std() < 12.5
        assert image.mean() == pytest.approx(128, abs=0.3)


# ------------------------------------------------------------------------------------ copy-paste


def test_copy_paste_by_hand() -> None:
    target = painted((0, 0, 64, 40))  # the left half, red
    source = painted((10, 20, 50, 60), first=1)  # green, half of it over the left half
    result = copy_paste(target, source, np.random.default_rng(0))
    assert len(result.masks) == 2
    np.testing.assert_array_equal(result.masks[0], target.masks[0] & ~source.masks[0])
    np.testing.assert_array_equal(result.masks[1], source.masks[0])
    np.testing.assert_array_equal(result.image[14:46, 24:56], source.image[14:46, 24:56])
    far = np.ones((64, 80), bool)
    far[5:55, 15:65] = False
    np.testing.assert_array_equal(result.image[far], target.image[far])


def test_copy_paste_removes_a_covered_instance() -> None:
    target = painted((20, 30, 30, 40))
    source = painted((10, 20, 50, 60), first=1)
    result = copy_paste(target, source, np.random.default_rng(0))
    np.testing.assert_array_equal(result.masks, source.masks)


def test_copy_paste_without_a_source_instance() -> None:
    empty = Example(SCENE.image, np.zeros((0, 64, 80), bool), np.zeros(0, bool))
    assert copy_paste(SCENE, empty, np.random.default_rng(0)) is SCENE


def test_copy_paste_takes_random_subsets_that_are_never_empty() -> None:
    target = Example(SCENE.image, np.zeros((0, 64, 80), bool), np.zeros(0, bool))
    counts = {
        len(copy_paste(target, SCENE, np.random.default_rng(seed)).masks) for seed in range(30)
    }
    assert counts == {1, 2, 3}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_augment_and_copy_paste_keep_masks_disjoint(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def scene(first: int) -> Example:
        corners = rng.integers(0, 44, (2, 2))
        return painted(*[(y, x, y + 20, x + 20) for y, x in corners.tolist()], first=first)

    target, source = (augment(scene(i), rng, only(scale_min=0.6, scale_max=1.6)) for i in (0, 2))
    result = copy_paste(target, source, rng)
    assert result.masks.sum(axis=0).max(initial=0) <= 1
    assert (result.masks.sum(axis=(1, 2)) >= AugmentConfig.min_pixels).all()
    union = target.masks.any(axis=0) | source.masks.any(axis=0)
    assert not (result.masks.any(axis=0) & ~union).any()


def test_augment_and_copy_paste_do_not_change_their_inputs() -> None:
    image, masks = SCENE.image.copy(), SCENE.masks.copy()
    rng = np.random.default_rng(0)
    augment(SCENE, rng, AugmentConfig(colour=1.0, blur=1.0, noise=1.0))
    copy_paste(SCENE, SCENE, rng)
    np.testing.assert_array_equal(SCENE.image, image)
    np.testing.assert_array_equal(SCENE.masks, masks)


def test_augment_is_decided_by_the_seed() -> None:
    config = AugmentConfig(blur=1.0, noise=1.0)
    a, b, c = (augment(SCENE, np.random.default_rng(seed), config) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.masks, b.masks)
    assert not np.array_equal(a.image, c.image)


def test_copy_paste_does_not_paste_ignore_regions() -> None:
    known = np.array([True, False])
    target = replace(painted((2, 2, 20, 20), (30, 30, 50, 50)), is_object=known)
    source = replace(painted((2, 50, 20, 70), (40, 2, 60, 22), first=2), is_object=known)
    pasted = copy_paste(target, source, np.random.default_rng(0))
    assert pasted.is_object.tolist() == [True, False, True]
    assert (pasted.masks[2] == source.masks[0]).all()


# ------------------------------------------------------------------------ other sizes, foreground


@pytest.mark.parametrize(
    ("size", "scaled", "at"),
    [((64, 80), (64, 80), (0, 0)), ((32, 40), (32, 40), (0, 0)), ((32, 80), (32, 40), (0, 40))],
)
def test_augment_fits_an_example_into_another_size(
    size: tuple[int, int], scaled: tuple[int, int], at: tuple[int, int]
) -> None:
    """Scaled as a whole; what is left of the canvas is padding, at either side."""
    original = painted((8, 16, 40, 48))
    fitted = augment(original, np.random.default_rng(2), only(), size)
    assert fitted.image.shape == (*size, 3)
    rows, columns = (np.flatnonzero(fitted.masks[0].any(axis=axis)) for axis in (1, 0))
    factor = scaled[0] / 64
    assert abs(len(rows) - 32 * factor) <= 1 and abs(len(columns) - 32 * factor) <= 1
    assert abs(rows[0] - 8 * factor) <= 1
    left = columns[0] - 16 * factor
    assert -1 <= left <= at[1] + 1
    assert_aligned(fitted)


def test_augment_moves_the_foreground_with_the_image() -> None:
    example = painted((10, 20, 40, 50))
    example = replace(example, foreground=example.masks[0].astype(np.uint8) * 255)
    moved = augment(example, np.random.default_rng(4), only(flip=1.0, scale_min=0.7, scale_max=1.4))
    assert moved.foreground is not None
    differing = (moved.foreground > 127) != moved.masks[0]
    assert differing.sum() <= moved.masks[0].sum() * 0.1
    assert moved.foreground[0, 0] == 0


def test_copy_paste_marks_what_it_pastes_as_foreground() -> None:
    target = replace(painted((0, 0, 20, 20)), foreground=np.full((64, 80), 30, np.uint8))
    mixed = copy_paste(target, painted((30, 30, 50, 60), first=1), np.random.default_rng(0))
    assert mixed.foreground is not None
    assert (mixed.foreground[30:50, 30:60] == 255).all()
    assert (mixed.foreground[:20, :20] == 30).all()
    assert mixed.complete
    partial = copy_paste(
        replace(target, complete=False), painted((30, 30, 50, 60)), np.random.default_rng(0)
    )
    assert not partial.complete
