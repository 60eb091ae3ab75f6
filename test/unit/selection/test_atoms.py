"""Atoms of masks by hand, and against the definition pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from gbopt_ros.masks import encode_all, make_exclusive
from gbopt_ros.selection.atoms import Atoms, atoms, atoms_of_rles

mask_stacks = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7).flatmap(
    lambda shape: arrays(bool, shape)
)


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """(4, 4) bool, bottom and right exclusive."""
    mask = np.zeros((4, 4), bool)
    mask[top:bottom, left:right] = True
    return mask


def label_image(found: Atoms) -> np.ndarray:
    """(H, W) the atom of each pixel, -1 where there is none."""
    labels = np.full(found.size[0] * found.size[1], -1)
    for start, length, label in zip(found.starts, found.lengths, found.labels, strict=True):
        assert np.all(labels[start : start + length] == -1)
        labels[start : start + length] = label
    return labels.reshape(found.size, order=found.order)


def test_atoms_of_more_masks_than_a_word_has_bits() -> None:
    masks = np.random.default_rng(0).random((130, 4, 6)) < 0.3
    found = atoms_of_rles(encode_all(masks), (4, 6))
    np.testing.assert_array_equal(
        found.membership[:, label_image(found)], masks
    )  # every pixel is covered by some mask


@pytest.mark.parametrize("decompose", [atoms, lambda m: atoms_of_rles(encode_all(m), m.shape[1:])])
def test_atoms_labels_at_a_smaller_size_show_the_middle_of_what_a_pixel_covers(decompose) -> None:
    masks = np.random.default_rng(5).random((3, 6, 8)) < 0.4
    found = decompose(masks)
    membership = np.column_stack([found.membership, np.zeros(3, bool)])
    np.testing.assert_array_equal(membership[:, found.labels_at((6, 8))], masks)
    np.testing.assert_array_equal(membership[:, found.labels_at((2, 4))], masks[:, 1::3, 1::2])


def test_atoms_of_rles_refuses_what_is_no_mask_of_the_size() -> None:
    rles = encode_all(rectangle(0, 0, 2, 3)[None])
    with pytest.raises(ValueError, match="mask 0"):
        atoms_of_rles(rles, (4, 5))
    with pytest.raises(ValueError, match="mask 0"):
        atoms_of_rles([{**rles[0], "counts": "~"}], (4, 4))
    with pytest.raises(ValueError, match="mask 1"):  # runs of 8, -1 and 9 pixels
        atoms_of_rles([rles[0], {**rles[0], "counts": "8O9"}], (4, 4))


def test_atoms_by_hand() -> None:
    masks = np.stack([rectangle(0, 0, 2, 3), rectangle(1, 2, 3, 4)])  # share pixel (1, 2)
    found = atoms(masks)
    assert sorted(zip(found.areas.tolist(), found.membership.T.tolist(), strict=True)) == [
        (1, [True, True]),
        (3, [False, True]),
        (5, [True, False]),
    ]
    np.testing.assert_array_equal(label_image(found) < 0, ~masks.any(axis=0))
    np.testing.assert_array_equal(found.intersections(), [[6, 1], [1, 4]])
    values = np.arange(16.0).reshape(4, 4)
    shared = int(np.flatnonzero(found.membership.all(axis=0))[0])
    assert found.sums(found.covered(values))[shared] == values[1, 2]


@pytest.mark.parametrize("decompose", [atoms, lambda m: atoms_of_rles(encode_all(m), m.shape[1:])])
@given(masks=mask_stacks, seed=st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_atoms_are_all_pixels_of_one_code(
    decompose: Callable[[np.ndarray], Atoms], masks: np.ndarray, seed: int
) -> None:
    found = decompose(masks)
    labels = label_image(found)
    codes = {tuple(masks[:, y, x].tolist()) for y, x in np.argwhere(masks.any(axis=0)).tolist()}
    # Each code that occurs is one atom, and each atom is such a code.
    assert len(found.areas) == len(codes)
    assert {tuple(column) for column in found.membership.T.tolist()} == codes
    for y, x in np.ndindex(masks.shape[1:]):
        label = labels[y, x]
        if label < 0:
            assert not masks[:, y, x].any()
        else:
            np.testing.assert_array_equal(found.membership[:, label], masks[:, y, x])
    values = np.random.default_rng(seed).normal(size=masks.shape[1:])
    sums = found.sums(found.covered(values))
    for atom, area in enumerate(found.areas):
        assert area == (labels == atom).sum() > 0
        assert sums[atom] == pytest.approx(values[labels == atom].sum())
    flat = masks.reshape(len(masks), -1).astype(int)
    np.testing.assert_array_equal(found.intersections(), flat @ flat.T)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_atoms_of_masks_without_pixels(n: int) -> None:
    found = atoms(np.zeros((n, 3, 5), bool))
    assert found.labels.shape == (0,)
    assert found.membership.shape == (n, 0)
    assert found.areas.shape == (0,)
    assert found.sums(found.covered(np.ones((3, 5)))).shape == (0,)
    np.testing.assert_array_equal(found.intersections(), np.zeros((n, n)))


def test_atoms_of_300_masks() -> None:
    masks = np.random.default_rng(0).random((300, 5, 7)) < 0.3
    shared = np.einsum("ahw,bhw->ab", masks.astype(int), masks.astype(int))
    of_rles = atoms_of_rles(encode_all(masks), (5, 7))
    np.testing.assert_array_equal(of_rles.intersections(), shared)
    np.testing.assert_array_equal(atoms(masks).intersections(), shared)


@given(mask_stacks, st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_exclusive_gives_a_shared_pixel_to_the_first_mask(masks: np.ndarray, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(masks))[: 1 + seed % len(masks)].tolist()
    found = atoms_of_rles(encode_all(masks), masks.shape[1:]).exclusive(order)
    assert found == encode_all(make_exclusive(masks[order], -np.arange(len(order))))


def test_exclusive_refuses_atoms_of_arrays() -> None:
    with pytest.raises(ValueError, match="atoms of encoded masks"):
        atoms(rectangle(0, 0, 2, 2)[None]).exclusive([0])
